"""Slot `models`: where the matching networks come from and how they move."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Annotated, Literal

from pydantic import Field, model_validator

from core.specs.augmentation import DSASpec, IDCAugmentationSpec
from core.specs.base import Spec
from core.specs.experts import RealTrainingSpec


class CountedNetworksSpec(Spec, ABC):
    """A source whose networks serve one after another, so that the length of a run can be a number of networks."""

    @property
    @abstractmethod
    def most_steps_per_network(self) -> int:
        """Matching steps that one network serves, at most."""


class FreshRandomSpec(Spec):
    """A network with newly drawn weights, kept for a fixed number of iterations and never trained (DM, M3D)."""

    kind: Literal["fresh_random"] = "fresh_random"
    version: Literal[1] = 1
    iterations_per_network: int = Field(default=1, ge=1, le=100_000)
    """Iterations that share one draw of the weights."""


class PretrainedPoolSpec(Spec):
    """Networks trained on the real set beforehand; each iteration draws one uniformly (DSDM)."""

    kind: Literal["pretrained_pool"] = "pretrained_pool"
    version: Literal[1] = 1
    num_networks: int = Field(default=10, ge=1, le=1000)
    training: RealTrainingSpec = RealTrainingSpec(num_epochs=20)
    pool_seed: int = Field(default=0, ge=0, le=2**63 - 1)
    """Seed of the trained networks; jobs with equal pools share them."""


class GrowingQueueSpec(Spec):
    """A queue of networks that are trained on the real set while they serve; new ones enter, the oldest leave (IDM)."""

    kind: Literal["growing_queue"] = "growing_queue"
    version: Literal[1] = 1
    num_initial: int = Field(default=3, ge=1, le=1000)
    """Freshly drawn networks at the start."""

    capacity: int = Field(default=100, ge=1, le=1000)
    """Largest length; beyond it the oldest network is dropped."""

    push_every: int = Field(default=30, ge=1, le=100_000)
    """Iterations between new networks."""

    num_trained: int = Field(default=2, ge=0, le=100)
    """Different networks that are trained after each iteration."""

    num_steps: int = Field(default=10, ge=1, le=10_000)
    """Training steps of each of them."""

    batch_size: int = Field(default=256, ge=1, le=65_536)
    lr_net: float = Field(default=0.01, gt=0.0, le=100.0)
    momentum: float = Field(default=0.9, ge=0.0, lt=1.0)
    weight_decay: float = Field(default=5e-4, ge=0.0, le=1.0)
    accuracy_decay: float = Field(default=0.99, ge=0.0, lt=1.0)
    """Share of the old running accuracy that stays at each training step."""


class DynamicBilevelSpec(CountedNetworksSpec):
    """A fresh network, matched until its accuracy on real images settles, trained on the synthetic set in between (CAFE)."""

    kind: Literal["dynamic_bilevel"] = "dynamic_bilevel"
    version: Literal[1] = 1
    window: int = Field(default=10, ge=2, le=1000)
    """Readings that a stopping test looks at."""

    settled_below: float = Field(default=0.04, gt=0.0, le=1.0)
    """The network is replaced once accuracies after matching steps, as fractions, spread less than this."""

    moved_above: float = Field(default=0.03, gt=0.0, le=1.0)
    """Training between two matching steps ends once accuracies after its epochs spread more than this."""

    max_steps_per_network: int = Field(default=50, ge=1, le=100_000)
    """Matching steps after which the network is replaced in any case."""

    max_epochs: int = Field(default=50, ge=1, le=100_000)
    """Epochs after which training between two steps ends in any case; the published code has no such limit."""

    batch_size: int = Field(default=256, ge=1, le=65_536)
    """Synthetic images of a training step."""

    lr_net: float = Field(default=0.01, gt=0.0, le=100.0)
    num_watched: int = Field(default=128, ge=1, le=100_000)
    """Real images of each class on which accuracy is read; clipped to the smallest class."""


    @property
    def most_steps_per_network(self) -> int:
        """The limit, whether or not the network settles before."""
        return self.max_steps_per_network


class TrainedOnSyntheticSpec(CountedNetworksSpec):
    """A fresh network for a fixed number of matching steps, trained on the synthetic set between them (DC, DSA, DCC)."""

    kind: Literal["trained_on_synthetic"] = "trained_on_synthetic"
    version: Literal[1] = 1
    steps_per_network: int = Field(default=10, ge=1, le=100_000)
    """Matching steps of one network; the published code calls it outer loop."""

    num_epochs: int = Field(default=50, ge=0, le=100_000)
    """Epochs on the synthetic set between two matching steps; the published code calls it inner loop."""

    batch_size: int = Field(default=256, ge=1, le=65_536)
    """Synthetic images of a training step."""

    lr_net: float = Field(default=0.01, gt=0.0, le=100.0)

    @property
    def most_steps_per_network(self) -> int:
        """All of them."""
        return self.steps_per_network


class TrainedOnRealSpec(CountedNetworksSpec):
    """A fresh network for a fixed number of matching steps, trained on real images between them (IDC, DREAM)."""

    kind: Literal["trained_on_real"] = "trained_on_real"
    version: Literal[1] = 1
    steps_per_network: int = Field(default=100, ge=1, le=100_000)
    """Matching steps of one network."""

    num_images: int = Field(default=2000, ge=0, le=1_000_000)
    """Real images on which it is trained after each of them, in whole batches and at most one epoch; 0 leaves it as it is."""

    training: RealTrainingSpec = RealTrainingSpec(
        num_epochs=0, batch_size=64, augmentation=IDCAugmentationSpec(strategy=("color", "crop")), cutmix_probability=0.5
    )
    """How it is trained; `num_epochs` counts those on the whole real set before its first matching step."""

    @property
    def most_steps_per_network(self) -> int:
        """All of them."""
        return self.steps_per_network


class ExpertSegmentsSpec(Spec):
    """Pieces of expert trajectories: where a piece starts are the weights, where it ends is their target (MTT, TESLA, DATM)."""

    kind: Literal["expert_segments"] = "expert_segments"
    version: Literal[1] = 1
    num_networks: int = Field(default=100, ge=1, le=1000)
    """Experts; each iteration draws one uniformly."""

    training: RealTrainingSpec = RealTrainingSpec(num_epochs=50, momentum=0.0, weight_decay=0.0, augmentation=DSASpec())
    """How experts are trained; the weights after each of its epochs are kept."""

    pool_seed: int = Field(default=0, ge=0, le=2**63 - 1)
    """Seed of the experts; jobs with equal pools share them."""

    span_epochs: int = Field(default=2, ge=1, le=10_000)
    """Epochs from the start of a piece to its end."""

    min_start_epoch: int = Field(default=0, ge=0, le=10_000)
    """First epoch at which a piece may start."""

    max_start_epoch: int = Field(default=20, ge=1, le=10_000)
    """Pieces start before this epoch."""

    initial_max_start_epoch: int = Field(default=1, ge=1, le=10_000)
    """`max_start_epoch` of the first iteration, where the window grows."""

    growth_iterations: int = Field(default=0, ge=0, le=1_000_000)
    """Iterations over which the window grows linearly to `max_start_epoch` (DATM); 0: it has its full size from the start."""

    @model_validator(mode="after")
    def _window_is_not_empty(self) -> ExpertSegmentsSpec:
        if self.min_start_epoch >= self.max_start_epoch:
            raise ValueError(
                f"min_start_epoch {self.min_start_epoch} must be below max_start_epoch {self.max_start_epoch}"
            )
        if self.growth_iterations and not self.min_start_epoch < self.initial_max_start_epoch <= self.max_start_epoch:
            raise ValueError(
                f"initial_max_start_epoch {self.initial_max_start_epoch} must lie above min_start_epoch "
                f"{self.min_start_epoch} and not above max_start_epoch {self.max_start_epoch}"
            )
        return self

    def start_before(self, number: int) -> int:
        """The end of the window in iteration `number`: pieces start before this epoch."""
        if number >= self.growth_iterations:
            return self.max_start_epoch
        growth = (self.max_start_epoch - self.initial_max_start_epoch) * number // self.growth_iterations
        return self.initial_max_start_epoch + growth


ModelsSpec = Annotated[
    FreshRandomSpec
    | PretrainedPoolSpec
    | GrowingQueueSpec
    | DynamicBilevelSpec
    | TrainedOnSyntheticSpec
    | TrainedOnRealSpec
    | ExpertSegmentsSpec,
    Field(discriminator="kind"),
]
