"""Networks trained on the real set before distillation; each iteration draws one of them uniformly (DSDM).

Li et al., DSDM, ACM MM 2024: 10 networks, 20 epochs. Deviation: the pool stays in memory; the published code reads a file at
each step.
"""

from __future__ import annotations

import torch

from core.distillation.protocols import Stateless, Weights
from core.distillation.randomness import rng
from core.distillation.step import Step
from core.experts import Pool


class PretrainedPool(Stateless):
    """Nothing moves, so nothing has to be kept: the draw of an iteration follows from its number."""

    def __init__(self, pool: Pool, seed: int) -> None:
        self._pool = pool
        self._seed = seed

    def next(self, number: int) -> Weights:
        """A uniformly drawn network, with its training accuracy."""
        pool = self._pool
        index = int(torch.randint(len(pool.params), (), generator=rng(self._seed, "pool", number)))
        buffers = {name: value[index] for name, value in pool.buffers.items()}
        return Weights(pool.net, pool.params[index], buffers, index=index, age=number, accuracy=pool.accuracy[index])

    def networks_done(self) -> int:
        """The pool serves to the end."""
        return 0

    def advance(self, step: Step) -> None:
        """It never moves."""
