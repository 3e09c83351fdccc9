"""Gradients of a network's weights, one for each group of labelled images, and again differentiable.

With hard labels and equal shares it is the gradient of the mean cross-entropy. Groups are batched by `vmap(grad)`, or computed
one after another, to equal results: on a CPU core (ConvNet-3, width 32, 10 groups) the batched form took half the time with
1 image in a group, the same with 10, and three to four times as much with 64 and 256, because the gradient of the filters
becomes a grouped convolution. On CUDA calls cost more and groups must be larger to fill the device; nothing was measured there.

Compiled, the gradient of 64 images takes 0.7 of the time; that of 10 images, differentiated again, takes as long as it does
eagerly. Only gradients without graph are therefore compiled.
Shapes: G groups, M images of a group, C channels, H W pixels, K classes, P weights.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from core import compilation
from core.networks.network import Network, Tensors

BATCHED_BELOW = {"cpu": 16, "cuda": 128}
"""Images of a group from which on the groups are computed one after another."""

BLOCK_ACTIVATIONS = 2**28
"""Activations whose graph a gradient that is only read keeps at once on CUDA: 1 GiB for each tensor of a layer's size."""


class Labelled(NamedTuple):
    """Groups of images whose losses count by their shares."""

    images: Tensor
    """(G, M, C, H, W) float32 in network space."""

    targets: Tensor
    """(G, M) int64, or (G, M, K) float32 that add up to 1."""

    shares: Tensor
    """(G, M), adding up to 1 in each group."""

    @classmethod
    def of(cls, images: Tensor, targets: Tensor, shares: Tensor | None) -> Labelled:
        """Groups in which all images count alike where no shares are given."""
        if shares is None:
            shares = images.new_full(images.shape[:2], 1.0 / images.shape[1])
        return cls(images, targets, shares.to(images))

    def together(self) -> Labelled:
        """One group in which each of the present ones has the same share: its gradient is the mean of theirs."""
        count = len(self.images)
        return Labelled(*(value.flatten(0, 1)[None] for value in (*self[:2], self.shares / count)))


class ClassGradients:
    """Gradients of the cross-entropy of one architecture, in evaluation mode."""

    def __init__(self, net: Network) -> None:
        self.net = net
        self._compiled: Callable[[Tensor, Tensors, Tensor, Tensor, Tensor], Tensor] | None = None

    def __call__(self, params: Tensor, buffers: Tensors, groups: Labelled) -> Tensor:
        """(G, P), with graph to images and soft targets.

        Args:
            params: (P,) weights; no gradient flows to them.
            buffers: running statistics of batch norms.
            groups: what the losses are taken on.
        """
        weights = params.detach()
        if _batched(groups):
            return self._of_all(weights, buffers, groups)
        keep = torch.is_grad_enabled() and any(value.requires_grad for value in groups)
        weights.requires_grad_()
        with torch.enable_grad():
            values = [self._loss(weights, buffers, *group) for group in zip(*groups, strict=True)]
            return torch.stack([torch.autograd.grad(value, weights, create_graph=keep)[0] for value in values])

    @torch.no_grad()
    def constant(self, params: Tensor, buffers: Tensors, groups: Labelled, *, compiled: bool = False) -> Tensor:
        """The same (G, P) without graph, added up over blocks of images that bound the memory: a sum over images is linear.

        Args:
            params: (P,) weights.
            buffers: running statistics of batch norms.
            groups: what the losses are taken on.
            compiled: whether groups that are computed one after another are so by a compiled function.
        """
        _, size = compilation.chunk_sizes(groups.shares.shape[1], self._block(groups))
        blocks = [Labelled(*block) for block in zip(*(value.split(size, dim=1) for value in groups), strict=True)]
        if not compiled or _batched(blocks[0]):
            return torch.stack([self(params, buffers, block) for block in blocks]).sum(0)
        if self._compiled is None:
            self._compiled = compilation.compiled(self._of_one)
        one = self._compiled
        found = [torch.stack([one(params, buffers, *group) for group in zip(*block, strict=True)]) for block in blocks]
        return torch.stack(found).sum(0)

    def _loss(self, weights: Tensor, buffers: Tensors, images: Tensor, targets: Tensor, shares: Tensor) -> Tensor:
        logits = self.net(weights, buffers, images, ("logits",))["logits"]
        return F.cross_entropy(logits, targets, reduction="none") @ shares

    def _of_one(self, weights: Tensor, buffers: Tensors, images: Tensor, targets: Tensor, shares: Tensor) -> Tensor:
        """(P,) of the images of one group."""
        found: Tensor = torch.func.grad(self._loss)(weights, buffers, images, targets, shares)
        return found

    def _of_all(self, weights: Tensor, buffers: Tensors, groups: Labelled) -> Tensor:
        """(G, P) in one pass."""
        found: Tensor = torch.func.vmap(self._of_one, in_dims=(None, None, 0, 0, 0))(weights, buffers, *groups)
        return found

    def _block(self, groups: Labelled) -> int:
        """Images of each group in a block, at most."""
        if not groups.images.is_cuda:
            return compilation.CHUNK_IMAGES
        at_once = len(groups.images) if _batched(groups) else 1
        return max(1, BLOCK_ACTIVATIONS // self.net.activations_per_image // at_once)


def _batched(groups: Labelled) -> bool:
    count, size = groups.shares.shape
    return count > 1 and size < BATCHED_BELOW[groups.images.device.type]
