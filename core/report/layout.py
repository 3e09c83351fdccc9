"""Which part of a set is shown: a cut that a person can look at and a file can hold."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

MAX_CLASSES = 100
MAX_COLUMNS = 10
MAX_PIXELS = 1_500_000
"""Native pixels of all shown images together; 100 classes of 10 images at 32x32 fit."""


class Cut(NamedTuple):
    """The first classes and the first images of each."""

    rows: tuple[tuple[int, ...], ...]
    """Positions of the shown images, one row for each shown class."""
    columns: int
    """Length of the longest row."""
    num_classes: int
    """Classes of the set, shown or not."""
    most_per_class: int
    """Images of the largest class, shown or not."""

    @property
    def note(self) -> str:
        """What is left out, as a sentence; empty when everything is shown."""
        parts = []
        if self.columns < self.most_per_class:
            parts.append(f"the first {self.columns} of {self.most_per_class} images of each class")
        if len(self.rows) < self.num_classes:
            parts.append(f"the first {len(self.rows)} of {self.num_classes} classes")
        return f"Showing {' and '.join(parts)}." if parts else ""


def cut(labels: NDArray[np.int64], num_classes: int, height: int, width: int) -> Cut:
    """Choose what to show of a set of `height` x `width` images with these labels."""
    shown = min(num_classes, MAX_CLASSES)
    most = int(np.bincount(labels, minlength=num_classes).max())
    columns = max(1, min(most, MAX_COLUMNS, MAX_PIXELS // (shown * height * width)))
    rows = tuple(tuple(np.flatnonzero(labels == label)[:columns].tolist()) for label in range(shown))
    return Cut(rows, columns, num_classes, most)
