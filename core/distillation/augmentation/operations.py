"""The differentiable operations of the field's augmentations, in the exact form of the published code of DSA.

Zhao & Bilen, "Dataset Condensation with Differentiable Siamese Augmentation", ICML 2021, arXiv:2102.08259; DC, DM, CAFE and
IDM share that code, and the IDC family (Kim et al., arXiv:2205.14959) has the same operations and ranges. Images are
normalised, so magnitudes are in units of one standard deviation; H = W = side, u uniform in [0, 1):

    color   x + (u1 - 0.5);  (x - g) 2 u2 + g, g the mean over channels;  (x - a)(u3 + 0.5) + a, a the image's mean
    crop    shift by whole pixels in [-s, s], zeros shifted in, s = int(side / 8 + 0.5)
    cutout  a box of k x k pixels, k = int(side / 2 + 0.5), centred anywhere, intersected with the image, set to 0
    flip    mirrored left to right where u < 0.5
    scale   height and width by independent factors in [1 / 1.2, 1.2], bilinear, zeros outside
    rotate  by an angle in +-15 degrees, bilinear, zeros outside

Deviation: sampling says align_corners=False, the default of every torch since 1.3 (the code of DSA pins 1.2, whose default
was True).

Images come in groups: all images of a group share one operation and one set of parameters. In matching a group is a class
(of real and of synthetic images alike); in network training it is a single image, and all images share the operation.
Shapes: G groups, M images of a group, C channels, H W pixels.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional as F

from core.specs.augmentation import Operation

MAX_SCALE = 1.2
MAX_DEGREES = 15.0
NUM_UNIFORM = 3
"""Uniform numbers that an operation may read."""


def apply_to_groups(operations: tuple[Operation, ...], images: Tensor, uniform: Tensor, *, deterministic: bool) -> Tensor:
    """Transform (G, M, C, H, W) images, each group by its own operation; gradient flows to them.

    Args:
        operations: one for each group.
        images: float32 or float64.
        uniform: (G, 3) float32 in [0, 1), on the CPU; each operation reads what it needs.
        deterministic: sample through matrices, whose backward pass has no race on CUDA.
    """
    chosen = sorted(set(operations))
    if len(chosen) == 1:
        return _apply(chosen[0], images, uniform, deterministic)
    members = [[g for g, name in enumerate(operations) if name == operation] for operation in chosen]
    pieces: list[Tensor | None] = [None] * len(operations)
    for operation, groups in zip(chosen, members, strict=True):
        picked = torch.stack([images[g] for g in groups])
        for g, done in zip(groups, _apply(operation, picked, uniform[groups], deterministic), strict=True):
            pieces[g] = done
    return torch.stack([piece for piece in pieces if piece is not None])


def _apply(operation: Operation, images: Tensor, uniform: Tensor, deterministic: bool) -> Tensor:
    match operation:
        case "color":
            return _color(images, uniform.to(images))
        case "crop":
            return _crop(images, uniform)
        case "cutout":
            return _cutout(images, uniform)
        case "flip":
            return _flip(images, uniform)
        case "scale":
            return _sample(images, _scaling(uniform), deterministic)
        case "rotate":
            return _sample(images, _rotation(uniform), deterministic)


def _color(images: Tensor, uniform: Tensor) -> Tensor:
    u1, u2, u3 = uniform.view(-1, NUM_UNIFORM, 1, 1, 1, 1).unbind(1)
    images = images + (u1 - 0.5)
    if images.shape[2] > 1:  # on one channel the saturation step is the identity
        grey = images.mean(2, keepdim=True)
        images = (images - grey) * (2.0 * u2) + grey
    average = images.mean((2, 3, 4), keepdim=True)
    return (images - average) * (u3 + 0.5) + average


def _crop(images: Tensor, uniform: Tensor) -> Tensor:
    height, width = images.shape[-2:]
    down, right = (
        (uniform[:, i].double() * (2 * limit + 1)).floor().long() - limit
        for i, limit in enumerate((int(height * 0.125 + 0.5), int(width * 0.125 + 0.5)))
    )
    if images.shape[1] > 1:  # a class: one pad and cut for all its images
        shifts = zip(images, down.tolist(), right.tolist(), strict=True)
        return torch.stack([F.pad(group, (-x, x, -y, y)) for group, y, x in shifts])
    rows, row_inside = _shifted(down, height, images.device)
    columns, column_inside = _shifted(right, width, images.device)
    images = images.gather(-2, rows.view(-1, 1, 1, height, 1).expand(images.shape))
    images = images.gather(-1, columns.view(-1, 1, 1, 1, width).expand(images.shape))
    return images * (row_inside.view(-1, 1, 1, height, 1) & column_inside.view(-1, 1, 1, 1, width))


def _shifted(shift: Tensor, side: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """For each group, which pixel comes to each place, (G, side), and whether it exists."""
    source = (torch.arange(side) + shift[:, None]).to(device)
    return source.clamp(0, side - 1), (source >= 0) & (source < side)


def _cutout(images: Tensor, uniform: Tensor) -> Tensor:
    inside = []
    for i, side in enumerate(images.shape[-2:]):
        box = int(side * 0.5 + 0.5)
        centre = (uniform[:, i].double() * (side + 1 - box % 2)).floor()[:, None]
        place = torch.arange(side)
        inside.append((place >= centre - box // 2) & (place < centre - box // 2 + box))
    hole = inside[0][:, :, None] & inside[1][:, None, :]
    return images * (~hole).to(images)[:, None, None]


def _flip(images: Tensor, uniform: Tensor) -> Tensor:
    mirrored = uniform[:, 0] < 0.5
    if not mirrored.any():
        return images
    if mirrored.all():
        return images.flip(-1)
    return torch.where(mirrored.to(images.device).view(-1, 1, 1, 1, 1), images.flip(-1), images)


def _scaling(uniform: Tensor) -> Tensor:
    """(G, 2, 3) maps from output to input coordinates; a factor above 1 shrinks the content."""
    factors = uniform[:, :2] * (MAX_SCALE - 1.0 / MAX_SCALE) + 1.0 / MAX_SCALE
    theta = torch.zeros(len(uniform), 2, 3)
    theta[:, 0, 0], theta[:, 1, 1] = factors[:, 0], factors[:, 1]
    return theta


def _rotation(uniform: Tensor) -> Tensor:
    angle = (uniform[:, 0] - 0.5) * (2.0 * MAX_DEGREES * math.pi / 180.0)
    theta = torch.zeros(len(uniform), 2, 3)
    theta[:, 0, 0] = theta[:, 1, 1] = angle.cos()
    theta[:, 0, 1], theta[:, 1, 0] = -angle.sin(), angle.sin()
    return theta


def _sample(images: Tensor, theta: Tensor, deterministic: bool) -> Tensor:
    """Bilinear sampling; the images of a group are folded into channels, so that each group needs one grid."""
    groups, _, _, height, width = images.shape
    grid = F.affine_grid(theta.to(images), [groups, 1, height, width], align_corners=False)
    if not deterministic:
        folded = images.reshape(groups, -1, height, width)
        return F.grid_sample(folded, grid, "bilinear", "zeros", align_corners=False).view(images.shape)
    unit = torch.eye(height * width, device=images.device, dtype=images.dtype).view(1, -1, height, width)
    done = []
    for group, one in zip(images, grid, strict=True):
        matrix = F.grid_sample(unit, one[None], "bilinear", "zeros", align_corners=False)  # what each pixel spreads to
        done.append((group.reshape(-1, height * width) @ matrix.view(height * width, -1)).view(group.shape))
    return torch.stack(done)
