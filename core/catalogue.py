"""The built-in data sets as facts: shape, classes, counts, split rule, normalisation and digest. Torch-free.

The API refuses an impossible request from this table alone; the worker checks the bytes it reads against the digest. A set
whose bytes were never at hand has no digest: it is `verified` by nobody, and only shapes and counts are checked.
Normalisation constants are the field's published ones where they exist (method references 2.3; a comment says where others
come from); `digits` and `fsdd` carry their own statistics, measured on their training splits.
"""

from __future__ import annotations

import math

from pydantic import BaseModel, ConfigDict

from core.class_names import (
    CIFAR100,
    EMNIST_BY_CLASS,
    EMNIST_MERGED,
    IMAGENETTE,
    IMAGEWOOF,
    MINI_SPEECH_COMMANDS,
    TINY_IMAGENET,
)
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
    time_axis: bool = False
    """Whether the width is time (a spectrogram), so that recipes which pack images cut them along it alone."""

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

    @property
    def canonical_bytes(self) -> int:
        """Bytes of the canonical arrays: a byte for each value of an image, eight for a label."""
        return (sum(self.train_per_class) + sum(self.test_per_class)) * (self.scalars_per_image + 8)

    def train_per_class_after(self, held_out_fraction: float) -> tuple[int, ...]:
        """Training images per class left after holding out a fraction of each class (rounded down)."""
        return tuple(n - int(n * held_out_fraction) for n in self.train_per_class)


def convnet_depth(side: int) -> int:
    """The field's depth rule: max(1, round(log2(side)) - 2); 8 px -> 1, 28 and 32 px -> 3, 64 px -> 4."""
    return max(1, round(math.log2(side)) - 2)


_DIGITS = tuple(str(i) for i in range(10))
_OFFICIAL = "official training and test split"
_IMAGENET_MEAN, _IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def _emnist(
    split: str, title: str, classes: tuple[str, ...], train: tuple[int, ...], test: tuple[int, ...], mean: float, std: float
) -> DatasetInfo:
    """A split of EMNIST. Left out is `bymerge`, whose images per class are not known to us.

    Counts: Cohen et al., arXiv:1702.05373; of letters, what torchvision finds in the files (the paper prints 88,800 + 14,800).
    Constants: those in common use with torchvision's EMNIST; nobody printed them, and the bytes were not at hand.
    """
    return DatasetInfo(
        name=f"emnist-{split}", title=f"EMNIST, {title}", channels=1, height=28, width=28, classes=classes,
        train_per_class=train, test_per_class=test, mean=(mean,), std=(std,), mirrored=False,
        split_rule=f"{_OFFICIAL}; images upright, labels from 0", digest=None,
        source=f"data root (EMNIST/raw/emnist-{split}-*), or downloaded by torchvision",
    )


