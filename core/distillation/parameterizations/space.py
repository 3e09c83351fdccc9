"""Where stored pixels live: in network space, free, or in [0, 1], clamped (field `space` of a parameterization).

A gradient, a learning rate and the optimizer's momentum are in the space of the stored pixels.
Shapes: N images, C channels, H W pixels.
"""

from __future__ import annotations

from typing import Protocol, assert_never

import torch
from torch import Tensor

from core.data.preprocessing import Preprocessing
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
    """The space of a specification, for the images of a real set and on its device."""
    match kind:
        case "normalised":
            return NormalisedSpace(data.space)
        case "unit":
            return UnitSpace(data.space)
        case _:
            assert_never(kind)


class NormalisedSpace:
    """Network space itself; pixels are free (DC, DM, IDM)."""

    def __init__(self, preprocessing: Preprocessing) -> None:
        self.grey = preprocessing.grey

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

    def __init__(self, preprocessing: Preprocessing) -> None:
        self.grey = torch.full_like(preprocessing.grey, MID_GREY)
        self._preprocessing = preprocessing

    def encode(self, images: Tensor) -> Tensor:
        """Out of network space."""
        return self._preprocessing.inverse(images)

    def decode(self, pixels: Tensor) -> Tensor:
        """Into network space."""
        return self._preprocessing.forward(pixels)

    def project(self, pixels: Tensor) -> None:
        """Clamp."""
        pixels.clamp_(0.0, 1.0)
