"""What parameterizations have in common that learn pixels and nothing else: a tensor in a space, and answers to draws.

Shapes: K classes, M virtual images per class, N stored images, C channels, H W pixels.
"""

from __future__ import annotations

import torch
from torch import Tensor

from core.data.real_set import RealSet
from core.distillation.parameterizations.space import space_of
from core.distillation.plan import Draw
from core.distillation.step import Step
from core.networks.network import Tensors
from core.specs.synthetic import PixelSpace


class StoredPixels:
    """(N, C, H, W) float32 pixels of full images, sorted by class, N = K x ipc."""

    num_variants = 1
    decoder_entries = 0

    def __init__(self, space: PixelSpace, ipc: int, data: RealSet, *, virtual_per_class: int, limit: int = 0) -> None:
        """Reserve the pixels.

        Args:
            space: where they live.
            ipc: stored images per class.
            data: real set; its image shape and device are the pixels'.
            virtual_per_class: M, images per class that decoding yields, each from one real image at the start.
            limit: most images per class that a per-class draw is answered with; 0 for no limit.
        """
        self.num_virtual_per_class = virtual_per_class
        self.num_initial_per_class = virtual_per_class
        self._num_classes = data.num_classes
        self._limit = limit
        self._space = space_of(space, data)
        shape = (data.num_classes * ipc, *data.images.shape[1:])
        self._pixels = torch.zeros(shape, device=data.device, requires_grad=True)

    def count(self, draw: Draw) -> int:
        """Images that `indices` answers with, over all classes."""
        if draw.kind == "per_class":
            return self._num_classes * self._shown(draw)
        total = self._num_classes * self.num_virtual_per_class
        return total if draw.kind == "all" else min(draw.count or total, total)

    def _shown(self, draw: Draw) -> int:
        """Images of each class that answer a per-class draw."""
        most = self.num_virtual_per_class
        return min(bound or most for bound in (draw.count, self._limit, most))

    def indices(self, draw: Draw, generator: torch.Generator) -> Tensor:
        """Virtual images that answer a draw, without repetition: (K, M) or (M,) int64 on the CPU.

        `count` 0 means all; a per-class draw of fewer than there are is a random subset of each class, drawn anew.

        Raises:
            ValueError: pairs are asked for, and no image has another that stands for it.
        """
        per_class, total = self.num_virtual_per_class, self._num_classes * self.num_virtual_per_class
        match draw.kind:
            case "per_class":
                index = torch.arange(total).view(self._num_classes, per_class)
                count = self._shown(draw)
                if count == per_class:
                    return index
                return index.gather(1, torch.rand(index.shape, generator=generator).argsort(1)[:, :count])
            case "all":
                return torch.arange(total)
            case "minibatch":
                return torch.randperm(total, generator=generator)[: draw.count or total]
            case "pairs":
                raise ValueError("pairs are made of bases and hallucinators; this parameterization stores pixels")

    @torch.no_grad()
    def project(self, step: Step) -> None:
        """Back into the space, after an update."""
        self._space.project(self._pixels)

    def storage(self) -> dict[str, int]:
        """K x ipc x C x H x W."""
        return {"pixels": self._pixels.numel()}

    def export(self) -> Tensors:
        """Nothing: the decoded images say it."""
        return {}

    def parameters(self) -> dict[str, list[Tensor]]:
        """The pixels."""
        return {"pixels": [self._pixels]}

    def state(self) -> Tensors:
        """The pixels."""
        return {"pixels": self._pixels.detach()}

    @torch.no_grad()
    def load(self, state: Tensors) -> None:
        """Take the pixels back."""
        self._pixels.copy_(state["pixels"])
