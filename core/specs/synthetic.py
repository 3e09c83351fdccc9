"""Slots `parameterization`, `labels` and `optimizer`: how the synthetic set is stored and moved."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from core.specs.base import Spec

PixelSpace = Literal["normalised", "unit"]
"""`normalised`: network space, not clamped. `unit`: stored in [0, 1], clamped after each update, normalised when decoded."""


class PixelsSpec(Spec):
    """One learned pixel per stored scalar: ipc images per class (DC, DM)."""

    kind: Literal["pixels"] = "pixels"
    version: Literal[1] = 1
    space: PixelSpace = "normalised"
    """Where pixels live; a learning rate means nothing without it."""


class MultiFormationSpec(Spec):
    """Each stored image is cut into cells and every cell enlarged to a full image (IDC, IDM, M3D, DSDM)."""

    kind: Literal["multi_formation"] = "multi_formation"
    version: Literal[1] = 1
    factor: int = Field(default=2, ge=2, le=8)
    """Cells along each cut axis."""

    axes: Literal["both", "time"] = "both"
    """`time` cuts the width only, for spectrograms."""

    space: PixelSpace = "unit"
    """Where pixels live; a learning rate means nothing without it."""

    shrink: Literal["mean", "nearest"] = "mean"
    """How a real image becomes the start of a cell: mean of the pixels that fall together (IDM), or every factor-th (IDC)."""

    max_per_class: int = Field(default=0, ge=0, le=100_000)
    """Decoded images per class that an iteration sees, drawn anew each time; 0 means all."""


class BasesHallucinatorsSpec(Spec):
    """Bases of each class, and affine networks shared by all of them: any basis through any hallucinator is an image (HaBa)."""

    kind: Literal["bases_hallucinators"] = "bases_hallucinators"
    version: Literal[1] = 1
    num_bases_per_class: int = Field(default=0, ge=0, le=100_000)
    """0 means as many as the budget of `ipc` images per class holds beside the hallucinators, and at least one."""

    num_hallucinators: int = Field(default=5, ge=1, le=100)
    hidden_channels: int = Field(default=0, ge=0, le=64)
    """Channels between the two convolutions of a hallucinator; 0 means as many as an image has (published)."""

    basis_channels: Literal["image", "one"] = "image"
    """`one`: a basis has one channel and starts from the mean of a real image's; three times as many then fit a colour set."""

    hallucinators_per_basis: int = Field(default=1, ge=0, le=100)
    """Different hallucinators, drawn anew, through which an iteration of a class-wise loss sees each basis; 0 means all."""

    start: Literal["random", "near_identity"] = "random"
    """What a hallucinator does at first: what PyTorch's default weights do (published), or nearly nothing."""

    @model_validator(mode="after")
    def _enough_hallucinators(self) -> BasesHallucinatorsSpec:
        if self.hallucinators_per_basis > self.num_hallucinators:
            raise ValueError(
                f"hallucinators_per_basis is {self.hallucinators_per_basis}, but num_hallucinators is {self.num_hallucinators}"
            )
        return self


ParameterizationSpec = Annotated[
    PixelsSpec | MultiFormationSpec | BasesHallucinatorsSpec, Field(discriminator="kind")
]


class HardLabelsSpec(Spec):
    """Every synthetic image carries its class index."""

    kind: Literal["hard"] = "hard"
    version: Literal[1] = 1


class LearnedLabelsSpec(Spec):
    """DATM: every synthetic image carries learned logits, and is labelled by their softmax.

    They start from the mean logits of those networks of slot `models` that label the image rightly.
    """

    kind: Literal["learned"] = "learned"
    version: Literal[1] = 1


class TeacherLabelsSpec(Spec):
    """TESLA: every synthetic image is labelled by the softmax outputs of a trained network of slot `models`."""

    kind: Literal["teacher"] = "teacher"
    version: Literal[1] = 1
    teacher: Literal["drawn", "first"] = "drawn"
    """`drawn`: the network of the iteration, at the end of its piece where it is one of a trajectory; the labels given last
    stay with the set. `first`: the first network of the pool, fully trained."""


LabelsSpec = Annotated[HardLabelsSpec | LearnedLabelsSpec | TeacherLabelsSpec, Field(discriminator="kind")]


class SGDSpec(Spec):
    """Stochastic gradient descent with momentum on the synthetic set: one joint step per iteration."""

    kind: Literal["sgd"] = "sgd"
    version: Literal[1] = 1
    lr_img: float = Field(default=1.0, gt=0.0, le=1e6)
    """Learning rate of the synthetic images, or of the bases they are made of, in units of their space per unit of gradient."""

    lr_hallucinator: float = Field(default=0.01, gt=0.0, le=1e6)
    """Learning rate of hallucinators, each of which gathers the gradients of all images made by it."""

    momentum: float = Field(default=0.5, ge=0.0, lt=1.0)
    """Momentum, without dampening and without Nesterov's correction."""

    lr_rate: float = Field(default=1e-5, ge=0.0, le=1e6)
    """Learning rate of the learned rate of objective `trajectory`, with the momentum of the images; 0 keeps it fixed."""

    lr_label: float = Field(default=1.0, ge=0.0, le=1e6)
    """Learning rate of learned labels, in units of logits per unit of gradient; 0 keeps them as they start."""

    label_momentum: float = Field(default=0.9, ge=0.0, lt=1.0)
    """Momentum of learned labels."""

    milestones: tuple[float, ...] = Field(default=(), max_length=16)
    """Fractions of the run after which the learning rate is multiplied by `decay`."""

    decay: float = Field(default=0.5, gt=0.0, le=1.0)
    """Factor of the learning rate at each milestone."""


OptimizerSpec = SGDSpec
