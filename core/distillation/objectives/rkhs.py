"""M3D: match the embeddings of each class in a reproducing kernel Hilbert space (maximum mean discrepancy).

Zhang et al., "M3D: Dataset Condensation by Minimizing Maximum Mean Discrepancy", AAAI 2024, arXiv:2312.15927, the biased
estimate: mean k(s, s') - 2 mean k(s, r) + mean k(r, r'), diagonals included, summed over classes. The Gaussian kernel is
the published code's: sum over q of exp(-|x - y|^2 / (h q)) with h the mean squared distance between different images of
the class, real and synthetic together, without gradient. The linear kernel is the DM loss.

Deviations: squared distances come from inner products, clamped at 0, where the code squares a rooted distance (same
gradient, no root, exact zeros for an image and itself); where all images of a class coincide, h is 1 instead of 0; real
images with shares enter the means by their share, and h by number. The code's kernel named Laplace is left out: it is a
Gaussian with widths that underflow to 0 on raw features.
Shapes: K classes, N real and M synthetic images per class, B = M + N, D features.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import assert_never

import torch
from torch import Tensor

from core.distillation.moments import image_weights, widened
from core.distillation.objectives.mean_feature import TAP, squared_mean_distance
from core.distillation.plan import Draw, Plan
from core.distillation.protocols import Stateless
from core.distillation.step import Step
from core.specs.objective import RKHSSpec

Kernel = Callable[[Tensor], Tensor]
"""(K, B, D) images of each class -> (K, B, B), every pair."""


class RKHS(Stateless):
    """The squared maximum mean discrepancy of the input of the classifier."""

    def __init__(self, spec: RKHSSpec) -> None:
        self.weight = spec.weight
        self._distance = _distance(spec)

    def plan(self) -> Plan:
        """All synthetic images, and real images of every class."""
        return Plan(real=Draw(), taps=(TAP,))

    def value(self, step: Step) -> Tensor:
        """(K,) float32, >= 0 up to rounding; for `gaussian` without unit and at most twice the number of bandwidths."""
        return self._distance(step.features("real")[TAP], step.features("syn")[TAP], step.share)

    def update(self, step: Step) -> None:
        """Nothing follows an update."""


def squared_discrepancy(real: Tensor, syn: Tensor, share: Tensor | None = None, *, kernel: Kernel) -> Tensor:
    """Squared distance between the mean embeddings of each class.

    Args:
        real: (K, N, D); treated as constant.
        syn: (K, M, D); gradient flows.
        share: (K, N), of the real images; they add up to 1.
        kernel: of all pairs at once, so that it may look at their spread.

    Returns:
        (K,) float32 or wider.
    """
    syn, real = widened(syn), widened(real.detach())
    # The three means are one quadratic form: synthetic images count 1 / M each, real ones less their share.
    signed = torch.cat([image_weights(syn), -image_weights(real, share)], 1)
    images = torch.cat([syn, real], 1)
    return (signed.unsqueeze(1) @ kernel(images) @ signed.unsqueeze(2)).flatten()


def gaussian_kernel(images: Tensor, bandwidths: Sequence[float]) -> Tensor:
    """Sum of Gaussian kernels with widths relative to the mean squared distance between different images, (K, B, B)."""
    products = images @ images.mT
    norms = products.diagonal(dim1=1, dim2=2)  # rather than sums of squares: an image is then at 0 from itself exactly
    squared = (norms.unsqueeze(2) + norms.unsqueeze(1) - 2.0 * products).clamp(min=0.0)
    count = images.shape[1]
    spread = squared.detach().sum((1, 2), keepdim=True) / (count * (count - 1))
    relative = squared / torch.where(spread > 0.0, spread, 1.0)
    return torch.stack([torch.exp(-relative / bandwidth) for bandwidth in bandwidths]).sum(0)


def polynomial_kernel(images: Tensor) -> Tensor:
    """(x.y + 1)^2, (K, B, B)."""
    return (images @ images.mT + 1.0).square()


def _distance(spec: RKHSSpec) -> Callable[[Tensor, Tensor, Tensor | None], Tensor]:
    match spec.kernel:
        case "linear":
            return squared_mean_distance
        case "polynomial":
            return partial(squared_discrepancy, kernel=polynomial_kernel)
        case "gaussian":
            return partial(squared_discrepancy, kernel=partial(gaussian_kernel, bandwidths=spec.bandwidths))
        case _:
            assert_never(spec.kernel)
