"""IID, second term: match how the channels of the last feature map vary together, every position a sample.

Deng et al., "Exploiting Inter-sample and Inter-feature Relations in Dataset Distillation", CVPR 2024, arXiv:2404.00563, as
its published code computes it: features are centred by channel and position; Sigma = 1/N sum_i Z_i Z_i' with Z_i (C, P),
so that positions add up; |Sigma_T - Sigma_S|_F^2, summed over classes.

Deviations: real images with shares enter mean and covariance by their share. With one synthetic image per class Sigma_S is 0
and so is the gradient.
Shapes: K classes, N real and M synthetic images per class, C channels, h w positions of the map, P = h w.
"""

from __future__ import annotations

from torch import Tensor

from core.distillation.moments import centred, image_weights
from core.distillation.plan import Draw, Plan
from core.distillation.protocols import Stateless
from core.distillation.step import Step
from core.specs.terms import LocalCovarianceSpec

TAP = "map"


class LocalCovariance(Stateless):
    """The distance of channel covariances in the last feature map."""

    def __init__(self, spec: LocalCovarianceSpec) -> None:
        self.weight = spec.weight

    def plan(self) -> Plan:
        """All synthetic images, and real images of every class."""
        return Plan(real=Draw(), taps=(TAP,))

    def value(self, step: Step) -> Tensor:
        """(K,) float32, >= 0, in features to the fourth power; 0 where both covariances are equal."""
        return squared_covariance_distance(step.features("real")[TAP], step.features("syn")[TAP], step.share)

    def update(self, step: Step) -> None:
        """Nothing follows an update."""


def squared_covariance_distance(real: Tensor, syn: Tensor, share: Tensor | None = None) -> Tensor:
    """(K, N, C, h, w) and (K, M, C, h, w) -> (K,); `real` is treated as constant, shares belong to it."""
    return (channel_covariance(real.detach(), share) - channel_covariance(syn)).square().sum((1, 2))


def channel_covariance(maps: Tensor, share: Tensor | None = None) -> Tensor:
    """(K, N, C, h, w) -> (K, C, C), float32 or wider: mean over images, sum over positions."""
    samples = centred(maps, share)
    weighted = samples * image_weights(samples, share)[:, :, None, None, None]
    rows, columns = (x.transpose(1, 2).flatten(2) for x in (weighted, samples))  # (K, C, N P)
    return rows @ columns.mT
