"""Pixels: one learned number for each stored scalar, in network space, not clamped (DC, DM).

Shapes: K classes, M images per class, U images of a draw, C channels, H W pixels.
"""

from __future__ import annotations

import torch
from torch import Tensor

from core.distillation.protocols import Draw
from core.distillation.step import Step, take
from core.networks.network import Tensors


class Pixels:
    """(K * ipc, C, H, W) float32, sorted by class."""

    def __init__(self, ipc: int, num_classes: int, image_shape: tuple[int, int, int], device: torch.device) -> None:
        self.num_virtual_per_class = ipc
        self.num_initial_per_class = ipc
        self._num_classes = num_classes
        self._pixels = torch.zeros(num_classes * ipc, *image_shape, device=device, requires_grad=True)
        self._classes = torch.arange(num_classes, device=device).repeat_interleave(ipc)

    def fill(self, images: Tensor) -> None:
        """Start from (K, ipc, C, H, W) images."""
        with torch.no_grad():
            self._pixels.copy_(images.reshape(self._pixels.shape))

    def indices(self, draw: Draw, generator: torch.Generator) -> Tensor:
        """Virtual images that answer a draw; `count` 0 means all."""
        ipc, total = self.num_virtual_per_class, len(self._pixels)
        match draw.kind:
            case "per_class":
                index = torch.arange(total).view(self._num_classes, ipc)
                if not 0 < draw.count < ipc:
                    return index
                return index.gather(1, torch.rand(index.shape, generator=generator).argsort(1)[:, : draw.count])
            case "all":
                return torch.arange(total)
            case "minibatch":
                return torch.randperm(total, generator=generator)[: draw.count or total]

    def decode(self, index: Tensor) -> tuple[Tensor, Tensor]:
        """The stored images themselves."""
        return take(self._pixels, index), take(self._classes, index)

    def project(self, step: Step) -> None:
        """Pixels are free."""

    def storage(self) -> dict[str, int]:
        """K x ipc x C x H x W."""
        return {"pixels": self._pixels.numel()}

    def parameters(self) -> dict[str, list[Tensor]]:
        """The pixels."""
        return {"pixels": [self._pixels]}

    def state(self) -> Tensors:
        """The pixels."""
        return {"pixels": self._pixels.detach()}

    def load(self, state: Tensors) -> None:
        """Take the pixels back."""
        with torch.no_grad():
            self._pixels.copy_(state["pixels"])