def _imagenette(name: str, title: str, classes: tuple[str, ...], train: tuple[int, ...], test: tuple[int, ...]) -> DatasetInfo:
    """A subset of ImageNet by fast.ai, at the side and with the constants of MTT and HaBa."""
    return DatasetInfo(
        name=name, title=title, channels=3, height=128, width=128, classes=classes, train_per_class=train, test_per_class=test,
        mean=_IMAGENET_MEAN, std=_IMAGENET_STD, mirrored=True, digest=None,
        split_rule="training and validation split of the second edition; resized to a shorter side of 128 px, centre-cropped",
        source=f"data root ({name}2-160, the unpacked archive)",
    )

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
        DatasetInfo(  # constants: those in common use; nobody printed them
            name="kmnist", title="Kuzushiji-MNIST", channels=1, height=28, width=28,
            classes=("o", "ki", "su", "tsu", "na", "ha", "ma", "ya", "re", "wo"),
            train_per_class=(6000,) * 10, test_per_class=(1000,) * 10,
            mean=(0.1918,), std=(0.3483,), mirrored=False, split_rule=_OFFICIAL, digest=None,
            source="data root (KMNIST/raw), or downloaded by torchvision",
        ),
        _emnist("balanced", "balanced", EMNIST_MERGED, (2400,) * 47, (400,) * 47, 0.1751, 0.3332),
        # Counts: printed from the files by github.com/Minh1billion/emnist-byclass-regconition-image-processing-project; their
        # sums are the published 697,932 and 116,323.
        _emnist(
            "byclass", "by class", EMNIST_BY_CLASS,
            (
                34585, 38374, 34203, 35143, 33535, 31416, 34232, 35754, 33946, 33847, 6407, 3878, 10094, 4562, 4934, 9182, 2517,
                3152, 11946, 3762, 2468, 5076, 9002, 8237, 24983, 8347, 2605, 5073, 20764, 9820, 12602, 4637, 4695, 2771, 4743,
                2701, 10033, 5159, 2854, 10177, 24631, 2561, 3687, 8738, 2725, 1896, 2491, 15318, 2645, 11418, 2749, 2448, 2994,
                14105, 2699, 18262, 2830, 2910, 2697, 2822, 2365, 2725,
            ),
            (
                5778, 6330, 5869, 5969, 5619, 5190, 5705, 6139, 5633, 5686, 1062, 648, 1739, 779, 851, 1440, 447, 521, 2048,
                626, 382, 810, 1485, 1351, 4156, 1397, 413, 809, 3508, 1576, 2002, 796, 806, 432, 798, 464, 1644, 853, 432,
                1683, 4092, 400, 589, 1479, 427, 317, 466, 2535, 464, 1898, 466, 368, 505, 2320, 437, 2965, 482, 468, 467, 470,
                381, 451,
            ),
            0.1736, 0.3316,
        ),
        _emnist("letters", "letters", (*"abcdefghijklmnopqrstuvwxyz",), (4800,) * 26, (800,) * 26, 0.1722, 0.3309),
        _emnist("digits", "digits", _DIGITS, (24_000,) * 10, (4000,) * 10, 0.1733, 0.3317),
        _emnist("mnist", "made as MNIST is", _DIGITS, (6000,) * 10, (1000,) * 10, 0.1733, 0.3317),
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
        DatasetInfo(  # constants: those in common use; nobody printed them
            name="stl10", title="STL-10", channels=3, height=96, width=96,
            classes=("airplane", "bird", "car", "cat", "deer", "dog", "horse", "monkey", "ship", "truck"),
            train_per_class=(500,) * 10, test_per_class=(800,) * 10,
            mean=(0.4467, 0.4398, 0.4066), std=(0.2603, 0.2566, 0.2713), mirrored=True,
            split_rule=_OFFICIAL + ", without the unlabelled images and the folds", digest=None,
            source="data root (stl10_binary), or downloaded by torchvision",
        ),
        DatasetInfo(
            name="tiny-imagenet", title="TinyImageNet", channels=3, height=64, width=64, classes=tuple(TINY_IMAGENET.values()),
            train_per_class=(500,) * 200, test_per_class=(50,) * 200,
            mean=_IMAGENET_MEAN, std=_IMAGENET_STD, mirrored=True,
            split_rule="official training and validation split; the labels of the official test images are not published",
            digest=None, source="data root (tiny-imagenet-200, the unpacked archive)",
        ),
        # Counts of either: every class holds the 1300 training and 50 validation images of ILSVRC 2012 (chain saw 1194,
        # English foxhound 754 and 50), dealt anew; the sums are the published 9,469 + 3,925 and 9,025 + 3,929.
        _imagenette(
            "imagenette", "Imagenette, 128 px", tuple(IMAGENETTE.values()),
            (963, 955, 993, 858, 941, 956, 961, 931, 951, 960), (387, 395, 357, 386, 409, 394, 389, 419, 399, 390),
        ),
        _imagenette(
            "imagewoof", "Imagewoof, 128 px", tuple(IMAGEWOOF.values()),
            (941, 942, 932, 580, 949, 943, 949, 928, 921, 940), (409, 408, 418, 224, 401, 407, 401, 422, 429, 410),
        ),
        DatasetInfo(  # constants: measured on 80 clips of these words from Speech Commands v0.01, all that was at hand
            name="mini-speech-commands", title="Mini Speech Commands, spectrograms", channels=1, height=64, width=64,
            classes=MINI_SPEECH_COMMANDS, train_per_class=(875,) * 8, test_per_class=(125,) * 8,
            mean=(0.1771,), std=(0.1650,), mirrored=False, time_axis=True,
            split_rule="of the sorted files of each word, the first and every eighth after it are the test split, as in the "
            "code of Kim et al. (IDC), ICML 2022; speakers are in both",
            digest=None, source="data root (mini_speech_commands, the unpacked archive)",
        ),
        DatasetInfo(
            name="fsdd", title="Free Spoken Digit Dataset, spectrograms", channels=1, height=64, width=64, classes=_DIGITS,
            train_per_class=(270,) * 10, test_per_class=(30,) * 10,
            mean=(0.1371,), std=(0.1871,), mirrored=False, time_axis=True,
            split_rule="takes 0 to 4 of each speaker and digit are the test split, 5 to 49 the training split, by its readme",
            digest="0725f9aa2bb90fa8e3cd68218642181b9c02657d9441e5e36c82fa938048f67c",
            source="data root (fsdd/recordings, of github.com/Jakobovski/free-spoken-digit-dataset)",
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
        known = f"known: {', '.join(CATALOGUE)}; a set of your own is named by its id, ds_..."
        raise UnknownDatasetError.at("/dataset/name", f"unknown data set {name!r}; {known}") from None
