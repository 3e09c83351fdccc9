"""The slots of a composition and what passes between them. The loop that drives them is `engine.py`.

Five rules hold everywhere: losses see decoded images only, as leaves; objective and terms are one protocol; where the set
starts from is a slot; no generator state is kept (`randomness.py`); losses come in groups that step one after another.
Tensor letters: U unique virtual images of an iteration, K classes, M / N images per class of a draw (synthetic / real),
P flat network weights, D features; images are float32 in network space.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

import torch
from torch import Tensor

from core.data.real_set import RealSet
from core.distillation.plan import Draw, Plan
from core.networks.network import Network, Tensors

if TYPE_CHECKING:
    from core.distillation.step import Step

@dataclass(frozen=True)
class Batch:
    """Synthetic images of one iteration."""

    images: Tensor
    """(U, C, H, W) float32: a leaf that requires gradient."""

    labels: Tensor
    """(U,) int64, or (U, K) float32, then a leaf too when labels are learned."""

    classes: Tensor
    """(U,) int64."""

    rows: tuple[Tensor, ...]
    """For each draw its rows among the U: (K, M) if per class, (2, M) for pairs, else (M,); int64."""

    draws: tuple[Draw, ...]


@dataclass(frozen=True)
class Weights:
    """A network of one iteration."""

    net: Network
    params: Tensor
    """(P,) float32."""

    buffers: Tensors = field(default_factory=dict)
    target: Tensor | None = None
    """(P,) where an expert arrives; for trajectory objectives."""

    index: int = 0
    """Which network of the run this is."""

    age: int = 0
    """Iterations it has served before this one."""

    accuracy: Tensor | None = None
    """() in [0, 1] on real images, where the source of networks knows it."""


class Part(Protocol):
    """Every slot object that has something to learn or to keep."""

    def parameters(self) -> dict[str, list[Tensor]]:
        """Tensors learned by the main optimizer, by kind (`pixels`, ...)."""
        ...

    def state(self) -> Tensors:
        """Everything a resumed run cannot draw again, by name."""
        ...

    def load(self, state: Tensors) -> None:
        """Take back what `state` gave."""
        ...


class Parameterization(Part, Protocol):
    """How the synthetic set is stored and turned into images."""

    num_virtual_per_class: int
    """Images per class that decoding yields."""

    num_initial_per_class: int
    """Real images per class that `fill` wants."""

    num_variants: int
    """Virtual images that stand for one another, side by side: an epoch of training on the set shows one of so many."""

    decoder_entries: int
    """Numbers that the decoder's graph keeps for each image, beside the image itself."""

    def fill(self, images: Tensor) -> None:
        """Start from (K, n, C, H, W) images chosen by `Init`."""
        ...

    def pack(self, images: Tensor) -> Tensor:
        """(K, n, C, H, W) real images -> (K * M, C, H, W): what the set would decode to if it were made of them."""
        ...

    def count(self, draw: Draw) -> int:
        """Images that `indices` will answer with, over all classes."""
        ...

    def indices(self, draw: Draw, generator: torch.Generator) -> Tensor:
        """Virtual images that answer a draw: (K, M), for pairs (2, M), else (M,); int64 on the CPU."""
        ...

    def decode(self, index: Tensor) -> tuple[Tensor, Tensor]:
        """Virtual images (U,) -> (U, C, H, W) with graph to the parameters, and their classes (U,)."""
        ...

    def project(self, step: Step) -> None:
        """After the update: clamp, normalise, or nothing."""
        ...

    def storage(self) -> dict[str, int]:
        """Stored scalars by kind."""
        ...

    def export(self) -> Tensors:
        """What is stored, where the decoded images do not say it better; else empty."""
        ...


class Labels(Part, Protocol):
    """What a network trained on the synthetic set is asked to answer."""

    def start(self, parameterization: Parameterization, generator: torch.Generator) -> None:
        """Begin with the set as `Init` filled it."""
        ...

    def observe(self, index: Tensor, images: Tensor, weights: Weights) -> None:
        """Look at the virtual images (U,) of an iteration, (U, C, H, W), and at its networks, before `targets` is asked."""
        ...

    def targets(self, index: Tensor, classes: Tensor) -> Tensor:
        """Labels of virtual images: (U,) int64 or (U, K) float32, with graph when learned."""
        ...

    def storage(self) -> dict[str, int]:
        """Stored scalars by kind, beside those of the parameterization."""
        ...


class Init(Protocol):
    """Where the synthetic set starts from. With 0 iterations this is the result: a coreset."""

    def choose(self, data: RealSet, per_class: int, generator: torch.Generator) -> Tensor:
        """(K, n, C, H, W) images in network space."""
        ...


class Models(Part, Protocol):
    """Where matching networks come from and how they move."""

    def next(self, number: int) -> Weights:
        """The network of iteration `number`."""
        ...

    def networks_done(self) -> int:
        """Networks that will serve no more; a run whose length is a number of networks ends when it is reached."""
        ...

    def advance(self, step: Step) -> None:
        """After the update: train, replace, or nothing."""
        ...


class Selection(Part, Protocol):
    """Which real images an iteration sees."""

    def count(self, draw: Draw) -> int:
        """Real images that `pick` will answer with, over all classes."""
        ...

    def pick(self, draw: Draw, step: Step) -> tuple[Tensor, Tensor | None]:
        """Positions in the real set, (K, N) if per class, else (N,), int64 on the CPU; and each image's share of its class,
        the same shape, float32 on the device, adding up to 1, or None where all count alike.
        """
        ...

    def warning(self) -> str:
        """What the user should know about the choice; empty when there is nothing."""
        ...


class Loss(Part, Protocol):
    """The objective, and every term added to it."""

    weight: float

    def plan(self) -> Plan:
        """What `value` will ask the step for."""
        ...

    def value(self, step: Step) -> Tensor:
        """Scalar, or (K,) with one value for each class of the step; the graph ends at the step's leaves."""
        ...

    def update(self, step: Step) -> None:
        """After the update of the set: moving averages, adversaries, heads."""
        ...


class Transform(Protocol):
    """One draw of an augmentation, applicable to any number of batches."""

    def narrow(self, start: int, stop: int) -> Transform:
        """The draw of some of the groups."""
        ...

    def apply(self, images: Tensor) -> Tensor:
        """(G, M, C, H, W) -> the same shape; the images of a group share every parameter."""
        ...


class Augmentation(Protocol):
    """Differentiable transforms seen by losses and by network training."""

    def draw(self, groups: int, generator: torch.Generator, *, shared_operation: bool = False) -> Transform:
        """Draw for `groups` groups of images: an operation for each, or one for all."""
        ...


class Optimizer(Part, Protocol):
    """Moves everything that the parts of a composition declare as parameters."""

    def step(self, allowed: Tensor, progress: float) -> None:
        """Apply the gradients where `allowed`, a () bool tensor, is true; otherwise change nothing. No synchronisation.

        `progress` in [0, 1) is the part of the run that lies behind, for schedules.
        """
        ...


class Stateless:
    """A part with nothing to learn and nothing to keep."""

    def parameters(self) -> dict[str, list[Tensor]]:
        """None."""
        return {}

    def state(self) -> Tensors:
        """Empty."""
        return {}

    def load(self, state: Tensors) -> None:
        """Nothing to take back."""
        assert not state
