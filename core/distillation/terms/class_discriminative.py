"""CAFE, second loss: real features must be recognised by their inner products with the synthetic class means.

Wang et al., "CAFE: Learning to Condense Dataset by Aligning Features", CVPR 2022, arXiv:2203.01531, as its published code
computes it: logit[i, c] = r_i . mean_j s_cj, cross-entropy with the class of i, summed over all real images.

Deviations: real features are constant, as the published code makes its backward pass run through them to no effect; a real
image with share w counts N w times.
Shapes: K classes, N real and M synthetic images per class, D features.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from core.distillation.moments import class_mean, widened
from core.distillation.objectives.mean_feature import TAP
from core.distillation.plan import Draw, Plan
from core.distillation.protocols import Stateless
from core.distillation.step import Step
from core.specs.terms import ClassDiscriminativeSpec


class ClassDiscriminative(Stateless):
    """Cross-entropy of the real images under the classifier that the synthetic class means make up."""

    def __init__(self, spec: ClassDiscriminativeSpec) -> None:
        self.weight = spec.weight

    def plan(self) -> Plan:
        """Every class at once, for each is told from all others."""
        return Plan(real=Draw(), taps=(TAP,), separable=False)

    def value(self, step: Step) -> Tensor:
        """(K,) float32, >= 0, in nats: the cross-entropy of each class's real images, summed."""
        return summed_cross_entropy(step.features("real")[TAP], step.features("syn")[TAP], step.share)

    def update(self, step: Step) -> None:
        """Nothing follows an update."""


def summed_cross_entropy(real: Tensor, syn: Tensor, share: Tensor | None = None) -> Tensor:
    """(K, N, D) and (K, M, D) -> (K,); gradient flows to `syn`, the shares belong to `real`."""
    logits = widened(real.detach()) @ class_mean(syn).mT  # (K, N, K)
    classes = torch.arange(len(real), device=real.device).unsqueeze(1).expand(real.shape[:2])
    losses = F.cross_entropy(logits.flatten(0, 1), classes.flatten(), reduction="none").view(classes.shape)
    return losses.sum(1) if share is None else real.shape[1] * (share.to(losses.dtype) * losses).sum(1)
