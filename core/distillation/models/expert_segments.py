"""Pieces of expert trajectories: each iteration draws an expert, and the epoch at which its piece starts.

Cazenavette et al., CVPR 2022, arXiv:2203.11932 (MTT); the window that begins late or grows is that of DATM (Guo et al.,
ICLR 2024, arXiv:2310.05773). Both draws follow from the number of the iteration. Snapshots stay where the pool keeps them, on
the host and read from its file when needed; two rows travel to the device in each iteration. Deviation: experts are drawn
independently (published: in shuffled order, each once before any again).
"""

from __future__ import annotations

import torch

from core.distillation.protocols import Stateless, Weights
from core.distillation.randomness import rng
from core.distillation.step import Step
from core.experts import Pool
from core.specs.models import ExpertSegmentsSpec


class ExpertSegments(Stateless):
    """Nothing moves, so nothing has to be kept."""

    def __init__(self, spec: ExpertSegmentsSpec, pool: Pool, seed: int) -> None:
        """Take a pool that kept its snapshots."""
        assert pool.snapshots is not None, "the pool was trained without keeping snapshots"
        self._spec, self._net, self._snapshots, self._seed = spec, pool.net, pool.snapshots, seed
        self._device = pool.params.device

    def next(self, number: int) -> Weights:
        """The expert's weights where the piece starts and, as target, where it ends."""
        spec, generator = self._spec, rng(self._seed, "segment", number)
        expert = int(torch.randint(len(self._snapshots), (), generator=generator))
        start = int(torch.randint(spec.min_start_epoch, spec.start_before(number), (), generator=generator))
        return Weights(
            self._net, self._snapshot(expert, start), target=self._snapshot(expert, start + spec.span_epochs),
            index=expert, age=number,
        )

    def _snapshot(self, expert: int, epoch: int) -> torch.Tensor:
        return self._snapshots[expert, epoch].to(self._device, non_blocking=True)

    def networks_done(self) -> int:
        """The experts serve to the end."""
        return 0

    def advance(self, step: Step) -> None:
        """They never move."""
