"""From a specification of the slot `augmentation` to the object that fills it. mypy fails here until a new kind has its arm."""

from __future__ import annotations

from typing import assert_never

from core.distillation.augmentation.dsa import DSA
from core.distillation.augmentation.idc import IDCAugmentation
from core.distillation.augmentation.none import Identity
from core.distillation.protocols import Augmentation
from core.specs.augmentation import AugmentationSpec, DSASpec, IDCAugmentationSpec, NoAugmentationSpec


def build_augmentation(spec: AugmentationSpec, *, deterministic: bool = False) -> Augmentation:
    """Slot `augmentation`, for matching and for network training alike; `deterministic` concerns gradients on CUDA."""
    match spec:
        case DSASpec():
            return DSA(spec, deterministic=deterministic)
        case IDCAugmentationSpec():
            return IDCAugmentation(spec, deterministic=deterministic)
        case NoAugmentationSpec():
            return Identity()
        case _:
            assert_never(spec)
