"""Training on a tensor set: the part of evaluation that networks see.

The default is the DC protocol (Zhao et al., arXiv:2006.05929): E + 1 passes, one drop of the rate, one augmentation operation
for each batch with parameters for each image. Order, augmentation and CutMix are drawn from explicit generators.
Shapes: N images, C channels, H W pixels, K classes, P parameters.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass, field

import torch
from torch import Tensor
from torch.nn import functional as F

from core import compilation
from core.data.real_set import RealSet
from core.distillation.protocols import Augmentation
from core.distillation.randomness import rng
from core.networks.network import Forward, Network, Tensors
from core.progress import Hooks, Stopped
from core.training.cutmix import cutmix
from core.training.epoch import epoch_order
from core.training.schedule import Schedule
from core.training.step import NetworkStep

PASS_IMAGES = 2048
"""Images that are normalised at once for a test."""


@dataclass(frozen=True)
class Trained:
    """A trained network and how it got there."""

    params: Tensor
    """(P,) float32."""

    buffers: Tensors = field(default_factory=dict)
    loss: list[tuple[int, float]] = field(default_factory=list)
    """Mean training loss of a pass, by pass number from 1."""

    accuracy: list[tuple[int, float]] = field(default_factory=list)
    """Training accuracy of a pass, under augmentation, as a fraction."""


class Trainer:
    """Trains networks of one architecture under one schedule; they share one compiled step."""

    def __init__(
        self, net: Network, schedule: Schedule, augmentation: Augmentation, *, compiled: bool, device: torch.device
    ) -> None:
        """Keep what all runs share; nothing is compiled before the first step."""
        self.net = net
        self.schedule = schedule
        self.augmentation = augmentation
        self.device = device
        self._step = NetworkStep(
            net, momentum=schedule.momentum, weight_decay=schedule.weight_decay, compiled=compiled, device=device
        )
        self._forward = Forward.on(device, net, compile_passes=compiled, training=False)

    @classmethod
    def for_runs(
        cls,
        net: Network,
        schedule: Schedule,
        augmentation: Augmentation,
        *,
        device: torch.device,
        num_images: int,
        num_runs: int,
    ) -> Trainer:
        """A trainer that compiles if so many runs pay for it."""
        images = num_runs * schedule.num_passes * num_images
        compiled = compilation.pays(net.activations_per_image * images, device)
        return cls(net, schedule, augmentation, compiled=compiled, device=device)

    def train(
        self,
        images: Tensor,
        labels: Tensor,
        *,
        seed: int,
        name: str,
        index: int = 0,
        hooks: Hooks | None = None,
        on_epoch: Callable[[int], None] | None = None,
        curve_points: int = 0,
        variants: int = 1,
        lr_net: float | None = None,
    ) -> Trained:
        """Train one network from its initial weights to the last pass.

        Args:
            images: (N, C, H, W) float32 in network space; no gradient flows to them.
            labels: (N,) int64, or (N, K) float32 that add up to 1.
            seed: seed of the job.
            name: stream of this run's draws; equal names and indices draw alike.
            index: which network of the stream.
            hooks: asked between passes whether to stop.
            on_epoch: called after each pass with the number of finished passes.
            curve_points: at most about so many points of loss and accuracy; 0 for none.
            variants: as in `epoch_order`; a pass shows N / variants images.
            lr_net: initial learning rate of this run instead of the schedule's.

        Raises:
            Stopped: the hooks asked for it.
        """
        hooks, schedule = hooks or Hooks(), self.schedule
        if lr_net is not None:
            schedule = schedule._replace(lr_net=lr_net)
        images, targets = images.detach(), labels.detach()
        if schedule.cutmix_probability and not targets.is_floating_point():
            targets = F.one_hot(targets, self.net.num_classes).to(images)
        state = self._step.start(rng(seed, f"{name}/weights", index, self.device))
        spacing = max(1, schedule.num_passes // curve_points) if curve_points else 0
        points: list[tuple[int, Tensor]] = []
        for epoch in range(schedule.num_passes):
            if hooks.should_stop():
                raise Stopped
            generator = rng(seed, f"{name}/{index}/epoch", epoch)
            rate = torch.full((), schedule.rate(epoch), device=self.device)
            totals = torch.zeros(2, device=self.device)
            for batch in epoch_order(len(images), variants, generator).split(schedule.batch_size):
                seen, asked = self._batch(images, targets, batch, generator)
                with nullcontext() if self._step.warm else hooks.busy("compiling"):
                    state, sums = self._step(state, seen, asked, rate)
                totals = totals + sums
            if schedule.forgets_after(epoch):
                state = state._replace(velocity=torch.zeros_like(state.velocity))
            if spacing and ((epoch + 1) % spacing == 0 or epoch + 1 == schedule.num_passes):
                points.append((epoch + 1, totals / (len(images) // variants)))
            if on_epoch is not None:
                on_epoch(epoch + 1)
        values = [(at, pair.tolist()) for at, pair in points]
        return Trained(state.params, state.buffers, [(at, v[0]) for at, v in values], [(at, v[1]) for at, v in values])

    @torch.no_grad()
    def accuracy(self, trained: Trained, data: RealSet, images: Tensor, labels: Tensor) -> float:
        """Fraction of uint8 (N, C, H, W) images that the network labels rightly, in evaluation mode."""
        _, pass_size = compilation.chunk_sizes(len(images), PASS_IMAGES)
        right = torch.zeros((), dtype=torch.int64, device=self.device)
        for some, their in zip(images.split(pass_size), labels.split(pass_size), strict=True):
            logits = self._forward(trained.params, trained.buffers, data.normalise(some), ("logits",))["logits"]
            right = right + (logits.argmax(1) == their).sum()
        return int(right) / len(labels)

    def _batch(
        self, images: Tensor, targets: Tensor, batch: Tensor, generator: torch.Generator
    ) -> tuple[Tensor, Tensor]:
        """Images of one step, augmented and mixed, and their targets; everything is drawn in this order."""
        rows = batch.to(images.device, non_blocking=True)
        transform = self.augmentation.draw(len(batch), generator, shared_operation=True)
        seen = transform.apply(images.index_select(0, rows)[:, None]).squeeze(1)
        probability = self.schedule.cutmix_probability
        return cutmix(seen, targets.index_select(0, rows), probability=probability, generator=generator)
