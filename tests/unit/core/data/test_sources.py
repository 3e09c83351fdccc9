"""Readers on generated files of the published layouts, and what becomes of a set whose digest nobody knows."""

from __future__ import annotations

import hashlib
import logging
import pickle
from pathlib import Path
from typing import Any
from urllib.error import URLError

import numpy as np
import pytest
from PIL import Image
from scipy.io import savemat

from core.catalogue import CATALOGUE, DatasetInfo
from core.class_names import TINY_IMAGENET
from core.data import canonical
from core.data.prepare import prepare
from core.data.sources import READERS
from core.data.vision import datasets
from core.errors import DatasetUnreadableError

pytestmark = pytest.mark.unit
WNIDS = sorted(TINY_IMAGENET)


def md5(path: Path) -> str:
    return hashlib.md5(path.read_bytes()).hexdigest()


@pytest.fixture
def svhn_root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Twelve training and ten test images; image i of either has every pixel of channel c at 10 * i + c."""
    known: dict[str, Any] = {}
    for split, labels in (("train", [10, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 3]), ("test", [1, 2, 3, 4, 5, 6, 7, 8, 9, 10])):
        images = np.empty((32, 32, 3, len(labels)), np.uint8)
        images[:] = 10 * np.arange(len(labels)) + np.arange(3)[:, None]
        path = tmp_path / f"{split}_32x32.mat"
        savemat(path, {"X": images, "y": np.array(labels, np.uint8)[:, None]})
        known[split] = ["nowhere", path.name, md5(path)]
    monkeypatch.setattr(datasets.SVHN, "split_list", known)
    return tmp_path


@pytest.fixture
def cifar100_root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """One training image of each class and 50 test images, labels falling; plane c of image i is 2 * i % 200 + c."""
    folder = tmp_path / "cifar-100-python"
    folder.mkdir()
    for split, count in (("train", 100), ("test", 50)):
        data = ((2 * np.arange(count) % 200)[:, None] + np.repeat(np.arange(3), 1024)).astype(np.uint8)
        content = {"data": data, "fine_labels": list(range(count))[::-1], "coarse_labels": [0] * count}
        (folder / split).write_bytes(pickle.dumps(content))
        monkeypatch.setattr(datasets.CIFAR100, f"{split}_list", [[split, md5(folder / split)]])
    (folder / "meta").write_bytes(pickle.dumps({"fine_label_names": ["a"] * 100}))
    monkeypatch.setitem(datasets.CIFAR100.meta, "md5", md5(folder / "meta"))
    return tmp_path


def write_tiny_imagenet(root: Path) -> None:
    """Two training images of each class, named so that file order is not numeric order, and one validation image."""
    folder = root / "tiny-imagenet-200"
    (folder / "val" / "images").mkdir(parents=True)
    lines = []
    for label, wnid in enumerate(WNIDS):
        images = folder / "train" / wnid / "images"
        images.mkdir(parents=True)
        Image.new("RGB", (64, 64), (label, 0, 255 - label)).save(images / f"{wnid}_9.JPEG", quality=100)
        Image.new("L", (64, 64), label).save(images / f"{wnid}_10.JPEG", quality=100)
        Image.new("RGB", (64, 64), (label, label, 0)).save(folder / "val" / "images" / f"val_{label}.JPEG", quality=100)
        lines.append(f"val_{label}.JPEG\t{wnid}\t0\t0\t63\t62\n")
    (folder / "val" / "val_annotations.txt").write_text("".join(reversed(lines)))


@pytest.fixture(scope="module")
def tiny_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("tiny")
    write_tiny_imagenet(root)
    return root


def small(monkeypatch: pytest.MonkeyPatch, name: str, train: tuple[int, ...], test: tuple[int, ...]) -> DatasetInfo:
    """Let the catalogue promise other counts."""
    info = CATALOGUE[name].model_copy(update={"train_per_class": train, "test_per_class": test})
    monkeypatch.setitem(CATALOGUE, name, info)
    return info


class TestSVHN:
    def test_says_which_files_it_wants(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        def no_network(self: Any) -> None:
            raise URLError("no network")

        monkeypatch.setattr(datasets.SVHN, "download", no_network)
        with pytest.raises(DatasetUnreadableError, match=r"DISTILL_DATA_ROOT.*train_32x32\.mat") as caught:
            READERS["svhn"](tmp_path)
        assert str(tmp_path) in caught.value.message

    def test_reads_images_with_channels_first_and_the_digit_as_label(self, svhn_root: Path) -> None:
        splits = READERS["svhn"](svhn_root)
        assert splits.train_images.shape == (12, 3, 32, 32)
        assert splits.train_images.dtype == np.uint8
        assert splits.train_images.flags.c_contiguous
        assert splits.train_images[:, :, 5, 7].tolist() == [[10 * i, 10 * i + 1, 10 * i + 2] for i in range(12)]
        assert splits.train_labels.tolist() == [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 0, 3]
        assert splits.train_labels.dtype == np.int64
        assert splits.test_labels.tolist() == [1, 2, 3, 4, 5, 6, 7, 8, 9, 0]


class TestCIFAR100:
    def test_reads_fine_labels(self, cifar100_root: Path) -> None:
        splits = READERS["cifar100"](cifar100_root)
        assert splits.train_images.shape == (100, 3, 32, 32)
        assert splits.test_images.shape == (50, 3, 32, 32)
        assert splits.train_images[40, :, 31, 0].tolist() == [80, 81, 82]
        assert splits.train_labels.tolist() == list(range(100))[::-1]
        assert splits.test_labels.tolist() == list(range(50))[::-1]


class TestTinyImageNet:
    def test_says_which_files_it_wants(self, tmp_path: Path) -> None:
        with pytest.raises(DatasetUnreadableError, match=r"DISTILL_DATA_ROOT.*tiny-imagenet-200/val/val_annotations\.txt"):
            READERS["tiny-imagenet"](tmp_path)

    def test_refuses_a_class_it_does_not_have(self, tmp_path: Path) -> None:
        write_tiny_imagenet(tmp_path)
        with (tmp_path / "tiny-imagenet-200" / "val" / "val_annotations.txt").open("a") as file:
            file.write("val_0.JPEG\tn00000001\t0\t0\t1\t1\n")
        with pytest.raises(DatasetUnreadableError, match="n00000001"):
            READERS["tiny-imagenet"](tmp_path)

    def test_refuses_an_image_of_another_size(self, tmp_path: Path) -> None:
        write_tiny_imagenet(tmp_path)
        path = tmp_path / "tiny-imagenet-200" / "val" / "images" / "val_3.JPEG"
        Image.new("RGB", (32, 64)).save(path)
        with pytest.raises(DatasetUnreadableError, match=r"val_3\.JPEG is not 64 x 64"):
            READERS["tiny-imagenet"](tmp_path)

    def test_sorts_classes_and_files_and_follows_the_annotations(self, tiny_root: Path) -> None:
        splits = READERS["tiny-imagenet"](tiny_root)
        assert splits.train_images.shape == (400, 3, 64, 64)
        assert splits.train_labels.tolist() == np.repeat(np.arange(200), 2).tolist()
        assert splits.test_labels.tolist() == list(range(200))[::-1]
        grey, colour = (splits.train_images[2 * 150 + i, :, 30, 30].astype(int) for i in (0, 1))
        assert np.abs(grey - 150).max() <= 2
        assert np.abs(colour - (150, 0, 105)).max() <= 2
        assert np.abs(splits.test_images[199 - 77, :, 0, 0].astype(int) - (77, 77, 0)).max() <= 2


class TestUnverified:
    def test_counts_are_checked(self, svhn_root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        with pytest.raises(DatasetUnreadableError, match=r"training images of shape \(12, 3, 32, 32\).*73257"):
            prepare("svhn", svhn_root, tmp_path / "out")
        small(monkeypatch, "svhn", (1, 2, 1, 2, 1, 1, 1, 1, 1, 1), (1,) * 10)
        with pytest.raises(DatasetUnreadableError, match="training images per class"):
            prepare("svhn", svhn_root, tmp_path / "out")
        assert not (tmp_path / "out").exists()

    def test_other_data_passes_with_a_warning_and_its_digest_is_kept(
        self, tiny_root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
    ) -> None:
        info = small(monkeypatch, "tiny-imagenet", (2,) * 200, (1,) * 200)
        with caplog.at_level(logging.WARNING):
            prepare("tiny-imagenet", tiny_root, tmp_path / "out")
            prepare("tiny-imagenet", Path("/nowhere"), tmp_path / "out")
        splits, digest = canonical.read(tmp_path / "out")
        assert digest == canonical.digest_of(splits)
        assert len(caplog.messages) == 2
        assert all("not verified" in line and digest in line for line in caplog.messages)
        assert not info.verified
