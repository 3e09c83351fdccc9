"""Readers of the named sets: from where they lie to plain uint8 arrays.

Every reader returns `RawSplits`. Digits come inside scikit-learn; the others are read from the data root, and some of them
downloaded by torchvision where the network allows (`core/data/named`).
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path

import numpy as np

from core.class_names import IMAGENETTE, IMAGEWOOF
from core.data.named import image_folders, speech
from core.data.named.raw import RawSplits
from core.data.named.torchvision_sets import (
    DEBIAN_FASHION_MNIST,
    EMNISTSplit,
    emnist,
    plain,
    stl10,
    svhn,
    torchvision_set,
)

__all__ = ["DEBIAN_FASHION_MNIST", "READERS", "RawSplits"]


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


_IDX = "{train,t10k}-images-idx3-ubyte and {train,t10k}-labels-idx1-ubyte"
_PACKED = "or, to have them checked, the published .gz files in the same place"


def _emnist(split: EMNISTSplit) -> Callable[[Path], RawSplits]:
    files = f"emnist-{split}-{{train,test}}-images-idx3-ubyte and emnist-{split}-{{train,test}}-labels-idx1-ubyte"
    return torchvision_set(
        f"emnist-{split}", emnist(split),
        f"EMNIST/raw/{files} (or, to have them checked, the published gzip.zip in the same place)",
    )


READERS: dict[str, Callable[[Path], RawSplits]] = {
    "digits": _digits,
    "mnist": torchvision_set("mnist", plain("MNIST"), f"MNIST/raw/{_IDX} ({_PACKED})"),
    "fashion-mnist": torchvision_set(
        "fashion-mnist", plain("FashionMNIST"),
        f"FashionMNIST/raw/{_IDX} ({_PACKED}, or install Debian's package dataset-fashion-mnist)",
    ),
    "kmnist": torchvision_set("kmnist", plain("KMNIST"), f"KMNIST/raw/{_IDX} ({_PACKED})"),
    "emnist-balanced": _emnist("balanced"),
    "emnist-byclass": _emnist("byclass"),
    "emnist-letters": _emnist("letters"),
    "emnist-digits": _emnist("digits"),
    "emnist-mnist": _emnist("mnist"),
    "svhn": torchvision_set("svhn", svhn, "train_32x32.mat and test_32x32.mat (format 2, cropped digits)"),
    "cifar10": torchvision_set(
        "cifar10", plain("CIFAR10"), "cifar-10-batches-py/{data_batch_1..5,test_batch,batches.meta} (the python version)"
    ),
    "cifar100": torchvision_set("cifar100", plain("CIFAR100"), "cifar-100-python/{train,test,meta} (the python version)"),
    "stl10": torchvision_set("stl10", stl10, "stl10_binary/{train,test}_{X,y}.bin (of the unpacked stl10_binary.tar.gz)"),
    "tiny-imagenet": image_folders.tiny_imagenet,
    "imagenette": image_folders.imagenette("imagenette", IMAGENETTE, downloaded=True),
    "imagewoof": image_folders.imagenette("imagewoof", IMAGEWOOF, downloaded=False),
    "mini-speech-commands": speech.mini_speech_commands,
    "fsdd": speech.fsdd,
}
"""Reader of each named set, from the data root."""
