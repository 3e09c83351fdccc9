"""Training on the real set: uint8 images normalised batch by batch, at a constant rate.

Each epoch has an order of its own; a batch has one augmentation operation with parameters for each image, and CutMix by chance.
Forgetting is counted as by Toneva et al. (arXiv:1812.05159, published code): an image is forgotten when training sees it
labelled wrongly after it was labelled rightly the last time it was seen; images never labelled rightly count as forgotten
once in each epoch, so that they rank highest. With CutMix an answer is right when it is the label with the larger share.
Shapes: N images, B images of a step, P parameters, T epochs.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from core.data.real_set import RealSet
from core.distillation.protocols import Augmentation
from core.distillation.randomness import rng
from core.networks.network import Tensors
from core.progress import Hooks, Stopped
from core.specs.experts import RealTrainingSpec
from core.training.cutmix import cutmix
from core.training.step import NetworkStep


@dataclass(frozen=True)
class TrainedOnReal:
    """A network after its last epoch."""

    params: Tensor
    """(P,) float32."""

    buffers: Tensors
    accuracy: Tensor
    """() float32: fraction of the last epoch's images that were labelled rightly when they were seen; 0 without epochs."""

    forgetting: Tensor | None
    """(N,) int64 in the order of the real set, where it was asked for."""

    snapshots: Tensor | None = None
    """(T + 1, P) float32 on the CPU, where they were asked for: the weights before training and after each of T epochs."""


class Forgetting:
    """Counts on the device; nothing waits for it."""

    def __init__(self, num_images: int, device: torch.device) -> None:
        self._count = torch.zeros(num_images, dtype=torch.int64, device=device)
        self._last = torch.zeros(num_images, dtype=torch.bool, device=device)
        self._ever = torch.zeros(num_images, dtype=torch.bool, device=device)

    def see(self, rows: Tensor, right: Tensor) -> None:
        """One presentation of different images: (B,) positions and (B,) bool, whether each was labelled rightly."""
        lost = self._last.index_select(0, rows) & ~right
        self._count.index_add_(0, rows, lost.to(torch.int64))
        self._last.index_copy_(0, rows, right)
        self._ever.index_copy_(0, rows, self._ever.index_select(0, rows) | right)

    def total(self, num_epochs: int) -> Tensor:
        """(N,) int64; `num_epochs` for images that were never labelled rightly."""
        return torch.where(self._ever, self._count, num_epochs)


def num_steps(spec: RealTrainingSpec, data: RealSet) -> int:
    """Steps of one network."""
    return spec.num_epochs * -(-len(data.labels) // spec.batch_size)


def training_batch(
    data: RealSet, rows: Tensor, spec: RealTrainingSpec, augmentation: Augmentation, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """What one step of training sees.

    Args:
        data: real set.
        rows: (B,) positions on its device.
        spec: chance of CutMix.
        augmentation: built from that of `spec`.
        generator: on the CPU; draws the augmentation, then CutMix.

    Returns:
        (B, C, H, W) float32, and (B,) int64 or, where CutMix may mix them, (B, K) float32.
    """
    transform = augmentation.draw(len(rows), generator, shared_operation=True)
    images, targets = transform.apply(data.gather(rows)[:, None]).squeeze(1), data.labels.index_select(0, rows)
    if not spec.cutmix_probability:
        return images, targets
    soft = F.one_hot(targets, data.num_classes).to(images)
    return cutmix(images, soft, probability=spec.cutmix_probability, generator=generator)


def train_on_real(
    step: NetworkStep,
    data: RealSet,
    spec: RealTrainingSpec,
    augmentation: Augmentation,
    *,
    seed: int,
    name: str,
    index: int = 0,
    hooks: Hooks | None = None,
    on_step: Callable[[int], None] | None = None,
    count_forgetting: bool = False,
    keep_snapshots: bool = False,
) -> TrainedOnReal:
    """Train one network from its initial weights; nothing in the loop waits for the device.

    Args:
        step: the step of its architecture, with the momentum and weight decay of `spec`.
        data: real set, on the device that trains.
        spec: epochs, batch size, rate and CutMix.
        augmentation: built from that of `spec`.
        seed: seed of the stream, for pools their own and not the job's.
        name: the stream; equal seeds, names and indices draw alike.
        index: which network of the stream.
        hooks: asked between steps whether to stop.
        on_step: called after each step with the number of finished steps.
        count_forgetting: also count, for each image, how often training forgets it.
        keep_snapshots: also keep copies of the weights before training and after each epoch.

    Raises:
        Stopped: the hooks asked for it.
    """
    hooks, device = hooks or Hooks(), data.device
    state = step.start(rng(seed, f"{name}/weights", index, device))
    forgetting = Forgetting(len(data.labels), device) if count_forgetting else None
    snapshots = torch.empty(spec.num_epochs + 1, step.net.num_parameters) if keep_snapshots else None
    if snapshots is not None:
        snapshots[0].copy_(state.params)
    rate = torch.full((), spec.lr_net, device=device)
    totals, done = torch.zeros(2, device=device), 0
    for epoch in range(spec.num_epochs):
        generator = rng(seed, f"{name}/{index}/epoch", epoch)
        totals = torch.zeros(2, device=device)
        for batch in torch.randperm(len(data.labels), generator=generator).split(spec.batch_size):
            if hooks.should_stop():
                raise Stopped
            rows = batch.to(device, non_blocking=True)
            images, targets = training_batch(data, rows, spec, augmentation, generator)
            with nullcontext() if step.warm else hooks.busy("compiling"):
                state, sums, right = step.answered(state, images, targets, rate)
            totals = totals + sums
            if forgetting is not None:
                forgetting.see(rows, right)
            done += 1
            if on_step is not None:
                on_step(done)
        if snapshots is not None:
            snapshots[epoch + 1].copy_(state.params)
    counts = forgetting.total(spec.num_epochs) if forgetting is not None else None
    return TrainedOnReal(state.params, state.buffers, totals[1] / len(data.labels), counts, snapshots)
