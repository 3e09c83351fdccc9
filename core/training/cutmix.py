"""CutMix: a box of each image is replaced by that of another, and the labels are mixed by area.

Yun et al., "CutMix", ICCV 2019, arXiv:1905.04899, with the box of the published code that the IDC family uses: lam uniform in
[0, 1), which is Beta(1, 1); a box of floor(sqrt(1 - lam) side) pixels along each axis, halved and rounded down on both sides
of a uniform centre, and clipped; one box and one permutation for a batch. An image keeps the share r of its label that it
keeps of its area, so that cross-entropy with the mixed label is r CE(y) + (1 - r) CE(y of the other).
Shapes: B images, C channels, H W pixels, K classes.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor


class Box(NamedTuple):
    """Rows `top` to `bottom` and columns `left` to `right`, the ends excluded."""

    top: int
    bottom: int
    left: int
    right: int

    @property
    def area(self) -> int:
        """Pixels inside."""
        return (self.bottom - self.top) * (self.right - self.left)


def draw_box(height: int, width: int, generator: torch.Generator) -> Box:
    """A box for one batch; the generator is on the CPU."""
    u = torch.rand(3, generator=generator, dtype=torch.float64)
    share = (1.0 - float(u[0])) ** 0.5
    spans = []
    for side, where in ((height, u[1]), (width, u[2])):
        centre, half = int(float(where) * side), int(share * side) // 2
        spans += [max(0, centre - half), min(side, centre + half)]
    return Box(*spans)


def cutmix(images: Tensor, targets: Tensor, *, probability: float, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Mix the batch, or not.

    Args:
        images: (B, C, H, W), unchanged.
        targets: (B, K) float32.
        probability: chance that this batch is mixed; 0 draws nothing.
        generator: on the CPU; says whether, which box, and which other images.

    Returns:
        Images and targets of the same shapes.
    """
    if not probability or float(torch.rand((), generator=generator)) >= probability:
        return images, targets
    height, width = images.shape[-2:]
    box = draw_box(height, width, generator)
    other = torch.randperm(len(images), generator=generator).to(images.device, non_blocking=True)
    place = (..., slice(box.top, box.bottom), slice(box.left, box.right))
    mixed = images.clone()
    mixed[place] = images[place].index_select(0, other)
    kept = 1.0 - box.area / (height * width)
    return mixed, kept * targets + (1.0 - kept) * targets.index_select(0, other)
