"""One step of training: cross-entropy, SGD with momentum and coupled weight decay, as one function of flat weights.

v <- momentum v + (g + weight_decay w);  w <- w - rate v, without dampening and without Nesterov's correction. Gradient and
update are compiled as a whole when it pays. Nothing is changed in place: a state may be kept, shared and used again.
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
        self._step = compilation.compiled(self._plain) if compiled else self._plain

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
        result = self._step(state.params, state.velocity, state.buffers, images, targets, rate)
        self.warm = True
        params, velocity, buffers, sums, right = result
        return TrainState(params, velocity, buffers), sums, right

    def _plain(
        self, params: Tensor, velocity: Tensor, buffers: Tensors, images: Tensor, targets: Tensor, rate: Tensor
    ) -> tuple[Tensor, Tensor, Tensors, Tensor, Tensor]:
        def loss_of(weights: Tensor) -> tuple[Tensor, tuple[Tensor, Tensors]]:
            out, moved = self.net.train_pass(weights, buffers, images, ("logits",))
            return F.cross_entropy(out["logits"], targets), (out["logits"], moved)

        if self._compiled:
            gradient, (loss, (logits, moved)) = torch.func.grad_and_value(loss_of, has_aux=True)(params)
        else:  # the same gradient; torch.func costs 1.5 to 2 times as much in eager code
            weights = params.detach().requires_grad_()
            loss, (logits, moved) = loss_of(weights)
            (gradient,) = torch.autograd.grad(loss, weights)
            loss, logits = loss.detach(), logits.detach()
        velocity = velocity * self._momentum + gradient + params * self._weight_decay
        right = logits.argmax(1) == (targets.argmax(1) if targets.is_floating_point() else targets)
        sums = torch.stack([loss * len(targets), right.sum().to(loss.dtype)])
        return params - rate * velocity, velocity, moved, sums, right
