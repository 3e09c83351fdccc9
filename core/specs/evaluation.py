"""Evaluation protocols as frozen objects: what is trained on a distilled set, how, and how often.

A protocol is data. A preset is a function that fills one in for a data set, so that a job can name it and override any
field; the resolved job shows all of them.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

from pydantic import Field, model_validator

from core.catalogue import DatasetInfo
from core.specs.augmentation import (
    OPERATIONS,
    AugmentationSpec,
    DSASpec,
    IDCAugmentationSpec,
    NoAugmentationSpec,
    Operation,
)
from core.specs.base import Spec
from core.specs.experts import RealTrainingSpec
from core.specs.init import ForgettingInitSpec, HerdingInitSpec, InitSpec, KCenterInitSpec
from core.specs.network import NetworkSpec

ProtocolName = Literal["dm", "cafe", "idc", "dc", "mtt"]
Baseline = Literal["herding", "k_center", "forgetting", "mosaic"]
_INITS: dict[Baseline, type[HerdingInitSpec | KCenterInitSpec | ForgettingInitSpec]] = {
    "herding": HerdingInitSpec, "k_center": KCenterInitSpec, "forgetting": ForgettingInitSpec,
}


class EvaluationSpec(Spec):
    """Train networks from scratch on the distilled set, read the test split once with the last iterate."""

    protocol: ProtocolName = "dm"
    version: Literal[1] = 1
    network: NetworkSpec
    cross_networks: tuple[NetworkSpec, ...] = Field(default=(), max_length=16)
    """Further architectures on which the distilled set and random selection are evaluated under the same protocol."""

    num_eval: int = Field(default=5, ge=1, le=100)
    """Independently initialised networks; mean and sample standard deviation are over these."""

    num_epochs: int = Field(default=1000, ge=1, le=100_000)
    """E of the published loop."""

    schedule: Literal["one_drop", "two_drops"] = "one_drop"
    """`one_drop` (DC): E + 1 passes, a tenth of the rate after pass E // 2 + 1, with the momentum forgotten. `two_drops` (IDC):
    E passes, a fifth of the rate after 2 E / 3 and again after 5 E / 6."""

    batch_size: int = Field(default=256, ge=1, le=65_536)
    """Synthetic images per step."""

    lr_net: float = Field(default=0.01, gt=0.0, le=100.0)
    """Initial learning rate of the networks."""

    use_learned_rate: bool = False
    """Train on the distilled set from the rate that was learned with it instead (objective `trajectory`); the baselines, which
    have none, keep `lr_net`."""

    momentum: float = Field(default=0.9, ge=0.0, lt=1.0)
    weight_decay: float = Field(default=5e-4, ge=0.0, le=1.0)
    augmentation: AugmentationSpec
    """One operation per batch with parameters per image, for `dsa`."""

    cutmix_probability: float = Field(default=0.0, ge=0.0, le=1.0)
    """Chance that CutMix mixes a batch."""

    random_draws: int = Field(default=3, ge=0, le=100)
    """Independent draws of random real images at the same budget, one network each; 0 leaves the comparison out."""

    baselines: tuple[Baseline, ...] = Field(default=(), max_length=4)
    """Further sets of real images at the same budget, `random_draws` networks each: coresets in the feature space of one
    trained network, and `mosaic`, random real images packed as the parameterization packs its own."""

    baseline_training: RealTrainingSpec = RealTrainingSpec(num_epochs=50)
    """How the network is trained on the real set in whose features, or by whose mistakes, the coresets are chosen."""

    check_8bit: bool = True
    """Also evaluate the clamped 8-bit images, as the PNG and parquet files hold them."""

    held_out_every_iterations: int = Field(default=0, ge=0, le=1_000_000)
    """Train one network on the synthetic set each so many iterations and test it on held-out training images; 0: never."""

    @model_validator(mode="after")
    def _baselines_are_trained_on(self) -> EvaluationSpec:
        if self.baselines and not self.random_draws:
            raise ValueError("baselines are trained on random_draws times each, which is 0; raise it or leave them out")
        return self

    def baseline_inits(self) -> dict[Baseline, InitSpec]:
        """How the coresets among the baselines are chosen, by name."""
        return {name: _INITS[name](training=self.baseline_training) for name in self.baselines if name in _INITS}


def dm_protocol(info: DatasetInfo, network: NetworkSpec) -> EvaluationSpec:
    """The protocol of DSA, DM, CAFE+DSA and IDM: 1000 epochs, one learning-rate drop, DSA without flip for digits."""
    strategy = tuple(op for op in OPERATIONS if op != "flip" or info.mirrored)
    return EvaluationSpec(protocol="dm", network=network, augmentation=DSASpec(strategy=strategy))


def cafe_protocol(info: DatasetInfo, network: NetworkSpec) -> EvaluationSpec:
    """CAFE's own: as `dm`, for 600 epochs and without augmentation."""
    plain = {"protocol": "cafe", "num_epochs": 600, "augmentation": NoAugmentationSpec()}
    return dm_protocol(info, network).model_copy(update=plain)


def dc_protocol(info: DatasetInfo, network: NetworkSpec) -> EvaluationSpec:
    """That of DC and DCC: as `dm`, for 300 epochs and without augmentation (published on MNIST: 1000, augmented)."""
    plain = {"protocol": "dc", "num_epochs": 300, "augmentation": NoAugmentationSpec()}
    return dm_protocol(info, network).model_copy(update=plain)


def idc_protocol(info: DatasetInfo, network: NetworkSpec) -> EvaluationSpec:
    """The protocol of IDC, DREAM, M3D and DSDM: batches of 64, two drops, the IDC family's augmentation, CutMix.

    Published without CutMix on MNIST; here on every set whose images must not be mirrored and have one channel.
    """
    strategy: tuple[Operation, ...] = ("color", "crop", "flip", "scale", "rotate")
    digits = not info.mirrored and info.channels == 1
    return EvaluationSpec(
        protocol="idc", network=network, schedule="two_drops", batch_size=64, cutmix_probability=0.0 if digits else 0.5,
        augmentation=IDCAugmentationSpec(strategy=tuple(op for op in strategy if op != "flip" or info.mirrored)),
    )


def mtt_protocol(info: DatasetInfo, network: NetworkSpec) -> EvaluationSpec:
    """The protocol of MTT, TESLA and DATM: as `dm`, at the learned rate.

    Deviation: those papers report the best of all evaluations along a run; here the last iterate is judged.
    """
    return dm_protocol(info, network).model_copy(update={"protocol": "mtt", "use_learned_rate": True})


PROTOCOLS: dict[ProtocolName, Callable[[DatasetInfo, NetworkSpec], EvaluationSpec]] = {
    "dm": dm_protocol, "cafe": cafe_protocol, "idc": idc_protocol, "dc": dc_protocol, "mtt": mtt_protocol,
}
