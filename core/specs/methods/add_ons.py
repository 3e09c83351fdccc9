"""What papers plug into any base method: HaBa's factorization with its adversary, MIM4DD's mutual-information term.

Each is a function from a resolved base to the base with the add-on; a recipe is one call.
"""

from __future__ import annotations

from typing import Literal

from core.catalogue import DatasetInfo
from core.specs.init import NoiseInitSpec, RandomInitSpec
from core.specs.methods.common import Resolved, nearest
from core.specs.methods.distribution_matching import dm
from core.specs.methods.gradient_matching import dc, dream, dsa
from core.specs.methods.trajectory_matching import MTTRow, matched, mtt
from core.specs.synthetic import BasesHallucinatorsSpec
from core.specs.terms import AdversarialContrastSpec, MutualInformationSpec

PUBLISHED_RATE = 100.0
"""Of bases and of hallucinators, under trajectories."""

PUBLISHED_WEIGHT = 0.8
PRINTED_RATE = 0.1
"""Of the mutual-information term, and of the set beside it."""


def factorized(
    base: Resolved, *, lr_img: float = PUBLISHED_RATE, lr_hallucinator: float = PUBLISHED_RATE, momentum: float = 0.95,
    start: Literal["random", "near_identity"] = "random",
) -> Resolved:
    """A base whose images are bases through five hallucinators, against the adversary (HaBa: Liu et al., NeurIPS 2022).

    Bases fill the budget beside the hallucinators: 1, 9 and 49 of each class at ipc 1, 10 and 50 of CIFAR-10, where the
    published ratios are 0.038, 0.198 and 0.998 %. Rates and momentum are those of the published commands, which are for
    trajectories: a rate belongs to the scale of the base's gradient. The adversary weighs 0.1 at the published rate of 100, and
    as much more as a rate is lower, so that it moves the bases as far as there. Bases start from real images, also where the
    base's own set starts from noise.
    """
    method = base.method
    optimizer = {"lr_img": lr_img, "lr_hallucinator": lr_hallucinator, "momentum": momentum}
    update = {
        "parameterization": BasesHallucinatorsSpec(start=start),
        "terms": (*method.terms, AdversarialContrastSpec(weight=0.1 * PUBLISHED_RATE / lr_img)),
        "optimizer": method.optimizer.model_copy(update=optimizer),
        "init": RandomInitSpec() if isinstance(method.init, NoiseInitSpec) else method.init,
    }
    return Resolved(method.model_copy(update=update), base.evaluation)


def informed(base: Resolved, *, weight: float = PUBLISHED_WEIGHT) -> Resolved:
    """A base with the mutual-information term (MIM4DD: Shang et al., NeurIPS 2023): lambda 0.8, beta 2, one head a layer.

    The paper prints a rate of 0.1 for the set, halved twice, which fits none of its bases: the base's optimizer stays.
    """
    terms = (*base.method.terms, MutualInformationSpec(weight=weight))
    return Resolved(base.method.model_copy(update={"terms": terms}), base.evaluation)


HABA: dict[tuple[str, int], MTTRow] = {
    ("cifar10", 1): MTTRow(50, 2, 2, PUBLISHED_RATE, 1e-7, 0.01, zca=True),
    ("cifar10", 10): MTTRow(30, 2, 20, PUBLISHED_RATE, 1e-5, 0.001, zca=True),
    ("cifar10", 50): MTTRow(30, 2, 20, PUBLISHED_RATE, 1e-5, 0.01, zca=True),
}
"""The published commands."""


def haba(info: DatasetInfo, ipc: int) -> Resolved:
    """HaBa: Liu et al., "Dataset Distillation via Factorization", NeurIPS 2022, arXiv:2210.16774, on trajectories.

    MTT with the settings of HaBa's own commands, which are for CIFAR-10: 15,000 iterations, all bases in each step, whitened,
    the learned rate at least 0.001. Other sets take them from the nearest ipc, without whitening. Published on CIFAR-10 at
    ipc 10 (as quoted by DREAM): 69.9 %. Deviations: the learned rate has the momentum of the bases (published: 0.9); batches
    are not standardised one by one, in training and in tests, as the published code does outside its inner loop.
    """
    row = nearest(HABA, info, ipc)
    base = matched(info, row if info.name == "cifar10" else row._replace(zca=False), num_iterations=15_000)
    objective = base.method.objective.model_copy(update={"lr_net_min": 0.001})
    return factorized(Resolved(base.method.model_copy(update={"objective": objective}), base.evaluation))


def haba_dm(info: DatasetInfo, ipc: int) -> Resolved:
    """HaBa on DM; the paper claims a gain and no number is known."""
    return _beside(dm(info, ipc))


def haba_dc(info: DatasetInfo, ipc: int) -> Resolved:
    """HaBa on DC; the paper claims a gain and no number is known."""
    return _beside(dc(info, ipc))


def haba_dsa(info: DatasetInfo, ipc: int) -> Resolved:
    """HaBa on DSA; the paper claims a gain and no number is known."""
    return _beside(dsa(info, ipc))


def _beside(base: Resolved) -> Resolved:
    """HaBa where no settings were published.

    Deviations, for want of them: the base's rate and momentum for the bases, a thousandth of the rate for hallucinators, which
    gather the gradients of all images, and hallucinators that start near the identity.
    """
    optimizer = base.method.optimizer
    return factorized(
        base, lr_img=optimizer.lr_img, lr_hallucinator=0.001 * optimizer.lr_img, momentum=optimizer.momentum,
        start="near_identity",
    )


def dm_mim4dd(info: DatasetInfo, ipc: int) -> Resolved:
    """MIM4DD's term on DM; a combination without a published row."""
    return informed(dm(info, ipc))


def dream_mim4dd(info: DatasetInfo, ipc: int) -> Resolved:
    """MIM4DD's term on DREAM. Published on CIFAR-10 at ipc 10: 70.8 %, 1.4 points above DREAM."""
    return informed(dream(info, ipc))


def mtt_mim4dd(info: DatasetInfo, ipc: int) -> Resolved:
    """MIM4DD's term on MTT, under the weights from which an expert's piece starts, with real images of its own.

    Published on CIFAR-10 at ipc 10: 66.4 %, 1.1 points above MTT. Deviation: MTT's rates of 100 and more fit a loss whose
    gradient is that much smaller, so that the published weight of 0.8 drowned it (digits, ipc 2, 40 iterations: 22 % beside
    MTT's 74 %); the term weighs as much less as the rate is above the 0.1 that the paper prints.
    """
    base = mtt(info, ipc)
    return informed(base, weight=PUBLISHED_WEIGHT * PRINTED_RATE / base.method.optimizer.lr_img)
