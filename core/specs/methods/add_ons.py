"""What papers plug into any base method: HaBa's factorization with its adversary, MIM4DD's mutual-information term.

Each is a function from a resolved base to the base with the add-on; a recipe is one call.
"""

from __future__ import annotations

from typing import Literal

from core.catalogue import DatasetInfo
from core.specs.methods.common import Resolved
from core.specs.methods.distribution_matching import dm
from core.specs.synthetic import BasesHallucinatorsSpec
from core.specs.terms import AdversarialContrastSpec, MutualInformationSpec

PUBLISHED_RATE = 100.0
"""Of bases and of hallucinators, under trajectories."""


def factorized(
    base: Resolved, *, lr_img: float = PUBLISHED_RATE, lr_hallucinator: float = PUBLISHED_RATE, momentum: float = 0.95,
    start: Literal["random", "near_identity"] = "random",
) -> Resolved:
    """A base whose images are bases through five hallucinators, against the adversary (HaBa: Liu et al., NeurIPS 2022).

    Bases fill the budget beside the hallucinators: 1, 9 and 49 of each class at ipc 1, 10 and 50 of CIFAR-10, where the
    published ratios are 0.038, 0.198 and 0.998 %. Rates and momentum are those of the published commands, which are for
    trajectories: a rate belongs to the scale of the base's gradient. The adversary weighs 0.1 at the published rate of 100, and
    as much more as a rate is lower, so that it moves the bases as far as there.
    """
    method = base.method
    optimizer = {"lr_img": lr_img, "lr_hallucinator": lr_hallucinator, "momentum": momentum}
    update = {
        "parameterization": BasesHallucinatorsSpec(start=start),
        "terms": (*method.terms, AdversarialContrastSpec(weight=0.1 * PUBLISHED_RATE / lr_img)),
        "optimizer": method.optimizer.model_copy(update=optimizer),
    }
    return Resolved(method.model_copy(update=update), base.evaluation)


def informed(base: Resolved) -> Resolved:
    """A base with the mutual-information term (MIM4DD: Shang et al., NeurIPS 2023): lambda 0.8, beta 2, one head a layer.

    The paper prints a rate of 0.1 for the set, halved twice, which fits none of its bases: the base's optimizer stays.
    """
    terms = (*base.method.terms, MutualInformationSpec())
    return Resolved(base.method.model_copy(update={"terms": terms}), base.evaluation)


def haba_dm(info: DatasetInfo, ipc: int) -> Resolved:
    """HaBa on DM; the paper claims a gain and no number is known.

    Deviations, for want of published settings: DM's rate and momentum for the bases, a thousandth of the rate for
    hallucinators, which gather the gradients of all images, and hallucinators that start near the identity.
    """
    base = dm(info, ipc)
    optimizer = base.method.optimizer
    return factorized(
        base, lr_img=optimizer.lr_img, lr_hallucinator=0.001 * optimizer.lr_img, momentum=optimizer.momentum,
        start="near_identity",
    )


def dm_mim4dd(info: DatasetInfo, ipc: int) -> Resolved:
    """MIM4DD's term on DM; a combination without a published row."""
    return informed(dm(info, ipc))
