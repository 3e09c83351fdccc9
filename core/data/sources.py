"""Readers of the named sets: from where they lie to plain uint8 arrays.

Every reader returns `RawSplits`. Digits come inside scikit-learn, TinyImageNet is its unpacked archive under the data root; the
others are read through torchvision from the data root, from Debian's `dataset-fashion-mnist` package, or downloaded by
torchvision where the network allows. torchvision compares files with their published MD5 sums, also those of SVHN and
CIFAR-100, whose digest the catalogue does not know; nothing vouches for the files of TinyImageNet.
"""

from __future__ import annotations

import gzip
import hashlib
import logging
import shutil
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from core.class_names import TINY_IMAGENET
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


def _tiny_imagenet(root: Path) -> RawSplits:
    """Training images in the order of class ids and file names; the validation images, as annotated, are the test split.

    Grey files become three equal channels. The digest of the canonical form is one of decoded pixels, and decoders of JPEG may
    differ in a last bit.
    """
    folder = root / "tiny-imagenet-200"
    labels = {wnid: label for label, wnid in enumerate(TINY_IMAGENET)}
    train = [
        (path, label) for wnid, label in labels.items() for path in sorted((folder / "train" / wnid / "images").glob("*.JPEG"))
    ]
    annotations = folder / "val" / "val_annotations.txt"
    if not train or not annotations.is_file():
        raise _missing("tiny-imagenet", root, "and is not downloaded", _TINY_IMAGENET_FILES)
    test: list[tuple[Path, int]] = []
    for line in annotations.read_text().splitlines():
        file, wnid, *_box = line.split("\t")
        if wnid not in labels:
            raise DatasetUnreadableError(f"{annotations} names the class {wnid!r}, which TinyImageNet does not have")
        test.append((folder / "val" / "images" / file, labels[wnid]))
    return RawSplits(*_decoded(train, 64), *_decoded(test, 64))


def _decoded(files: Sequence[tuple[Path, int]], side: int) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    from PIL import Image

    images = np.empty((len(files), 3, side, side), np.uint8)
    for i, (path, _) in enumerate(files):
        with Image.open(path) as image:
            if image.size != (side, side):
                raise DatasetUnreadableError(f"{path} is not {side} x {side} pixels")
            images[i] = np.asarray(image.convert("RGB")).transpose(2, 0, 1)
    return images, np.array([label for _, label in files], np.int64)


def _svhn(root: str, *, train: bool, download: bool) -> Any:
    """SVHN with the arguments and attributes of torchvision's other sets. It reads `.mat` files with scikit-learn's scipy."""
    from core.data.vision import datasets

    part = datasets.SVHN(root, split="train" if train else "test", download=download)
    return SimpleNamespace(data=part.data.transpose(0, 2, 3, 1), targets=part.labels)


def _factory(class_name: str) -> Callable[..., Any]:
    from core.data.vision import datasets

    return _svhn if class_name == "SVHN" else getattr(datasets, class_name)


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
        factory = _factory(class_name)
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
        raise _missing(name, root, f"and could not be downloaded ({type(error).__name__})", files) from error
    finally:
        socket.setdefaulttimeout(before)


def _missing(name: str, root: Path, why: str, files: str) -> DatasetUnreadableError:
    return DatasetUnreadableError(
        f"data set {name!r} is not on this worker {why}. "
        f"Put these files under the data root {root} (setting DISTILL_DATA_ROOT): {files}"
    )


_TINY_IMAGENET_FILES = (
    "tiny-imagenet-200/train/<wnid>/images/*.JPEG, tiny-imagenet-200/val/val_annotations.txt and "
    "tiny-imagenet-200/val/images/*.JPEG (the unpacked tiny-imagenet-200.zip)"
)
_IDX = "{train,t10k}-images-idx3-ubyte and {train,t10k}-labels-idx1-ubyte"

READERS: dict[str, Callable[[Path], RawSplits]] = {
    "digits": _digits,
    "mnist": _torchvision_set("mnist", "MNIST", f"MNIST/raw/{_IDX}"),
    "fashion-mnist": _torchvision_set(
        "fashion-mnist", "FashionMNIST",
        f"FashionMNIST/raw/{_IDX} (or install Debian's package dataset-fashion-mnist)",
    ),
    "svhn": _torchvision_set("svhn", "SVHN", "train_32x32.mat and test_32x32.mat (format 2, cropped digits)"),
    "cifar10": _torchvision_set(
        "cifar10", "CIFAR10", "cifar-10-batches-py/{data_batch_1..5,test_batch,batches.meta} (the python version)"
    ),
    "cifar100": _torchvision_set("cifar100", "CIFAR100", "cifar-100-python/{train,test,meta} (the python version)"),
    "tiny-imagenet": _tiny_imagenet,
}
"""Reader of each named set, from the data root."""
