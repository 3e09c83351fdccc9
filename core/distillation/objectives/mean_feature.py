"""DM: match the class means of real and synthetic features under a randomly drawn network.

Zhao & Bilen, "Dataset Condensation with Distribution Matching", WACV 2023, arXiv:2110.04181, eq. (6):
sum over classes of || mean_i R_c[i] - mean_j S_c[j] ||^2, summed over the D features. Deviations: none.
Shapes: K classes, N real and M synthetic images per class, D features.
"""

from __future__ import annotations

from torch import Tensor

from core.distillation.moments import class_mean
from core.distillation.plan import Draw, Plan
from core.distillation.protocols import Stateless
from core.distillation.step import Step
from core.specs.objective import MeanFeatureSpec

TAP = "flat"


class MeanFeature(Stateless):
    """The DM loss on the input of the classifier."""

    def __init__(self, spec: MeanFeatureSpec) -> None:
        self.weight = spec.weight

    def plan(self) -> Plan:
        """All synthetic images, and real images of every class."""
        return Plan(real=Draw(), taps=(TAP,))

    def value(self, step: Step) -> Tensor:
        """(K,) float32, >= 0, in squared feature units; 0 where both class means are equal."""
        return squared_mean_distance(step.features("real")[TAP], step.features("syn")[TAP], step.share)

    def update(self, step: Step) -> None:
        """Nothing follows an update."""


def squared_mean_distance(real: Tensor, syn: Tensor, share: Tensor | None = None) -> Tensor:
    """(K, N, ...) and (K, M, ...) -> (K,), the squared distance between the means of each class; shares belong to `real`."""
    return (class_mean(real, share) - class_mean(syn)).square().flatten(1).sum(1)
