"""Slots `parameterization`, `labels`, `init` and `optimizer`: how the synthetic set is stored, started and moved."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from core.specs.base import Spec


class PixelsSpec(Spec):
    """One learned pixel per stored scalar: ipc images per class, in network space, not clamped (DC, DM)."""

    kind: Literal["pixels"] = "pixels"
    version: Literal[1] = 1


ParameterizationSpec = PixelsSpec


class HardLabelsSpec(Spec):
    """Every synthetic image carries its class index."""

    kind: Literal["hard"] = "hard"
    version: Literal[1] = 1


LabelsSpec = HardLabelsSpec


class RandomInitSpec(Spec):
    """Real images drawn uniformly within each class, without replacement. With 0 iterations: random selection."""

    kind: Literal["random"] = "random"
    version: Literal[1] = 1


class NoiseInitSpec(Spec):
    """Independent N(0, 1) pixels in network space."""

    kind: Literal["noise"] = "noise"
    version: Literal[1] = 1


InitSpec = Annotated[RandomInitSpec | NoiseInitSpec, Field(discriminator="kind")]


class SGDSpec(Spec):
    """Stochastic gradient descent with momentum on the synthetic set: one joint step per iteration."""

    kind: Literal["sgd"] = "sgd"
    version: Literal[1] = 1
    lr_img: float = Field(default=1.0, gt=0.0, le=1e6)
    """Learning rate of the synthetic images, in network-space units per unit of gradient."""

    momentum: float = Field(default=0.5, ge=0.0, lt=1.0)
    """Momentum, without dampening and without Nesterov's correction."""


OptimizerSpec = SGDSpec
