"""Pixels: one learned number for each stored scalar (DC, DM).

In the space `normalised` pixels are free, as in the published code of DC and DM.
Shapes: K classes, M images per class, U images of a draw, C channels, H W pixels.
"""

from __future__ import annotations

import torch
from torch import Tensor

from core.data.real_set import RealSet
from core.distillation.parameterizations.stored import StoredPixels
from core.distillation.step import take
from core.specs.synthetic import PixelsSpec


class Pixels(StoredPixels):
    """A virtual image is a stored one."""

    def __init__(self, spec: PixelsSpec, ipc: int, data: RealSet) -> None:
        """Reserve (K * ipc, C, H, W) pixels."""
        super().__init__(spec.space, ipc, data, virtual_per_class=ipc)
        self._classes = torch.arange(data.num_classes, device=data.device).repeat_interleave(ipc)

    @torch.no_grad()
    def fill(self, images: Tensor) -> None:
        """Start from (K, ipc, C, H, W) images in network space, moved into the pixels' space."""
        self._pixels.copy_(self._space.encode(images.flatten(0, 1)))
        self._space.project(self._pixels)

    def pack(self, images: Tensor) -> Tensor:
        """(K, n, C, H, W) -> (K * n, C, H, W): real images are stored as they are."""
        return images.flatten(0, 1)

    def decode(self, index: Tensor) -> tuple[Tensor, Tensor]:
        """The stored images (U,) in network space, (U, C, H, W), and their classes (U,)."""
        return self._space.decode(take(self._pixels, index)), take(self._classes, index)
