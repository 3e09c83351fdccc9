"""IID, first term: pull a class's synthetic features together under networks trained on the real set.

Deng et al., "Exploiting Inter-sample and Inter-feature Relations in Dataset Distillation", CVPR 2024, arXiv:2404.00563, as
its published code computes it: sum_j |phi(s_j) - mean_j phi(s_j)|^2, summed over classes, on the augmented decoded images;
phi is the input of the classifier of a network drawn from a pool of trained ones at each iteration.

Deviations: none from the published code, whose authors found the paper's exponential with a margin to give the same result.
With one synthetic image per class value and gradient are 0.
Shapes: K classes, M synthetic images per class, D features.
"""

from __future__ import annotations

import torch
from torch import Tensor

from core.distillation.moments import centred
from core.distillation.plan import Plan
from core.distillation.protocols import Stateless, Weights
from core.distillation.randomness import rng
from core.distillation.step import Step
from core.experts import Pool
from core.networks.network import Forward
from core.specs.terms import ClassCentralizationSpec

TAP = "flat"


class ClassCentralization(Stateless):
    """The spread of each class under a network of the pool, in evaluation mode."""

    def __init__(self, spec: ClassCentralizationSpec, pool: Pool, seed: int) -> None:
        self.weight = spec.weight
        self._pool = pool
        self._seed = seed
        self._forward = Forward.on(pool.params.device, pool.net, compile_passes=False)

    def plan(self) -> Plan:
        """All synthetic images; the matching network is not asked."""
        return Plan(own_activations=self._pool.net.activations_per_image)

    def value(self, step: Step) -> Tensor:
        """(K,) float32, >= 0, in squared feature units of the pool's networks."""
        features = step.taps(self._draw(step.number), self._forward, step.augmented("syn"), (TAP,))
        return spread(features[TAP])

    def update(self, step: Step) -> None:
        """Nothing follows an update."""

    def _draw(self, number: int) -> Weights:
        pool = self._pool
        index = int(torch.randint(len(pool.params), (), generator=rng(self._seed, "centralization", number)))
        return Weights(pool.net, pool.params[index], {name: value[index] for name, value in pool.buffers.items()}, index=index)


def spread(features: Tensor) -> Tensor:
    """(K, M, D) -> (K,): squared distances of each class's images from their mean, summed over images."""
    return centred(features).square().sum((1, 2))
