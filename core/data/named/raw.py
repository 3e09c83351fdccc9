"""What every reader of a named set gives, and what it says where the files are not there."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from core.errors import DatasetUnreadableError


class RawSplits(NamedTuple):
    """A whole set. Images are (N, C, H, W) uint8 in file order, labels (N,) int64."""

    train_images: NDArray[np.uint8]
    train_labels: NDArray[np.int64]
    test_images: NDArray[np.uint8]
    test_labels: NDArray[np.int64]


def missing(name: str, root: Path, why: str, files: str) -> DatasetUnreadableError:
    """The error that tells a person which files belong where; `why` goes on after "is not on this worker"."""
    return DatasetUnreadableError(
        f"data set {name!r} is not on this worker {why}. "
        f"Put these files under the data root {root} (setting DISTILL_DATA_ROOT): {files}"
    )
