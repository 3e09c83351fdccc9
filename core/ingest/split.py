"""Which images are test images, and the arrays of both splits, in the order of the files.

Shapes: N images, C channels, S height and width in pixels, K classes.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from core.data.named.raw import RawSplits
from core.ingest.samples import Refused
from core.ingest.survey import TEST, TRAIN
from core.ingest.verdict import rejected
from core.progress import Hooks, Stopped
from core.specs.ingest import ConversionSpec, IngestLimits, IngestProblem

_CHUNK_BYTES = 16 << 20


def names_splits(splits: NDArray[np.uint8]) -> bool:
    """Whether the files say which images are test images; where they only name training images, they do not."""
    return bool((splits == TEST).any())


def require_classes(labels: NDArray[np.int64], splits: NDArray[np.uint8], classes: Sequence[str], limits: IngestLimits) -> None:
    """Pass where each class has images for both splits.

    Raises:
        Refused: there is one class only.
        DatasetRejectedError: of all classes that lack images.
    """
    if len(classes) < 2:
        raise Refused("one_class", f"there is one class only, {classes[0]!r}; a data set has at least two")
    num_classes = len(classes)
    if names_splits(splits):
        missing = [
            IngestProblem(
                code="class_without_images", member=classes[k], message=f"the class {classes[k]!r} has no {split} images"
            )
            for split, code in (("training", TRAIN), ("test", TEST))
            for k in np.flatnonzero(np.bincount(labels[splits == code], minlength=num_classes) == 0).tolist()
        ]
    else:
        counts = np.bincount(labels, minlength=num_classes)
        missing = [
            IngestProblem(
                code="class_too_small", member=classes[k],
                message=f"the class {classes[k]!r} has {counts[k]} image(s); it needs two, one for each split",
            )
            for k in np.flatnonzero(counts < 2).tolist()
        ]
    if missing:
        raise rejected(missing, limits)


def test_mask(
    labels: NDArray[np.int64], splits: NDArray[np.uint8], positions: NDArray[np.int64], conversion: ConversionSpec
) -> tuple[NDArray[np.bool_], str]:
    """Decide the split.

    Args:
        labels: (N,) class of each image; each class has two or more.
        splits: (N,) what the files name, all or none.
        positions: (N,) where each image stands in the files, counted from 0, unreadable ones included.
        conversion: how to split where the files do not.

    Returns:
        (N,) whether an image is a test image, and the rule in words.
    """
    if names_splits(splits):
        return splits == TEST, "as the files name it"
    # A permutation that no library version can change: order by the hash of the position.
    text = (f"{conversion.split_seed}/{position}".encode() for position in positions.tolist())
    keys = np.frombuffer(b"".join(hashlib.sha256(one).digest()[:8] for one in text), ">u8")
    order = np.argsort(keys, kind="stable")
    order = order[np.argsort(labels[order], kind="stable")]
    mask = np.zeros(len(labels), bool)
    first = 0
    for count in np.bincount(labels).tolist():
        num_test = min(max(int(conversion.test_fraction * count + 0.5), 1), count - 1) if count else 0
        mask[order[first : first + num_test]] = True
        first += count
    percent = f"{100 * conversion.test_fraction:g} %"
    return mask, (
        f"stratified: {percent} of each class (rounded, at least one image) by a permutation that seed {conversion.split_seed} "
        "decides is the test split"
    )


def parted(
    raw: Path, shape: tuple[int, int, int], labels: NDArray[np.int64], test: NDArray[np.bool_], hooks: Hooks
) -> RawSplits:
    """Memory-mapped arrays of both splits.

    The file is used up: training images move to its front, and test images into a second file beside it.

    Args:
        raw: N images of (C, S, S) bytes, one after another.
        shape: C, S, S.
        labels: (N,) class of each image.
        test: (N,) whether it is a test image.
        hooks: asked whether to stop.

    Raises:
        Stopped: the caller wants an end.
    """
    images = np.memmap(raw, np.uint8, "r+", shape=(len(labels), *shape))
    tested, trained = np.flatnonzero(test), np.flatnonzero(~test)
    test_images = np.memmap(raw.with_suffix(".test"), np.uint8, "w+", shape=(len(tested), *shape))
    _gather(images, tested, test_images, hooks)
    _gather(images, trained, images, hooks)
    return RawSplits(images[: len(trained)], labels[trained], test_images, labels[tested])


def _gather(images: NDArray[np.uint8], positions: NDArray[np.intp], target: NDArray[np.uint8], hooks: Hooks) -> None:
    """Copy images at rising positions to the front of `target`, which may be `images` itself."""
    step = max(1, _CHUNK_BYTES // images[0].nbytes)
    for first in range(0, len(positions), step):
        if hooks.should_stop():
            raise Stopped
        some = positions[first : first + step]
        target[first : first + len(some)] = images[some]
