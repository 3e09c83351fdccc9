"""From samples to the arrays of a data set, in two passes: headers first, then every image, one after another onto the disk.

Nothing grows with the number of images but their labels: decoded images wait in one file until it is known which of them are
test images. Shapes: N images, C channels, S height and width in pixels, K classes.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from core.data.named.raw import RawSplits
from core.ingest.build import notes_of
from core.ingest.fit import Target, fitted, notes, require_room, target_of
from core.ingest.images import Encoded
from core.ingest.samples import Corrupt, Reader, Refused, Sample
from core.ingest.split import names_splits, parted, require_classes, test_mask
from core.ingest.survey import Survey, survey
from core.ingest.verdict import Unreadable
from core.progress import Hooks, Stopped
from core.specs.ingest import ConversionSpec, IngestLimits

_WRITE_BYTES = 4 << 20
_AHEAD = 4
"""Images that are decoded ahead, for each thread."""
_MAX_THREADS = 8
_MAX_PIXELS = 64_000_000
"""Of the images that wait to be decoded, or are being decoded: memory is limited, however many cores there are."""
_APART_PIXELS = 64 * 64
"""Smaller images are decoded in less time than it takes to hand them to another thread."""


class Decoded(NamedTuple):
    """N readable images, in the order of the files."""

    target: Target
    classes: tuple[str, ...]
    labels: NDArray[np.int64]
    """(N,)"""
    splits: NDArray[np.uint8]
    """(N,) what the files name; see `core.ingest.survey`."""
    positions: NDArray[np.int64]
    """(N,) where each stands in the files, counted from 0, unreadable ones included."""
    num_corrupt: int
    notes: tuple[str, ...]


class Converted(NamedTuple):
    """A data set."""

    splits: RawSplits
    classes: tuple[str, ...]
    split_rule: str
    num_corrupt: int
    notes: tuple[str, ...]


def decode_all(
    reader: Reader, conversion: ConversionSpec, limits: IngestLimits, raw: Path, hooks: Hooks, threads: int
) -> Decoded:
    """Read the files twice, and leave every image as (C, S, S) bytes in the file `raw`.

    Raises:
        DatasetRejectedError: the files break a rule.
        Stopped: the caller wants an end.
    """
    unreadable = Unreadable(conversion, limits)
    try:
        found = survey(reader, unreadable, limits, hooks)
        classes, labels = found.classes(reader.class_names)
        splits = np.frombuffer(found.splits, np.uint8)
        target = target_of(found.sizes, conversion)
        require_room(len(found), target, limits)
        require_classes(labels, splits, classes, limits)
        unreadable = Unreadable(conversion, limits)
        kept = _decode(reader, found, target, raw, unreadable, hooks, threads)
        require_classes(labels[kept], splits[kept], classes, limits)
    except Refused as refusal:
        raise unreadable.beside(refusal) from refusal
    said = notes_of(reader) + notes(found.sizes, target)
    if splits.any() and not names_splits(splits):
        said += ("The files name training images only: some of them became the test split.",)
    if unreadable.count:
        said += (f"{unreadable.count} unreadable image(s) were left out.",)
    return Decoded(target, classes, labels[kept], splits[kept], np.flatnonzero(kept), unreadable.count, said)


def assemble(decoded: Decoded, conversion: ConversionSpec, raw: Path, hooks: Hooks) -> Converted:
    """Split what `decode_all` left in `raw`. The arrays are maps of that file and of one beside it.

    Raises:
        Stopped: the caller wants an end.
    """
    target = decoded.target
    test, rule = test_mask(decoded.labels, decoded.splits, decoded.positions, conversion)
    splits = parted(raw, (target.channels, target.side, target.side), decoded.labels, test, hooks)
    return Converted(splits, decoded.classes, rule, decoded.num_corrupt, decoded.notes)


def _decode(
    reader: Reader, found: Survey, target: Target, raw: Path, unreadable: Unreadable, hooks: Hooks, threads: int
) -> NDArray[np.bool_]:
    """Write the images; return (N,) which of them were readable."""
    hooks.phase("preparing", len(found))
    kept = np.zeros(len(found), bool)
    with raw.open("wb", buffering=_WRITE_BYTES) as file:
        for position, image in enumerate(_images(reader, target, hooks, threads)):
            if isinstance(image, Corrupt):
                unreadable.add(image)
            else:
                file.write(image.data)
                kept[position] = True
            hooks.progress(position + 1, len(found))
    unreadable.require_bearable()
    return kept


_Tried = NDArray[np.uint8] | Corrupt


def _images(reader: Reader, target: Target, hooks: Hooks, threads: int) -> Iterator[_Tried]:
    """Every image in order. Encoded ones are decoded by several threads: Pillow lets the others run meanwhile."""
    threads = min(threads, _MAX_THREADS)
    waiting: deque[tuple[Future[_Tried] | _Tried, int]] = deque()
    held = 0
    with ThreadPoolExecutor(threads) as pool:
        try:
            for sample in reader.samples():
                if hooks.should_stop():
                    raise Stopped
                size = sample.size
                apart = threads > 1 and isinstance(sample.decode, Encoded) and size.height * size.width >= _APART_PIXELS
                pixels = size.height * size.width if apart else 0
                waiting.append((pool.submit(_tried, sample, target) if apart else _tried(sample, target), pixels))
                held += pixels
                while len(waiting) > _AHEAD * threads or (held > _MAX_PIXELS and waiting):
                    one, pixels = waiting.popleft()
                    held -= pixels
                    yield _result(one)
            while waiting:
                yield _result(waiting.popleft()[0])
        finally:
            pool.shutdown(cancel_futures=True)


def _tried(sample: Sample, target: Target) -> _Tried:
    try:
        return fitted(sample, target)
    except Corrupt as error:
        return error


def _result(one: Future[_Tried] | _Tried) -> _Tried:
    return one.result() if isinstance(one, Future) else one
