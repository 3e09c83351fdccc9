"""One iteration for losses to look at, without an engine."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, cast

import torch
from torch import Tensor

from core.data.real_set import RealSet
from core.distillation.augmentation.none import Identity
from core.distillation.labels.hard import HardLabels
from core.distillation.plan import Draw, merge
from core.distillation.protocols import Batch, Loss, Weights
from core.distillation.randomness import rng
from core.distillation.step import Step
from core.networks.build import build_network
from core.networks.network import Forward, Network
from core.specs.network import ConvNetSpec

NUM_CLASSES, IPC, NUM_REAL = 10, 3, 5


class Stored:
    """A synthetic set as it is, IPC images per class."""

    num_variants = 1

    def __init__(self, images: Tensor) -> None:
        self.images = images

    def indices(self, draw: Draw, generator: torch.Generator) -> Tensor:
        return torch.arange(len(self.images)).view(NUM_CLASSES, -1)

    def decode(self, index: Tensor) -> tuple[Tensor, Tensor]:
        return self.images[index], torch.arange(NUM_CLASSES).repeat_interleave(len(self.images) // NUM_CLASSES)[index]


def small_net(data: RealSet, depth: int = 2) -> Network:
    return build_network(ConvNetSpec(width=6, depth=depth), data.info)


def real_images(data: RealSet, per_class: int, *, first: int = 0) -> Tensor:
    """(K, N) positions of some images of each class."""
    return torch.tensor(data.offsets)[:, None] + first + torch.arange(per_class)


def step_for(
    losses: list[Loss], data: RealSet, *, images: Tensor | None = None, number: int = 0, augmentation: Any = None,
    accuracy: float | None = None, net: Network | None = None, **fields: Any,
) -> Step:
    """A step that serves the losses: real digits on one side, other digits (or `images`, (K * M, 1, 8, 8)) on the other."""
    net = net or small_net(data)
    if images is None:
        images = data.gather(real_images(data, IPC, first=50)).flatten(0, 1)
    images = images.detach().clone().requires_grad_()
    plan = merge([loss.plan() for loss in losses])
    rows = torch.arange(len(images)).view(NUM_CLASSES, -1)
    classes = torch.arange(NUM_CLASSES).repeat_interleave(rows.shape[1])
    augmentation = augmentation or Identity()
    step = Step(
        number=number, seed=3, data=data,
        weights=Weights(
            net, net.init(rng(3, "network", number)), accuracy=None if accuracy is None else torch.tensor(accuracy)
        ),
        plan=plan, syn=Batch(images, classes, classes, (rows,) * len(plan.syn), plan.syn),
        forward=Forward(net, compile_passes=False, chunk=7), augmentation=augmentation,
        transform=augmentation.draw(NUM_CLASSES, rng(3, "augmentation", number)),
        parameterization=cast(Any, Stored(images.detach())), labels=HardLabels(), start=0, stop=NUM_CLASSES,
    )
    step.real_index = real_images(data, NUM_REAL)
    for name, value in fields.items():
        setattr(step, name, value)
    return step


class Doubled:
    """A real set whose images come in float64."""

    def __init__(self, data: RealSet) -> None:
        self._data = data

    def __getattr__(self, name: str) -> Any:
        return getattr(self._data, name)

    def gather(self, index: Tensor) -> Tensor:
        return self._data.gather(index).double()


def doubled(step: Step) -> Step:
    """The same step in float64: weights, synthetic images, and real ones."""
    images = step.syn.images.detach().double().requires_grad_()
    weights = replace(step.weights, params=step.weights.params.double())
    return replace(step, syn=replace(step.syn, images=images), weights=weights, data=cast(Any, Doubled(step.data)))
