"""DSDM: match the mean and the covariance of each class's features.

Li et al., "Diversified Semantic Distribution Matching for Dataset Distillation", ACM MM 2024, doi:10.1145/3664647.3680900:
prototype loss |mu_T - mu_S|^2 plus lambda_1 / D times |Cov_T - Cov_S|_F^2, summed over classes. The paper divides a
covariance by the number of images, its code by that number less one (`unbiased`). The third loss of the paper is the term
`historical_prototypes`.

No D x D matrix appears. With rows A, B such that Cov_T = A'A and Cov_S = B'B,
|A'A - B'B|_F^2 = |AA'|_F^2 + |BB'|_F^2 - 2 |AB'|_F^2.

Deviations: a class with one synthetic image has covariance 0 and no gradient from it, where the published code divides by
zero; real images with shares w get the weighted covariance, divided by 1 - sum w^2 if unbiased, which is the usual
(N - 1) / N where all shares are equal.
Shapes: K classes, N real and M synthetic images per class, D features.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from core.distillation.moments import centred
from core.distillation.objectives.mean_feature import TAP, squared_mean_distance
from core.distillation.plan import Draw, Plan
from core.distillation.protocols import Stateless
from core.distillation.step import Step
from core.specs.objective import GaussianSpec


class Gaussian(Stateless):
    """Prototype and covariance of the input of the classifier."""

    def __init__(self, spec: GaussianSpec) -> None:
        self.weight = spec.weight
        self._covariance_weight = spec.covariance_weight
        self._unbiased = spec.unbiased

    def plan(self) -> Plan:
        """All synthetic images, and real images of every class."""
        return Plan(real=Draw(), taps=(TAP,))

    def value(self, step: Step) -> Tensor:
        """(K,) float32, >= 0 up to rounding; 0 where both classes have equal means and covariances."""
        real, syn = step.features("real")[TAP], step.features("syn")[TAP]
        value = squared_mean_distance(real, syn, step.share)
        if self._covariance_weight:
            factor = self._covariance_weight / syn.shape[-1]
            value = value + factor * squared_covariance_distance(real, syn, step.share, unbiased=self._unbiased)
        return value

    def update(self, step: Step) -> None:
        """Nothing follows an update."""


def squared_covariance_distance(real: Tensor, syn: Tensor, share: Tensor | None = None, *, unbiased: bool = True) -> Tensor:
    """Squared Frobenius distance between the covariances of each class.

    Args:
        real: (K, N, D); treated as constant.
        syn: (K, M, D); gradient flows.
        share: (K, N), of the real images; they add up to 1.
        unbiased: divide by one image less.

    Returns:
        (K,) float32 or wider, in features to the fourth power; a difference, so rounding may take a 0 below zero.
    """
    a, b = _factor(real.detach(), share, unbiased=unbiased), _factor(syn, None, unbiased=unbiased)
    return _overlap(a, a) + _overlap(b, b) - 2.0 * _overlap(a, b)


def _factor(features: Tensor, share: Tensor | None, *, unbiased: bool) -> Tensor:
    """(K, N, D) rows A with A'A the covariance of each class."""
    rows = centred(features, share)
    if share is None:
        return rows / math.sqrt(max(rows.shape[1] - unbiased, 1))
    weights = share.to(rows.dtype)
    if unbiased:
        # One image that stands for its whole class leaves rows of 0, and 0 over anything positive is right.
        freedom = (1.0 - weights.square().sum(1, keepdim=True)).clamp(min=torch.finfo(rows.dtype).eps)
        weights = weights / freedom
    return weights.sqrt().unsqueeze(-1) * rows


def _overlap(a: Tensor, b: Tensor) -> Tensor:
    """Inner product of A'A and B'B, (K,), by the (K, N, M) products of their rows."""
    return (a @ b.mT).square().sum((1, 2))
