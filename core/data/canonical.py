"""The canonical form of a real set: uint8 arrays in a folder with a manifest and a digest, memory-mapped when read.

Data is converted once, by `python -m core.data.prepare`, and every child reads only this form. The digest is a SHA-256 over
shapes and bytes of the four arrays, so it names the data itself and not the way it was stored.
"""

from __future__ import annotations

import hashlib
import json
import logging
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from core.catalogue import DatasetInfo
from core.data.sources import RawSplits
from core.errors import DatasetUnreadableError
from core.shared_files import appearing_dataset
from core.specs.report import DATASET_MANIFEST

log = logging.getLogger(__name__)

FORMAT = 1
MANIFEST = DATASET_MANIFEST


def _named(splits: RawSplits) -> list[tuple[str, NDArray[Any]]]:
    arrays: tuple[NDArray[Any], ...] = tuple(splits)
    return list(zip(RawSplits._fields, arrays, strict=True))


def digest_of(splits: RawSplits) -> str:
    """SHA-256, in hex, over name, dtype, shape and little-endian bytes of each array in order."""
    sha = hashlib.sha256()
    for field, array in _named(splits):
        sha.update(f"{field} {array.dtype.str} {array.shape}\n".encode())
        sha.update(np.ascontiguousarray(array).data)
    return sha.hexdigest()


def require_digest(info: DatasetInfo, found: str) -> None:
    """Compare a digest with the catalogue's. Where that has none, any data passes, with a warning in the log.

    Raises:
        DatasetUnreadableError: the data is not that of the catalogue.
    """
    if info.digest is None:
        log.warning("data set %r is not verified: the catalogue has no digest; this data has %s", info.name, found)
    elif found != info.digest:
        raise DatasetUnreadableError(
            f"data set {info.name!r} has digest {found[:16]}..., the catalogue says {info.digest[:16]}..."
        )


def require_counts(info: DatasetInfo, splits: RawSplits) -> None:
    """Compare shape and images per class with the catalogue: all that can be said of data without a digest.

    Raises:
        DatasetUnreadableError: images of another shape, or more or fewer of a class.
    """
    shape = (info.channels, info.height, info.width)
    for split, images, labels, counts in (
        ("training", splits.train_images, splits.train_labels, info.train_per_class),
        ("test", splits.test_images, splits.test_labels, info.test_per_class),
    ):
        if images.shape != (sum(counts), *shape):
            raise DatasetUnreadableError(
                f"data set {info.name!r} has {split} images of shape {images.shape}, the catalogue says {(sum(counts), *shape)}"
            )
        if labels.min(initial=0) < 0 or tuple(np.bincount(labels, minlength=info.num_classes).tolist()) != counts:
            raise DatasetUnreadableError(f"data set {info.name!r}: the {split} images per class are not those of the catalogue")


def write(splits: RawSplits, folder: Path) -> str:
    """Write the canonical form so that `folder` appears complete or not at all; return the digest.

    Two processes may write the same set at once: the first rename wins and the other copy is removed.
    """
    with appearing_dataset(folder) as temporary:
        for field, array in _named(splits):
            _save(np.ascontiguousarray(array), temporary / f"{field}.npy")
        value = digest_of(splits)
        (temporary / MANIFEST).write_text(json.dumps({"format": FORMAT, "digest": value}))
    return value


def _save(array: NDArray[Any], path: Path) -> None:
    """As `np.save`, which would not say why it could not write."""
    with path.open("wb") as file:
        np.lib.format.write_array_header_1_0(file, np.lib.format.header_data_from_array_1_0(array))
        file.write(array.data)


def read(folder: Path) -> tuple[RawSplits, str]:
    """Memory-map the four arrays; return them with the recorded digest.

    Raises:
        DatasetUnreadableError: the folder does not hold a complete canonical set of this format.
    """
    try:
        manifest: dict[str, Any] = json.loads((folder / MANIFEST).read_text())
        if manifest["format"] != FORMAT:
            raise DatasetUnreadableError(f"canonical data of format {manifest['format']}, this version reads {FORMAT}")
        arrays: list[NDArray[Any]] = [
            np.load(folder / f"{field}.npy", mmap_mode="r", allow_pickle=False) for field in RawSplits._fields
        ]
    except (OSError, ValueError, KeyError) as error:
        raise DatasetUnreadableError(f"canonical data is missing or damaged: {error}") from error
    return RawSplits(*arrays), str(manifest["digest"])
