"""The built-in data sets as facts: shape, classes, counts, split rule, normalisation and digest. Torch-free.

The API refuses an impossible request from this table alone; the worker checks the bytes it reads against the digest. A set
whose bytes were never at hand has no digest: it is `verified` by nobody, and only shapes and counts are checked.
Normalisation constants are the field's published ones where they exist (method references 2.3); `digits` carries its own
statistics, measured on its training split.
"""

from __future__ import annotations

import math

from pydantic import BaseModel, ConfigDict

from core.class_names import CIFAR100, TINY_IMAGENET
from core.errors import UnknownDatasetError


class DatasetInfo(BaseModel):
    """What is known of a real set before a byte of it is read."""

    model_config = ConfigDict(frozen=True)

    name: str
    title: str
    channels: int
    height: int
    """Pixels."""
    width: int
    """Pixels."""
    classes: tuple[str, ...]
    train_per_class: tuple[int, ...]
    test_per_class: tuple[int, ...]
    mean: tuple[float, ...]
    """Per channel, of images scaled to [0, 1]; subtracted before the networks see them."""
    std: tuple[float, ...]
    mirrored: bool
    """Whether a mirrored image still shows its class, so that `flip` is a fair augmentation."""
    split_rule: str
    digest: str | None
    """SHA-256 of the canonical form, computed from the real bytes; None where they were not at hand."""
    source: str
    """Where the bytes come from, for a person."""

    @property
    def verified(self) -> bool:
        """Whether the digest of the real bytes is known, so that a worker can tell that it read them."""
        return self.digest is not None

    @property
    def identity(self) -> str:
        """What keys of derived data are made from: the digest, or `unverified-NAME`."""
        return self.digest or f"unverified-{self.name}"

    @property
    def num_classes(self) -> int:
        """Number of classes K."""
        return len(self.classes)

    @property
    def scalars_per_image(self) -> int:
        """C x H x W."""
        return self.channels * self.height * self.width

    def train_per_class_after(self, held_out_fraction: float) -> tuple[int, ...]:
        """Training images per class left after holding out a fraction of each class (rounded down)."""
        return tuple(n - int(n * held_out_fraction) for n in self.train_per_class)


def convnet_depth(side: int) -> int:
    """The field's depth rule: max(1, round(log2(side)) - 2); 8 px -> 1, 28 and 32 px -> 3, 64 px -> 4."""
    return max(1, round(math.log2(side)) - 2)


_DIGITS = tuple(str(i) for i in range(10))
_OFFICIAL = "official training and test split"

CATALOGUE: dict[str, DatasetInfo] = {
    info.name: info
    for info in (
        DatasetInfo(
            name="digits", title="Optical digits (scikit-learn)", channels=1, height=8, width=8, classes=_DIGITS,
            train_per_class=(134, 137, 133, 138, 136, 137, 136, 135, 131, 135),
            test_per_class=(44, 45, 44, 45, 45, 45, 45, 44, 43, 45),
            mean=(0.3054,), std=(0.3760,), mirrored=False,
            split_rule="stratified: a quarter of each class (rounded down) by a fixed permutation is the test split",
            digest="f4e46facbcc0b17ccb31eb0a83fd3d2e33077fc436f35799853088cf5225a404",
            source="carried by the package scikit-learn",
        ),
        DatasetInfo(
            name="mnist", title="MNIST", channels=1, height=28, width=28, classes=_DIGITS,
            train_per_class=(5923, 6742, 5958, 6131, 5842, 5421, 5918, 6265, 5851, 5949),
            test_per_class=(980, 1135, 1032, 1010, 982, 892, 958, 1028, 974, 1009),
            mean=(0.1307,), std=(0.3081,), mirrored=False, split_rule=_OFFICIAL,
            digest="f03f67b1b8911ec41cbced5619d373025b283872e9aca9f1a33b78c4e4a82345",
            source="data root (MNIST/raw), or downloaded by torchvision",
        ),
        DatasetInfo(
            name="fashion-mnist", title="Fashion-MNIST", channels=1, height=28, width=28,
            classes=("T-shirt/top", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot"),
            train_per_class=(6000,) * 10, test_per_class=(1000,) * 10,
            mean=(0.2861,), std=(0.3530,), mirrored=True, split_rule=_OFFICIAL,
            digest="4534a8a413eff65ac48ea6d77aeb47bd49d44cf9cad2a951a3d8866c8831a711",
            source="data root (FashionMNIST/raw), Debian's package dataset-fashion-mnist, or downloaded by torchvision",
        ),
        DatasetInfo(
            name="svhn", title="SVHN, cropped digits", channels=3, height=32, width=32, classes=_DIGITS,
            train_per_class=(4948, 13861, 10585, 8497, 7458, 6882, 5727, 5595, 5045, 4659),
            test_per_class=(1744, 5099, 4149, 2882, 2523, 2384, 1977, 2019, 1660, 1595),
            mean=(0.4377, 0.4438, 0.4728), std=(0.1980, 0.2010, 0.1970), mirrored=False,
            split_rule=_OFFICIAL + ", without the extra images", digest=None,
            source="data root (train_32x32.mat, test_32x32.mat), or downloaded by torchvision",
        ),
        DatasetInfo(
            name="cifar10", title="CIFAR-10", channels=3, height=32, width=32,
            classes=("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"),
            train_per_class=(5000,) * 10, test_per_class=(1000,) * 10,
            mean=(0.4914, 0.4822, 0.4465), std=(0.2023, 0.1994, 0.2010), mirrored=True, split_rule=_OFFICIAL,
            digest="5e5e71ed4630d506c7721247a52e06e4d8039bf51773ffa53a56d97866d045ee",
            source="data root (cifar-10-batches-py), or downloaded by torchvision",
        ),
        DatasetInfo(
            name="cifar100", title="CIFAR-100", channels=3, height=32, width=32, classes=CIFAR100,
            train_per_class=(500,) * 100, test_per_class=(100,) * 100,
            mean=(0.5071, 0.4866, 0.4409), std=(0.2673, 0.2564, 0.2762), mirrored=True, split_rule=_OFFICIAL, digest=None,
            source="data root (cifar-100-python), or downloaded by torchvision",
        ),
        DatasetInfo(
            name="tiny-imagenet", title="TinyImageNet", channels=3, height=64, width=64, classes=tuple(TINY_IMAGENET.values()),
            train_per_class=(500,) * 200, test_per_class=(50,) * 200,
            mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225), mirrored=True,
            split_rule="official training and validation split; the labels of the official test images are not published",
            digest=None, source="data root (tiny-imagenet-200, the unpacked archive)",
        ),
    )
}


def dataset_info(name: str) -> DatasetInfo:
    """Look a built-in set up.

    Raises:
        UnknownDatasetError: no set has this name.
    """
    try:
        return CATALOGUE[name]
    except KeyError:
        raise UnknownDatasetError.at("/dataset/name", f"unknown data set {name!r}; known: {', '.join(CATALOGUE)}") from None
