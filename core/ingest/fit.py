"""From an image of any size to the square, in grey or colour, that the data set has."""

from __future__ import annotations

from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from core.ingest.images import Encoded
from core.ingest.samples import Refused, Sample
from core.ingest.survey import Sizes
from core.specs.ingest import MAX_SIDE, MIN_SIDE, ConversionSpec, IngestLimits

_SIDES = (64, 32, 28)
_REDUCING_GAP = 3.0
"""Pillow averages whole blocks of pixels first, while at least so many times the wanted size is left for Lanczos."""
_DRAFT = 2
"""A JPEG is decoded at no less than this multiple of the wanted size."""


class Target(NamedTuple):
    """What every image becomes."""

    side: int
    """Height and width, in pixels."""
    channels: int
    resize: Literal["centre_crop", "fit"]

    @property
    def image_bytes(self) -> int:
        return self.channels * self.side * self.side


def target_of(sizes: Sizes, conversion: ConversionSpec) -> Target:
    """What the images become, decided from their headers.

    Raises:
        Refused: the wanted colour is not one that these channels can become.
    """
    side = conversion.size or _usual_side(sizes)
    found = set(sizes.channels)
    if found <= {1, 3}:
        grey = conversion.colour == "grey" or (conversion.colour == "auto" and found <= {1})
        return Target(side, 1 if grey else 3, conversion.resize)
    if len(found) > 1:
        raise Refused("mixed_channels", f"the images have different numbers of channels: {', '.join(map(str, sorted(found)))}")
    if conversion.colour != "auto":
        raise Refused("no_colour", f"images with {min(found)} channels have no colours; conversion.colour is to be auto")
    return Target(side, min(found), conversion.resize)


def _usual_side(sizes: Sizes) -> int:
    if MIN_SIDE <= sizes.common_side <= MAX_SIDE:
        return sizes.common_side
    return next((side for side in _SIDES if 2 * sizes.num_smaller(side) < sizes.total), _SIDES[-1])


def notes(sizes: Sizes, target: Target) -> tuple[str, ...]:
    """What becomes of the images, for the user."""
    said = []
    if sizes.common_side != target.side:
        said.append(f"All images were brought to {target.side} x {target.side} pixels.")
    if sizes.num_oblong:
        how = "lost their longer ends" if target.resize == "centre_crop" else "got bars of their mean colour"
        said.append(f"{sizes.num_oblong} image(s) that are not square {how}.")
    if smaller := sizes.num_smaller(target.side):
        said.append(f"{smaller} image(s) are smaller than {target.side} pixels on a side and were enlarged.")
    other = sum(count for channels, count in sizes.channels.items() if channels != target.channels)
    if other:
        said.append(f"{other} image(s) in {'colour became grey' if target.channels == 1 else 'grey became RGB'}.")
    return tuple(said)


def require_room(num_images: int, target: Target, limits: IngestLimits) -> None:
    """Pass where the finished data set is not too large.

    Raises:
        Refused: it is.
    """
    if num_images * target.image_bytes > limits.max_canonical_bytes:
        raise Refused(
            "dataset_too_large",
            f"{num_images} images of {target.channels} x {target.side} x {target.side} bytes are more than the "
            f"{limits.max_canonical_bytes} bytes that a data set may have; choose a smaller conversion.size",
        )


def fitted(sample: Sample, target: Target) -> NDArray[np.uint8]:
    """Decode a sample to (C, S, S) uint8, contiguous: a copy where its size fits already.

    Raises:
        Corrupt: it cannot be decoded.
    """
    decode = sample.decode
    pixels = decode.reduced(_DRAFT * target.side) if isinstance(decode, Encoded) else decode()
    height, width, channels = pixels.shape
    if target.resize == "centre_crop":
        short = min(height, width)
        top, left = (height - short) // 2, (width - short) // 2
        pixels = _resized(pixels[top : top + short, left : left + short], target.side, target.side)
    elif height != width:
        scale = target.side / max(height, width)
        small = _resized(pixels, max(1, round(height * scale)), max(1, round(width * scale)))
        top, left = (target.side - small.shape[0]) // 2, (target.side - small.shape[1]) // 2
        pixels = np.empty((target.side, target.side, channels), np.uint8)
        pixels[:] = np.rint(small.mean(axis=(0, 1))).astype(np.uint8)
        pixels[top : top + small.shape[0], left : left + small.shape[1]] = small
    else:
        pixels = _resized(pixels, target.side, target.side)
    if channels == 3 and target.channels == 1:
        pixels = np.asarray(Image.fromarray(np.ascontiguousarray(pixels)).convert("L"))[:, :, None]
    elif channels == 1 and target.channels == 3:
        pixels = pixels.repeat(3, axis=2)
    return np.array(pixels.transpose(2, 0, 1), order="C")


def _resized(pixels: NDArray[np.uint8], height: int, width: int) -> NDArray[np.uint8]:
    """(H, W, C) uint8 in another size, by Lanczos' filter."""
    if pixels.shape[:2] == (height, width):
        return pixels
    channels = pixels.shape[2]
    if channels not in (1, 3):
        # Pillow takes a second or fourth channel for transparency and weighs the others with it.
        planes = [_resized(pixels[:, :, c : c + 1], height, width) for c in range(channels)]
        return np.concatenate(planes, axis=2)
    image = Image.fromarray(np.ascontiguousarray(pixels[:, :, 0] if channels == 1 else pixels))
    small = np.asarray(image.resize((width, height), Image.Resampling.LANCZOS, reducing_gap=_REDUCING_GAP))
    return small[:, :, None] if channels == 1 else small
