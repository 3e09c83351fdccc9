"""One step of training: cross-entropy, SGD with momentum and coupled weight decay, as one function of flat weights.

v <- momentum v + (g + weight_decay w);  w <- w - rate v, without dampening and without Nesterov's correction. The gradient is
compiled when it pays; on a CPU it is then added up over chunks that fit the cache, unless the network mixes images. Nothing
is changed in place: a state may be kept, shared and used again.
Shapes: B images of a step, C channels, H W pixels, K classes, P parameters.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from core import compilation
from core.networks.network import Network, Tensors


class TrainState(NamedTuple):
    """A network between two steps, on its device."""

    params: Tensor
    """(P,) float32."""

    velocity: Tensor
    """(P,) float32, the momentum."""

    buffers: Tensors
    """Running statistics of batch norms; empty for other networks."""


class NetworkStep:
    """The training step of one architecture under one optimizer; all networks of it may share the object."""

    def __init__(
        self, net: Network, *, momentum: float, weight_decay: float, compiled: bool, device: torch.device
    ) -> None:
        """Keep what all steps share; nothing is compiled before the first one."""
        self.net = net
        self.device = device
        self.warm = not compiled
        """False until the first step of a compiled function is done."""
        self._momentum = momentum
        self._weight_decay = weight_decay
        self._compiled = compiled
        self._gradient = compilation.compiled(self._plain) if compiled else self._plain
        cut = compiled and device.type == "cpu" and not net.mixes_images
        self._chunk = compilation.CHUNK_IMAGES if cut else None

    def start(self, generator: torch.Generator) -> TrainState:
        """A network as it is drawn; the generator is on the device."""
        params = self.net.init(generator)
        return TrainState(params, torch.zeros_like(params), self.net.init_buffers(params.device))

    def __call__(
        self, state: TrainState, images: Tensor, targets: Tensor, rate: float | Tensor
    ) -> tuple[TrainState, Tensor]:
        """One step in training mode.

        Args:
            state: stays as it is.
            images: (B, C, H, W) float32 in network space, already augmented; no gradient flows to them.
            targets: (B,) int64, or (B, K) float32 that add up to 1.
            rate: learning rate; a () float32 tensor on the device may serve many steps.

        Returns:
            The next state, and (2,) float32 on the device: sum of the losses and number of images labelled rightly, before
            the update; where labels are soft, right is the largest.
        """
        state, sums, _ = self.answered(state, images, targets, rate)
        return state, sums

    def answered(
        self, state: TrainState, images: Tensor, targets: Tensor, rate: float | Tensor
    ) -> tuple[TrainState, Tensor, Tensor]:
        """The same step; also (B,) bool, which images were labelled rightly."""
        if not isinstance(rate, Tensor):
            rate = torch.full((), rate, device=self.device)
        count = len(images)
        parts, size = compilation.chunk_sizes(count, self._chunk or count)
        surplus = parts * size - count  # a compiled pass knows one shape
        shares = F.pad(torch.full((count,), 1.0 / count, device=self.device), (0, surplus))
        if surplus:
            images = torch.cat([images, images.new_zeros(surplus, *images.shape[1:])])
            targets = torch.cat([targets, targets[:1].expand(surplus, *targets.shape[1:])])
        pieces = zip(images.split(size), targets.split(size), shares.split(size), strict=True)
        gradients, buffers, losses, rights = zip(
            *(self._gradient(state.params, state.buffers, *piece) for piece in pieces), strict=True
        )
        self.warm = True
        right = torch.cat(rights)[:count]
        velocity = state.velocity * self._momentum + sum(gradients) + state.params * self._weight_decay
        sums = torch.stack([sum(losses) * count, right.sum().to(torch.float32)])
        return TrainState(state.params - rate * velocity, velocity, buffers[0]), sums, right

    def _plain(
        self, params: Tensor, buffers: Tensors, images: Tensor, targets: Tensor, shares: Tensor
    ) -> tuple[Tensor, Tensors, Tensor, Tensor]:
        """Gradient (P,), running statistics, loss and answers of images whose losses count by their shares (B,)."""

        def loss_of(weights: Tensor) -> tuple[Tensor, tuple[Tensor, Tensors]]:
            out, moved = self.net.train_pass(weights, buffers, images, ("logits",), channels_last=self._compiled)
            losses = F.cross_entropy(out["logits"], targets, reduction="none")
            return losses @ shares, (out["logits"], moved)

        if self._compiled:
            gradient, (loss, (logits, moved)) = torch.func.grad_and_value(loss_of, has_aux=True)(params)
        else:  # the same gradient; torch.func costs 1.5 to 2 times as much in eager code
            weights = params.detach().requires_grad_()
            loss, (logits, moved) = loss_of(weights)
            (gradient,) = torch.autograd.grad(loss, weights)
            loss, logits = loss.detach(), logits.detach()
        right = logits.argmax(1) == (targets.argmax(1) if targets.is_floating_point() else targets)
        return gradient, moved, loss, right
