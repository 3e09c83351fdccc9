"""The first pass over the samples: their classes, splits and sizes, from headers alone.

Shapes: N samples in the order of the files.
"""

from __future__ import annotations

import re
from array import array
from collections import Counter

import numpy as np
from numpy.typing import NDArray

from core.ingest.samples import Corrupt, Reader, Refused, Sample, Size, Split
from core.ingest.verdict import Unreadable
from core.progress import Hooks, Stopped
from core.specs.ingest import IngestLimits

UNNAMED, TRAIN, TEST = 0, 1, 2
_CODES: dict[Split, int] = {"": UNNAMED, "train": TRAIN, "test": TEST}
_NUMBER = re.compile(r"[+-]?[0-9]+", re.ASCII)


class Sizes:
    """What is kept of the sizes of readable images."""

    def __init__(self) -> None:
        self.short_sides: Counter[int] = Counter()
        """Images by their shorter side, in pixels."""
        self.channels: Counter[int] = Counter()
        """Images by their number of channels."""
        self.num_oblong = 0
        self._shapes: set[tuple[int, int]] = set()

    def add(self, size: Size) -> None:
        """One more image."""
        self.short_sides[min(size.height, size.width)] += 1
        self.channels[size.channels] += 1
        self.num_oblong += size.height != size.width
        if len(self._shapes) < 2:
            self._shapes.add((size.height, size.width))

    @property
    def common_side(self) -> int:
        """Height and width where all images have the same square one, else 0."""
        return 0 if len(self._shapes) != 1 or self.num_oblong else next(iter(self.short_sides))

    def num_smaller(self, side: int) -> int:
        """Images that do not fill a square of this side."""
        return sum(count for short, count in self.short_sides.items() if short < side)

    @property
    def total(self) -> int:
        """Readable images."""
        return self.channels.total()


class Survey:
    """What the headers say of N samples."""

    def __init__(self) -> None:
        self.labels = array("I")
        """(N,) number of the class, in the order in which classes appeared."""
        self.splits = bytearray()
        """(N,) `UNNAMED`, `TRAIN` or `TEST`."""
        self.sizes = Sizes()
        self._names: dict[str, int] = {}

    def __len__(self) -> int:
        return len(self.labels)

    def add(self, sample: Sample, limits: IngestLimits) -> None:
        """One more sample, readable or not.

        Raises:
            Refused: there are too many samples or classes, or the name of its class is not one.
        """
        if len(self) >= limits.max_members:
            raise Refused("too_many_images", f"there are more than {limits.max_members} images", sample.member)
        number = self._names.get(sample.label)
        if number is None:
            _require_class_name(sample, limits)
            number = self._names[sample.label] = len(self._names)
            if len(self._names) > limits.max_classes:
                raise Refused("too_many_classes", f"there are more than {limits.max_classes} classes", sample.member)
        self.labels.append(number)
        self.splits.append(_CODES[sample.split])
        if sample.size.height:
            self.sizes.add(sample.size)

    def require_splits(self) -> None:
        """Pass where all images name their split, or none.

        Raises:
            Refused: it is otherwise, or there are no training images.
        """
        named = set(self.splits)
        if UNNAMED in named and len(named) > 1:
            raise Refused("mixed_splits", "some images name their split, train or test, and others do not")
        if named == {TEST}:
            raise Refused("no_training_images", "all images belong to the test split")

    def classes(self, stated: tuple[str, ...]) -> tuple[tuple[str, ...], NDArray[np.int64]]:
        """Names of the classes in their final order, and (N,) int64, the class of each sample.

        Args:
            stated: the classes in the files' own order, where they state one; else empty.

        Raises:
            Refused: a sample has a class that the files do not state.
        """
        key = _as_number if all(map(_NUMBER.fullmatch, self._names)) else _as_text
        order = stated or tuple(sorted(self._names, key=key))
        place = {name: at for at, name in enumerate(order)}
        missing = [name for name in self._names if name not in place]
        if missing:
            raise Refused("unknown_class", "the files state the names of their classes, and this is none of them", missing[0])
        return order, np.array([place[name] for name in self._names], np.int64)[np.frombuffer(self.labels, np.uint32)]


def survey(reader: Reader, unreadable: Unreadable, limits: IngestLimits, hooks: Hooks) -> Survey:
    """Ask for every sample once, without decoding any.

    Raises:
        Refused: the files break a rule.
        DatasetRejectedError: too many headers are broken.
        Stopped: the caller wants an end.
    """
    found = Survey()
    for sample in reader.samples():
        if hooks.should_stop():
            raise Stopped
        found.add(sample, limits)
        if not sample.size.height:
            _count_broken(sample, unreadable)
        hooks.progress(0, 0, message=f"{len(found)} images seen")
    if not len(found):
        raise Refused("no_images", "there are no images in the files")
    unreadable.require_bearable()
    found.require_splits()
    return found


def _count_broken(sample: Sample, unreadable: Unreadable) -> None:
    """The problem of a broken header is what decoding raises. It is counted again when the images are decoded."""
    try:
        sample.decode()
    except Corrupt as error:
        unreadable.add(error)


def _require_class_name(sample: Sample, limits: IngestLimits) -> None:
    name = sample.label
    if not name or len(name) > limits.max_class_name:
        raise Refused("bad_class_name", f"the name of a class has 1 to {limits.max_class_name} characters", sample.member)
    if name != name.strip() or not name.isprintable():
        raise Refused("bad_class_name", "the name of a class has control characters, or blanks at an end", sample.member)


def _as_number(name: str) -> tuple[int, str]:
    return int(name), name


def _as_text(name: str) -> tuple[int, str]:
    return 0, name
