"""The one place where a network is trained.

The step is the one of the DC protocol (Zhao et al., arXiv:2006.05929; method reference 2.7): cross-entropy, SGD with
momentum and coupled weight decay, E + 1 passes, the rate a tenth and the momentum forgotten after pass number E // 2 + 1
(counted from 0), one augmentation operation for each batch with parameters for each image. Order and augmentation are drawn
from explicit generators. Loss, gradient and update are one function of flat weights, compiled as a whole when it pays.
Shapes: N images, C channels, H W pixels, B images of a step, K classes, P parameters.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass, field
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from core import compilation
from core.data.real_set import RealSet
from core.distillation.protocols import Augmentation
from core.distillation.randomness import rng
from core.networks.network import Forward, Network, Tensors
from core.progress import Hooks, Stopped

PASS_IMAGES = 2048
"""Images that are normalised at once for a test."""


class Schedule(NamedTuple):
    """Hyper-parameters of one training run."""

    num_epochs: int
    """E; the run makes E + 1 passes."""

    batch_size: int
    lr_net: float
    momentum: float
    weight_decay: float

    def rate(self, epoch: int) -> float:
        """Learning rate in pass number `epoch`, from 0."""
        return self.lr_net if epoch <= self.drop_after else self.lr_net * 0.1

    @property
    def drop_after(self) -> int:
        """The last pass at the full rate."""
        return self.num_epochs // 2 + 1

    def num_steps(self, num_images: int) -> int:
        """Steps of the whole run."""
        return (self.num_epochs + 1) * -(-num_images // self.batch_size)


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
        self.compiled = compiled
        self.device = device
        self._warm = not compiled
        self._step = compilation.compiled(self._plain_step) if compiled else self._plain_step
        self._forward = Forward.on(device, net, compile_passes=compiled)

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
        images = num_runs * (schedule.num_epochs + 1) * num_images
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
    ) -> Trained:
        """Train one network from its initial weights to the last pass.

        Args:
            images: (N, C, H, W) float32 in network space; no gradient flows to them.
            labels: (N,) int64.
            seed: seed of the job.
            name: stream of this run's draws; equal names and indices draw alike.
            index: which network of the stream.
            hooks: asked between passes whether to stop.
            on_epoch: called after each pass with the number of finished passes.
            curve_points: at most about so many points of loss and accuracy; 0 for none.

        Raises:
            Stopped: the hooks asked for it.
        """
        hooks, schedule = hooks or Hooks(), self.schedule
        images = images.detach()
        params = self.net.init(rng(seed, f"{name}/weights", index, self.device))
        velocity = torch.zeros_like(params)
        spacing = max(1, (schedule.num_epochs + 1) // curve_points) if curve_points else 0
        points: list[tuple[int, Tensor]] = []
        for epoch in range(schedule.num_epochs + 1):
            if hooks.should_stop():
                raise Stopped
            generator = rng(seed, f"{name}/{index}/epoch", epoch)
            rate = torch.full((), schedule.rate(epoch), device=self.device)
            totals = torch.zeros(2, device=self.device)
            for batch in torch.randperm(len(images), generator=generator).split(schedule.batch_size):
                params, velocity, sums = self._one_step(params, velocity, images, labels, batch, rate, generator, hooks)
                totals = totals + sums
            if epoch == schedule.drop_after:
                velocity = torch.zeros_like(velocity)
            if spacing and ((epoch + 1) % spacing == 0 or epoch == schedule.num_epochs):
                points.append((epoch + 1, totals / len(images)))
            if on_epoch is not None:
                on_epoch(epoch + 1)
        values = [(at, pair.tolist()) for at, pair in points]
        return Trained(params, {}, [(at, v[0]) for at, v in values], [(at, v[1]) for at, v in values])

    @torch.no_grad()
    def accuracy(self, trained: Trained, data: RealSet, images: Tensor, labels: Tensor) -> float:
        """Fraction of uint8 (N, C, H, W) images that the network labels rightly."""
        _, pass_size = compilation.chunk_sizes(len(images), PASS_IMAGES)
        right = torch.zeros((), dtype=torch.int64, device=self.device)
        for some, their in zip(images.split(pass_size), labels.split(pass_size), strict=True):
            logits = self._forward(trained.params, trained.buffers, data.normalise(some), ("logits",))["logits"]
            right = right + (logits.argmax(1) == their).sum()
        return int(right) / len(labels)

    def _one_step(
        self,
        params: Tensor,
        velocity: Tensor,
        images: Tensor,
        labels: Tensor,
        batch: Tensor,
        rate: Tensor,
        generator: torch.Generator,
        hooks: Hooks,
    ) -> tuple[Tensor, Tensor, Tensor]:
        rows = batch.to(images.device, non_blocking=True)
        transform = self.augmentation.draw(len(batch), generator, shared_operation=True)
        augmented = transform.apply(images.index_select(0, rows)[:, None]).squeeze(1)
        with nullcontext() if self._warm else hooks.busy("compiling"):
            result = self._step(params, velocity, augmented, labels.index_select(0, rows), rate)
        self._warm = True
        return result

    def _plain_step(
        self, params: Tensor, velocity: Tensor, images: Tensor, labels: Tensor, rate: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        def loss_of(weights: Tensor) -> tuple[Tensor, Tensor]:
            logits = self.net(weights, {}, images, ("logits",))["logits"]
            return F.cross_entropy(logits, labels), logits

        if self.compiled:
            gradient, (loss, logits) = torch.func.grad_and_value(loss_of, has_aux=True)(params)
        else:  # the same gradient; torch.func costs 1.5 to 2 times as much in eager code
            weights = params.detach().requires_grad_()
            loss, logits = loss_of(weights)
            (gradient,) = torch.autograd.grad(loss, weights)
            loss, logits = loss.detach(), logits.detach()
        velocity = velocity * self.schedule.momentum + gradient + params * self.schedule.weight_decay
        right = (logits.argmax(1) == labels).sum()
        return params - rate * velocity, velocity, torch.stack([loss * len(labels), right.to(loss.dtype)])
