"""What is counted in the finished arrays: brightness of the training images, and images that look alike.

Shapes: N images, C channels, S height and width in pixels.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from itertools import pairwise
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from core.data.named.raw import RawSplits
from core.progress import Hooks, Stopped

_CHUNK_BYTES = 4 << 20
_LUMA = (299, 587, 114)
"""Weights of red, green and blue, in thousandths (ITU-R BT.601)."""
MAX_DIFFERENCE = 6.0
"""Grey levels, in the mean over an image. JPEG of quality 75 changed images of Fashion-MNIST by 3.7; of 10,000 different ones
six were this near to another one, at ten levels ninety."""
COMPARED = 16
STEP = 4
"""Grey levels: what JPEG makes of a plain background stays below. Of 500 images of Fashion-MNIST 83 % kept their hash as a JPEG
of quality 95, and 52 % at quality 75; with a step of 0 it was 25 and 13 %."""
MIN_STD = 0.0039
"""One step of 255: a channel that never changes is not to be divided by zero."""


class Statistics(NamedTuple):
    """Of a data set."""

    mean: tuple[float, ...]
    """Per channel, of training images scaled to [0, 1]; 4 decimals."""
    std: tuple[float, ...]
    """The same; at least `MIN_STD`."""
    num_duplicates: int
    """Images that look like an earlier one, training images first."""
    num_leaked: int
    """Test images that look like a training image."""


def statistics(splits: RawSplits, hooks: Hooks) -> Statistics:
    """Read every image once.

    Raises:
        Stopped: the caller wants an end.
    """
    histogram = np.zeros((splits.train_images.shape[1], 256), np.int64)
    hashes = []
    for images in _chunks(splits.train_images, hooks):
        for c in range(len(histogram)):
            histogram[c] += np.bincount(images[:, c].ravel(), minlength=256)
        hashes.append(difference_hashes(images))
    hashes += [difference_hashes(images) for images in _chunks(splits.test_images, hooks)]
    num_duplicates, num_leaked = _alike(splits, np.concatenate(hashes), hooks)
    moments = [_mean_and_std(counts.tolist()) for counts in histogram]
    return Statistics(
        tuple(mean for mean, _ in moments), tuple(std for _, std in moments),
        num_duplicates=num_duplicates, num_leaked=num_leaked,
    )


def _alike(splits: RawSplits, hashes: NDArray[np.uint64], hooks: Hooks) -> tuple[int, int]:
    """How many images look like an earlier one, and how many of these are test images that look like a training image.

    Two images look alike when they have the same hash (of plain shapes, many have) and differ by `MAX_DIFFERENCE` grey levels
    at most, in the mean. Of each hash the first `COMPARED` different images are compared with, so that files which were made
    to have one hash take no longer than others.
    """
    num_train = len(splits.train_labels)

    def image(position: int) -> NDArray[np.int16]:
        stored = splits.train_images[position] if position < num_train else splits.test_images[position - num_train]
        return np.asarray(stored, np.int16)

    order = np.argsort(hashes, kind="stable")
    starts = np.flatnonzero(np.diff(hashes[order], prepend=~hashes[order[:1]]))
    num_duplicates = num_leaked = 0
    for start, end in pairwise([*starts.tolist(), len(order)]):
        if hooks.should_stop():
            raise Stopped
        seen: list[tuple[int, NDArray[np.int16]]] = []
        for position in order[start:end].tolist() if end - start > 1 else ():
            pixels = image(position)
            like = next((first for first, other in seen if np.abs(pixels - other).mean() <= MAX_DIFFERENCE), None)
            if like is not None:
                num_duplicates += 1
                num_leaked += like < num_train <= position
            elif len(seen) < COMPARED:
                seen.append((position, pixels))
    return num_duplicates, num_leaked


def difference_hashes(images: NDArray[np.uint8]) -> NDArray[np.uint64]:
    """A hash of each image that small changes seldom change.

    The luminance is averaged over 8 x 9 areas; a bit says whether an area is brighter, by more than `STEP`, than the one to its
    left. All numbers are whole and below 2**53, so that float64 holds them exactly and every machine gets the same bits.

    Args:
        images: (N, C, S, S) uint8; of 2 or 4 channels the sum counts.

    Returns:
        (N,) uint64.
    """
    channels, side = images.shape[1:3]
    weights = _LUMA if channels == 3 else (1,) * channels
    grey = np.zeros((len(images), side, side))
    for c, weight in enumerate(weights):
        grey += weight * images[:, c].astype(np.float64)
    areas = _areas(side, 8) @ grey @ _areas(side, 9).T
    brighter = areas[:, :, 1:] - areas[:, :, :-1] > STEP * side * side * sum(weights)
    return np.packbits(brighter.reshape(len(images), 64), axis=1).view(np.uint64)[:, 0]


def _areas(side: int, count: int) -> NDArray[np.float64]:
    """(count, side): how much of each of `side` pixels lies in each of `count` equal areas, in units of 1/count pixel."""
    edges = np.arange(count + 1) * side
    pixels = np.arange(side) * count
    low = np.maximum(edges[:-1, None], pixels[None])
    high = np.minimum(edges[1:, None], pixels[None] + count)
    overlaps: NDArray[np.float64] = np.maximum(high - low, 0).astype(np.float64)
    return overlaps


def _mean_and_std(counts: list[int]) -> tuple[float, float]:
    """Of values 0 to 255 scaled to [0, 1], from how often each occurs; exact up to the last rounding."""
    total = sum(counts)
    first = sum(value * count for value, count in enumerate(counts))
    second = sum(value * value * count for value, count in enumerate(counts))
    std = math.sqrt((second * total - first * first) / (total * total)) / 255
    return round(first / total / 255, 4), max(round(std, 4), MIN_STD)


def _chunks(images: NDArray[np.uint8], hooks: Hooks) -> Iterator[NDArray[np.uint8]]:
    step = max(1, _CHUNK_BYTES // images[0].nbytes)
    for first in range(0, len(images), step):
        if hooks.should_stop():
            raise Stopped
        yield images[first : first + step]
