"""DSDM, third loss: keep a class's synthetic mean near the moving average of its past means.

Li et al., "Diversified Semantic Distribution Matching for Dataset Distillation", ACM MM 2024, doi:10.1145/3664647.3680900:
|mu_S - h|^2 summed over classes, and after each update h <- decay h + (1 - decay) mu, where mu is the mean feature of the
updated set. As in the published code, mu is taken under a fresh augmentation draw and the iteration's network, one average
serves all networks, its first value is the first mu (the paper starts from 0), the loss counts from `start_iteration` on
(the paper: from the second) and is divided by D (the paper: not; `per_feature`).

Deviations: none from the published code.
Shapes: K classes, M synthetic images per class, D features.
"""

from __future__ import annotations

import torch
from torch import Tensor

from core.distillation.moments import class_mean
from core.distillation.objectives.mean_feature import TAP
from core.distillation.plan import Draw, Plan
from core.distillation.step import Step
from core.networks.network import Tensors
from core.specs.terms import HistoricalPrototypesSpec


class HistoricalPrototypes:
    """Keeps one average feature for each class."""

    def __init__(self, spec: HistoricalPrototypesSpec) -> None:
        self.weight = spec.weight
        self._decay = spec.decay
        self._start = spec.start_iteration
        self._per_feature = spec.per_feature
        self._average: Tensor | None = None
        """(K, D) float32, from the first update on."""

    def plan(self) -> Plan:
        """All synthetic images."""
        return Plan(taps=(TAP,))

    def value(self, step: Step) -> Tensor:
        """(K,) float32, >= 0, in squared feature units; constant zeros before the first iteration that counts."""
        if step.number < self._start:
            return torch.zeros(step.stop - step.start, device=step.syn.images.device)
        assert self._average is not None, "no iteration went before"
        return squared_distance(step.features("syn")[TAP], self._average[step.start : step.stop], per_feature=self._per_feature)

    @torch.no_grad()
    def update(self, step: Step) -> None:
        """Take the means of the updated set into the average."""
        images, _ = step.fresh(Draw(), "history/draw")
        transform = step.augmentation.draw(len(images), step.rng("history/augmentation"))
        features = step.taps(step.weights, step.forward, transform.apply(images), (TAP,))
        mean = class_mean(features[TAP])
        self._average = mean if self._average is None else torch.lerp(mean, self._average, self._decay)

    def parameters(self) -> dict[str, list[Tensor]]:
        """None; the average follows the set."""
        return {}

    def state(self) -> Tensors:
        """The average, once there is one."""
        return {} if self._average is None else {"average": self._average}

    def load(self, state: Tensors) -> None:
        """Take the average back."""
        self._average = state.get("average")


def squared_distance(features: Tensor, prototypes: Tensor, *, per_feature: bool) -> Tensor:
    """(K, M, D) and (K, D) -> (K,): squared distance of each class's mean from its prototype, over D if `per_feature`."""
    squares = (class_mean(features) - prototypes).square()
    return squares.mean(1) if per_feature else squares.sum(1)
