"""Readers of the named sets: from where they lie to plain uint8 arrays.

Every reader returns `RawSplits`. Digits come inside scikit-learn; the others are read through torchvision from the data
root, from Debian's `dataset-fashion-mnist` package, or downloaded by torchvision where the network allows.
"""

from __future__ import annotations

import gzip
import hashlib
import logging
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from core.errors import DatasetUnreadableError

log = logging.getLogger(__name__)

DEBIAN_FASHION_MNIST = Path("/usr/share/datasets/fashion-mnist")
DOWNLOAD_TIMEOUT_SECONDS = 20.0


class RawSplits(NamedTuple):
    """A whole set. Images are (N, C, H, W) uint8 in file order, labels (N,) int64."""

    train_images: NDArray[np.uint8]
    train_labels: NDArray[np.int64]
    test_images: NDArray[np.uint8]
    test_labels: NDArray[np.int64]


def _digits(_root: Path) -> RawSplits:
    """scikit-learn's 1,797 scans of 8x8 pixels, values 0..16 stretched to 0..255; a quarter of each class is the test split."""
    from sklearn.datasets import load_digits

    bunch = load_digits()
    images = np.rint(bunch.images * (255.0 / 16.0)).astype(np.uint8)[:, None]
    labels = bunch.target.astype(np.int64)
    # A permutation that no library version can change: order by the hash of the position.
    order = np.array(sorted(range(len(labels)), key=lambda i: hashlib.sha256(f"digits/{i}".encode()).digest()))
    test = np.zeros(len(labels), dtype=bool)
    for label in range(10):
        members = order[labels[order] == label]
        test[members[: len(members) // 4]] = True
    return RawSplits(images[~test], labels[~test], images[test], labels[test])


def _from_torchvision(factory: Callable[..., Any], root: Path) -> RawSplits:
    arrays: list[NDArray[Any]] = []
    for train in (True, False):
        part = factory(str(root), train=train, download=False)
        images = np.asarray(part.data)
        images = images[:, None] if images.ndim == 3 else np.ascontiguousarray(images.transpose(0, 3, 1, 2))
        arrays += [images.astype(np.uint8, copy=False), np.asarray(part.targets, dtype=np.int64)]
    return RawSplits(*arrays)


def _torchvision_set(name: str, class_name: str, files: str) -> Callable[[Path], RawSplits]:
    def read(root: Path) -> RawSplits:
        from core.data.vision import datasets

        factory = getattr(datasets, class_name)
        if _present(factory, root):
            return _from_torchvision(factory, root)
        if name == "fashion-mnist" and DEBIAN_FASHION_MNIST.is_dir():
            with tempfile.TemporaryDirectory() as scratch:
                _unpack_debian_fashion_mnist(Path(scratch))
                return _from_torchvision(factory, Path(scratch))
        _download(factory, root, name, files)
        return _from_torchvision(factory, root)

    return read


def _present(factory: Callable[..., Any], root: Path) -> bool:
    try:
        factory(str(root), train=True, download=False)
        factory(str(root), train=False, download=False)
    except RuntimeError:  # torchvision's "Dataset not found or corrupted"
        return False
    return True


def _unpack_debian_fashion_mnist(root: Path) -> None:
    raw = root / "FashionMNIST" / "raw"
    raw.mkdir(parents=True)
    for packed in DEBIAN_FASHION_MNIST.glob("*ubyte.gz"):
        with gzip.open(packed) as source, (raw / packed.stem).open("wb") as target:
            shutil.copyfileobj(source, target)


def _download(factory: Callable[..., Any], root: Path, name: str, files: str) -> None:
    import socket

    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(DOWNLOAD_TIMEOUT_SECONDS)
    try:
        root.mkdir(parents=True, exist_ok=True)
        for train in (True, False):
            factory(str(root), train=train, download=True)
    except (OSError, RuntimeError) as error:
        raise DatasetUnreadableError(
            f"data set {name!r} is not on this worker and could not be downloaded ({type(error).__name__}). "
            f"Put these files under the data root {root} (setting DISTILL_DATA_ROOT): {files}"
        ) from error
    finally:
        socket.setdefaulttimeout(before)


_IDX = "{train,t10k}-images-idx3-ubyte and {train,t10k}-labels-idx1-ubyte"

READERS: dict[str, Callable[[Path], RawSplits]] = {
    "digits": _digits,
    "mnist": _torchvision_set("mnist", "MNIST", f"MNIST/raw/{_IDX}"),
    "fashion-mnist": _torchvision_set(
        "fashion-mnist", "FashionMNIST",
        f"FashionMNIST/raw/{_IDX} (or install Debian's package dataset-fashion-mnist)",
    ),
    "cifar10": _torchvision_set(
        "cifar10", "CIFAR10", "cifar-10-batches-py/{data_batch_1..5,test_batch,batches.meta} (the python version)"
    ),
}
"""Reader of each named set, from the data root."""
