"""Where stored pixels live: in network space, free, or in [0, 1], clamped (field `space` of a parameterization).

A gradient, a learning rate and the optimizer's momentum are in the space of the stored pixels.
Shapes: N images, C channels, H W pixels.
"""

from __future__ import annotations

from typing import Protocol, assert_never

import torch
from torch import Tensor

from core.data.real_set import RealSet
from core.specs.synthetic import PixelSpace

MID_GREY = 0.5
"""In [0, 1]; fills what a stored image has no pixels for."""


class Space(Protocol):
    """A pixel space; images are (..., C, H, W) float32."""

    grey: Tensor
    """(C, 1, 1): mid-grey as it is stored."""

    def encode(self, images: Tensor) -> Tensor:
        """Network space -> stored."""
        ...

    def decode(self, pixels: Tensor) -> Tensor:
        """Stored -> network space, with graph."""
        ...

    def project(self, pixels: Tensor) -> None:
        """Move stored pixels into the space, in place, on the device."""
        ...


def space_of(kind: PixelSpace, data: RealSet) -> Space:
    """The space of a specification, for the channels of a real set and on its device."""
    mean, std = (torch.tensor(value, device=data.device).view(-1, 1, 1) for value in (data.info.mean, data.info.std))
    match kind:
        case "normalised":
            return NormalisedSpace(mean, std)
        case "unit":
            return UnitSpace(mean, std)
        case _:
            assert_never(kind)


class NormalisedSpace:
    """Network space itself; pixels are free (DC, DM, IDM)."""

    def __init__(self, mean: Tensor, std: Tensor) -> None:
        self.grey = (MID_GREY - mean) / std

    def encode(self, images: Tensor) -> Tensor:
        """As they are."""
        return images

    def decode(self, pixels: Tensor) -> Tensor:
        """As they are."""
        return pixels

    def project(self, pixels: Tensor) -> None:
        """Pixels are free."""


class UnitSpace:
    """[0, 1], where 0 is black and 1 is white; normalised when decoded, clamped after each update (IDC family).

    Deviation: the published code clamps at the start of an iteration, so that what it saves after the last is not clamped.
    """

    def __init__(self, mean: Tensor, std: Tensor) -> None:
        self.grey = torch.full_like(mean, MID_GREY)
        self._mean, self._std = mean, std

    def encode(self, images: Tensor) -> Tensor:
        """Out of network space: x std + mean."""
        return images * self._std + self._mean

    def decode(self, pixels: Tensor) -> Tensor:
        """Into network space: (x - mean) / std."""
        return (pixels - self._mean) / self._std

    def project(self, pixels: Tensor) -> None:
        """Clamp."""
        pixels.clamp_(0.0, 1.0)
