"""Slot `models`: where the matching networks come from and how they move."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from core.specs.augmentation import IDCAugmentationSpec
from core.specs.base import Spec
from core.specs.experts import RealTrainingSpec


class CountedNetworksSpec(Spec):
    """A source whose networks serve one after another, so that the length of a run can be a number of networks."""

    @property
    def most_steps_per_network(self) -> int:
        """Matching steps that one network serves, at most."""
        raise NotImplementedError


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


ModelsSpec = Annotated[
    FreshRandomSpec
    | PretrainedPoolSpec
    | GrowingQueueSpec
    | DynamicBilevelSpec
    | TrainedOnSyntheticSpec
    | TrainedOnRealSpec,
    Field(discriminator="kind"),
]
