"""Evaluation protocols as frozen objects: what is trained on a distilled set, how, and how often.

A protocol is data. A preset is a function that fills one in for a data set, so that a job can name it and override any
field; the resolved job shows all of them.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

from pydantic import Field

from core.catalogue import DatasetInfo
from core.specs.augmentation import OPERATIONS, AugmentationSpec, DSASpec
from core.specs.base import Spec
from core.specs.network import NetworkSpec

ProtocolName = Literal["dm"]


class EvaluationSpec(Spec):
    """Train networks from scratch on the distilled set, read the test split once with the last iterate."""

    protocol: ProtocolName = "dm"
    version: Literal[1] = 1
    network: NetworkSpec
    num_eval: int = Field(default=5, ge=1, le=100)
    """Independently initialised networks; mean and sample standard deviation are over these."""

    num_epochs: int = Field(default=1000, ge=1, le=100_000)
    """E of the published loop, which passes E + 1 times over the set."""

    batch_size: int = Field(default=256, ge=1, le=65_536)
    """Synthetic images per step."""

    lr_net: float = Field(default=0.01, gt=0.0, le=100.0)
    """Initial learning rate of the networks; a tenth of it after epoch E // 2 + 1, with the momentum forgotten."""

    momentum: float = Field(default=0.9, ge=0.0, lt=1.0)
    weight_decay: float = Field(default=5e-4, ge=0.0, le=1.0)
    augmentation: AugmentationSpec
    """One operation per batch with parameters per image, for `dsa`."""

    random_draws: int = Field(default=3, ge=0, le=100)
    """Independent draws of random real images at the same budget, one network each; 0 leaves the baseline out."""

    check_8bit: bool = True
    """Also evaluate the clamped 8-bit images, as the PNG and parquet files hold them."""

    held_out_every_iterations: int = Field(default=0, ge=0, le=1_000_000)
    """Train one network on the synthetic set each so many iterations and test it on held-out training images; 0: never."""


def dm_protocol(info: DatasetInfo, network: NetworkSpec) -> EvaluationSpec:
    """The protocol of DC, DSA, DM, CAFE and IDM: 1000 epochs, one learning-rate drop, DSA without flip for digits."""
    strategy = tuple(op for op in OPERATIONS if op != "flip" or info.mirrored)
    return EvaluationSpec(protocol="dm", network=network, augmentation=DSASpec(strategy=strategy))


PROTOCOLS: dict[ProtocolName, Callable[[DatasetInfo, NetworkSpec], EvaluationSpec]] = {"dm": dm_protocol}
