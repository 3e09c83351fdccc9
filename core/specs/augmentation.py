"""Slot `augmentation`: the differentiable transforms seen by losses and by network training."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, field_validator

from core.specs.base import Spec

Operation = Literal["color", "crop", "cutout", "flip", "scale", "rotate"]
OPERATIONS: tuple[Operation, ...] = ("color", "crop", "cutout", "flip", "scale", "rotate")


def _without_repetition(value: tuple[Operation, ...]) -> tuple[Operation, ...]:
    if len(set(value)) != len(value):
        raise ValueError("each operation may be listed once")
    return value


class DSASpec(Spec):
    """Differentiable siamese augmentation, one operation per call (Zhao & Bilen, arXiv:2102.08259)."""

    kind: Literal["dsa"] = "dsa"
    version: Literal[1] = 1
    strategy: tuple[Operation, ...] = Field(default=OPERATIONS, min_length=1, max_length=6)
    """Operations to choose from, each with equal probability; the real and the synthetic batch share every draw."""

    @field_validator("strategy")
    @classmethod
    def _distinct(cls, value: tuple[Operation, ...]) -> tuple[Operation, ...]:
        return _without_repetition(value)


class IDCAugmentationSpec(Spec):
    """The IDC family's composition: flip, colour and cutout whenever listed, and one of the other listed operations."""

    kind: Literal["idc"] = "idc"
    version: Literal[1] = 1
    strategy: tuple[Operation, ...] = Field(default=("color", "crop", "cutout"), min_length=1, max_length=6)
    """Operations, applied in the order flip, colour, the one that is drawn among crop, scale and rotate, cutout."""

    @field_validator("strategy")
    @classmethod
    def _distinct(cls, value: tuple[Operation, ...]) -> tuple[Operation, ...]:
        return _without_repetition(value)


class NoAugmentationSpec(Spec):
    """Images as they are."""

    kind: Literal["none"] = "none"
    version: Literal[1] = 1


AugmentationSpec = Annotated[DSASpec | IDCAugmentationSpec | NoAugmentationSpec, Field(discriminator="kind")]
