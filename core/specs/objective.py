"""Slot `objective`: what is matched. Its implementation is `core/distillation/objectives/<kind>.py`."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from core.specs.base import Spec

Factor = Annotated[float, Field(ge=0.0, le=1e6)]
Width = Annotated[float, Field(gt=0.0, le=1e6)]


class MeanFeatureSpec(Spec):
    """DM: squared distance between the class means of real and synthetic features (Zhao & Bilen, arXiv:2110.04181)."""

    kind: Literal["mean_feature"] = "mean_feature"
    version: Literal[1] = 1
    weight: float = Field(default=1.0, gt=0.0, le=1e6)
    """Factor of the loss; summed over classes and feature entries."""


class LayerwiseFeatureSpec(Spec):
    """CAFE: squared distance between class means after every block, before and after the last pool (arXiv:2203.01531)."""

    kind: Literal["layerwise_feature"] = "layerwise_feature"
    version: Literal[1] = 1
    weight: float = Field(default=1.0, gt=0.0, le=1e6)
    """Factor of the loss; summed over classes and all entries of every layer."""

    layer_weights: tuple[Factor, ...] = Field(default=(0.1, 0.1, 1.0), min_length=1, max_length=6)
    """Factors of the blocks' activations before their pools, shallow to deep; a deeper network repeats the last one, a
    shallower one leaves the rest unused."""

    flat_weight: float = Field(default=2.0, ge=0.0, le=1e6)
    """Factor of the flat output of the last pool; the published code counts it twice, as map and as vector."""

    @model_validator(mode="after")
    def _some_layer(self) -> LayerwiseFeatureSpec:
        if not any((*self.layer_weights, self.flat_weight)):
            raise ValueError("layer_weights and flat_weight must not all be 0")
        return self


class RKHSSpec(Spec):
    """M3D: maximum mean discrepancy between real and synthetic features (Zhang et al., AAAI 2024)."""

    kind: Literal["rkhs"] = "rkhs"
    version: Literal[1] = 1
    weight: float = Field(default=1.0, gt=0.0, le=1e6)
    kernel: Literal["gaussian", "linear", "polynomial"] = "gaussian"
    """`gaussian` sums kernels over `bandwidths`; `linear` is the DM loss; `polynomial` is (x.y + 1)^2."""

    bandwidths: tuple[Width, ...] = Field(default=(0.25, 0.5, 1.0, 2.0, 4.0), min_length=1, max_length=16)
    """Factors of the mean squared distance between different images of a class, real and synthetic together."""


class GaussianSpec(Spec):
    """DSDM: class prototype plus covariance of the features (Li et al., ACM MM 2024)."""

    kind: Literal["gaussian"] = "gaussian"
    version: Literal[1] = 1
    weight: float = Field(default=1.0, gt=0.0, le=1e6)
    covariance_weight: float = Field(default=50.0, ge=0.0, le=1e6)
    """Factor of the squared Frobenius distance of the covariances, divided by the number of features; 0 leaves it out."""

    unbiased: bool = True
    """Divide a covariance by the number of images less one, as the published code does; otherwise by their number (paper)."""


class GradientSpec(Spec):
    """DC, DSA, DCC, IDC: distance between the gradients that real and synthetic images give a network (arXiv:2006.05929)."""

    kind: Literal["gradient"] = "gradient"
    version: Literal[1] = 1
    weight: float = Field(default=1.0, gt=0.0, le=1e6)
    distance: Literal["row_cosine", "cosine", "squared", "absolute"] = "row_cosine"
    """`row_cosine` sums 1 - cosine over the rows (output channels) of every tensor (DC); `cosine` takes the whole gradient as
    one row; `squared` and `absolute` sum the entries' squared or absolute differences (IDC). A rate belongs to one of them."""

    parameters: Literal["weights", "convolutions", "all"] = "weights"
    """Whose gradients count: tensors of two dimensions or more (DC), of four (IDC), or also biases and norms."""

    grouping: Literal["per_class", "summed"] = "per_class"
    """`per_class` matches the gradient of each class; `summed` their mean, so that what classes share cancels (DCC)."""

    summed_from_network: int = Field(default=250, ge=0, le=1_000_000)
    """With `summed`: the first matching network under which it holds at every step; before, classes are matched one by one."""

    summed_from_step: int = Field(default=10, ge=0, le=1_000_000)
    """With `summed`: the step, counted from 0 for each network, from which it holds under every network."""

    feature_weight: float = Field(default=0.0, ge=0.0, le=1e6)
    """Factor of the squared distance between the class means of the classifier's inputs (IDC's option); 0 leaves it out."""

    @model_validator(mode="after")
    def _rows_exist(self) -> GradientSpec:
        if self.distance == "row_cosine" and self.parameters == "all":
            raise ValueError("distance 'row_cosine' needs rows, which biases do not have; parameters must not be 'all'")
        return self


class TrajectorySpec(Spec):
    """MTT: where training on the synthetic set leads, against where training on real images led (arXiv:2203.11932)."""

    kind: Literal["trajectory"] = "trajectory"
    version: Literal[1] = 1
    weight: float = Field(default=1.0, gt=0.0, le=1e6)
    """Factor of the loss: the squared distance from the expert's end, divided by that between the expert's two ends."""

    num_steps: int = Field(default=20, ge=1, le=1000)
    """Training steps on the synthetic set."""

    batch_size: int = Field(default=0, ge=0, le=65_536)
    """Synthetic images of a step, drawn from permutations that are used up before the next; 0: all images in every step."""

    lr_net: float = Field(default=0.01, gt=0.0, le=100.0)
    """Learning rate of the training steps before it is learned itself (`optimizer.lr_rate`)."""

    lr_net_min: float = Field(default=1e-6, gt=0.0, le=100.0)
    """Smallest value that the learned rate may take; it is clamped after each update."""

    lr_net_max: float = Field(default=1.0, gt=0.0, le=100.0)
    """Largest value that the learned rate may take."""

    gradient_mode: Literal["adjoint", "frozen_adjoint", "unrolled"] = "adjoint"
    """`adjoint`: the exact gradient, step by step backwards, in the memory of one step. `frozen_adjoint`: TESLA's, which leaves
    out how an image moves the weights that later steps start from. `unrolled`: the exact gradient through the graph of all
    steps at once."""

    max_loss: float = Field(default=0.0, ge=0.0, le=1e6)
    """An iteration whose loss, before `weight`, is larger changes nothing (DATM); 0: every iteration counts."""

    @model_validator(mode="after")
    def _rate_starts_within_its_bounds(self) -> TrajectorySpec:
        if not self.lr_net_min <= self.lr_net <= self.lr_net_max:
            raise ValueError(
                f"lr_net {self.lr_net} must lie between lr_net_min {self.lr_net_min} and lr_net_max {self.lr_net_max}"
            )
        return self


ObjectiveSpec = Annotated[
    MeanFeatureSpec | LayerwiseFeatureSpec | RKHSSpec | GaussianSpec | GradientSpec | TrajectorySpec,
    Field(discriminator="kind"),
]
