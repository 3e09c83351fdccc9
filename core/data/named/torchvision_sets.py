"""Readers of the sets that torchvision knows: from the data root, else downloaded by it where the network allows.

Fashion-MNIST is also read from Debian's package. torchvision compares with published MD5 sums what it downloads, and at each
reading also the files of CIFAR, SVHN and STL-10. Of MNIST and its kin it checks the published archives, which it unpacks
without a network where they lie in the place of the files, but not files that were put there unpacked.
"""

from __future__ import annotations

import gzip
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from core.data.named.raw import RawSplits, missing

DEBIAN_FASHION_MNIST = Path("/usr/share/datasets/fashion-mnist")
DOWNLOAD_TIMEOUT_SECONDS = 20.0

EMNISTSplit = Literal["byclass", "balanced", "letters", "digits", "mnist"]


class Factory(Protocol):
    """One split of a set as torchvision makes it: `data` (N, H, W) or (N, H, W, C) uint8, and `targets`."""

    def __call__(self, root: str, *, train: bool, download: bool) -> Any:
        """Raises RuntimeError where files are missing or, for sets with MD5 sums, others."""


def torchvision_set(name: str, part: Factory, files: str) -> Callable[[Path], RawSplits]:
    """A reader; `files` says for a person what belongs under the data root."""

    def read(root: Path) -> RawSplits:
        found = _found(part, root)
        if found is None and name == "fashion-mnist" and DEBIAN_FASHION_MNIST.is_dir():
            with tempfile.TemporaryDirectory() as scratch:
                _unpack_debian_fashion_mnist(Path(scratch))
                return _arrays(part, Path(scratch))
        if found is None:
            download(part, root, name, files)
            found = _arrays(part, root)
        return found

    return read


def download(part: Factory, root: Path, name: str, files: str) -> None:
    """Let torchvision download both splits.

    Raises:
        DatasetUnreadableError: it could not; the message says where to put which files instead.
    """
    import socket

    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(DOWNLOAD_TIMEOUT_SECONDS)
    try:
        root.mkdir(parents=True, exist_ok=True)
        for train in (True, False):
            part(str(root), train=train, download=True)
    except (OSError, RuntimeError) as error:
        raise missing(name, root, f"and could not be downloaded ({type(error).__name__})", files) from error
    finally:
        socket.setdefaulttimeout(before)


def plain(class_name: str) -> Factory:
    """A set whose class has the common arguments and attributes."""

    def part(root: str, *, train: bool, download: bool) -> Any:
        from core.data.vision import datasets

        return getattr(datasets, class_name)(root, train=train, download=download)

    return part


def emnist(split: EMNISTSplit) -> Factory:
    """EMNIST, whose files hold every image transposed, upright; the letters are counted from 1 there and from 0 here."""

    def part(root: str, *, train: bool, download: bool) -> Any:
        from core.data.vision import datasets

        found = datasets.EMNIST(root, split=split, train=train, download=download)
        return SimpleNamespace(data=found.data.transpose(1, 2), targets=found.targets - int(split == "letters"))

    return part


def svhn(root: str, *, train: bool, download: bool) -> Any:
    """SVHN without its extra images. It reads `.mat` files with scikit-learn's scipy."""
    from core.data.vision import datasets

    part = datasets.SVHN(root, split="train" if train else "test", download=download)
    return SimpleNamespace(data=part.data.transpose(0, 2, 3, 1), targets=part.labels)


def stl10(root: str, *, train: bool, download: bool) -> Any:
    """STL-10 without its unlabelled images, whose 2.8 GB need not be there."""
    from core.data.vision import datasets

    labelled: Any = type("STL10", (datasets.STL10,), {"train_list": datasets.STL10.train_list[:2]})
    part = labelled(root, split="train" if train else "test", download=download)
    return SimpleNamespace(data=part.data.transpose(0, 2, 3, 1), targets=part.labels)


def _found(part: Factory, root: Path) -> RawSplits | None:
    try:
        return _arrays(part, root)
    except RuntimeError:  # torchvision's "Dataset not found or corrupted"
        return None


def _arrays(part: Factory, root: Path) -> RawSplits:
    arrays: list[NDArray[Any]] = []
    for train in (True, False):
        found = part(str(root), train=train, download=False)
        images = np.asarray(found.data)
        images = np.ascontiguousarray(images[:, None] if images.ndim == 3 else images.transpose(0, 3, 1, 2))
        arrays += [images.astype(np.uint8, copy=False), np.asarray(found.targets, dtype=np.int64)]
    return RawSplits(*arrays)


def _unpack_debian_fashion_mnist(root: Path) -> None:
    raw = root / "FashionMNIST" / "raw"
    raw.mkdir(parents=True)
    for packed in DEBIAN_FASHION_MNIST.glob("*ubyte.gz"):
        with gzip.open(packed) as source, (raw / packed.stem).open("wb") as target:
            shutil.copyfileobj(source, target)
