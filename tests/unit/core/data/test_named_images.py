"""Readers of the image sets that came after the first seven, on generated files of the published layouts."""

from __future__ import annotations

import gzip
import hashlib
import logging
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any, get_args
from urllib.error import URLError

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from core.catalogue import CATALOGUE, dataset_info
from core.class_names import IMAGENETTE, IMAGEWOOF
from core.data import canonical
from core.data.named import torchvision_sets
from core.data.named.torchvision_sets import EMNISTSplit
from core.data.prepare import prepare
from core.data.sources import READERS
from core.data.vision import datasets
from core.errors import DatasetUnreadableError

pytestmark = pytest.mark.unit

WNIDS = {"imagenette": list(IMAGENETTE), "imagewoof": list(IMAGEWOOF)}


def md5(path: Path) -> str:
    return hashlib.md5(path.read_bytes()).hexdigest()


def write_idx(path: Path, array: NDArray[np.uint8]) -> None:
    """The format of MNIST: two zero bytes, 8 for bytes, the number of axes, their lengths as big-endian integers, the bytes."""
    path.parent.mkdir(parents=True, exist_ok=True)
    head = bytes((0, 0, 8, array.ndim)) + np.array(array.shape, ">i4").tobytes()
    path.write_bytes(head + array.tobytes())


def write_kmnist(root: Path) -> None:
    """Twenty training and ten test images; image i is i everywhere but for its first row, which is 200 + label."""
    for part, count in (("train", 20), ("t10k", 10)):
        labels = (np.arange(count) % 10)[::-1].astype(np.uint8)
        images = np.empty((count, 28, 28), np.uint8)
        images[:] = np.arange(count)[:, None, None]
        images[:, 0] = 200 + labels[:, None]
        write_idx(root / "KMNIST" / "raw" / f"{part}-images-idx3-ubyte", images)
        write_idx(root / "KMNIST" / "raw" / f"{part}-labels-idx1-ubyte", labels)


def write_emnist(root: Path, split: str, first_label: int) -> None:
    """Two training images and one test image of each class; their left column is 255, but the file holds them transposed."""
    num_classes = dataset_info(f"emnist-{split}").num_classes
    for part, each in (("train", 2), ("test", 1)):
        labels = np.repeat(np.arange(num_classes, dtype=np.uint8), each)
        images = np.zeros((len(labels), 28, 28), np.uint8)
        images[:, :, 0] = 255
        images[:, 5, 1] = labels
        stem = root / "EMNIST" / "raw" / f"emnist-{split}-{part}"
        write_idx(stem.with_name(f"{stem.name}-images-idx3-ubyte"), np.ascontiguousarray(images.transpose(0, 2, 1)))
        write_idx(stem.with_name(f"{stem.name}-labels-idx1-ubyte"), labels + np.uint8(first_label))


def write_stl10(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One image of each class and split: pixel (row, column) of channel c is row, column and label for c = 0, 1 and 2."""
    folder = root / "stl10_binary"
    folder.mkdir()
    known: dict[str, list[list[str]]] = {}
    for part, labels in (("train", np.arange(10)), ("test", np.arange(10)[::-1])):
        images = np.empty((10, 3, 96, 96), np.uint8)
        images[:, 0], images[:, 1] = np.arange(96)[:, None], np.arange(96)
        images[:, 2] = labels[:, None, None]
        (folder / f"{part}_X.bin").write_bytes(np.ascontiguousarray(images.transpose(0, 1, 3, 2)).tobytes())
        (folder / f"{part}_y.bin").write_bytes((labels + 1).astype(np.uint8).tobytes())
        known[part] = [[f"{part}_{kind}.bin", md5(folder / f"{part}_{kind}.bin")] for kind in "Xy"]
    monkeypatch.setattr(datasets.STL10, "train_list", [*known["train"], ["unlabeled_X.bin", "0" * 32]])
    monkeypatch.setattr(datasets.STL10, "test_list", known["test"])


def write_imagenette(root: Path, name: str) -> None:
    """Three bands, red, label-coloured and blue, of which only the middle one is left: two training images, one to validate."""
    for label, wnid in enumerate(WNIDS[name]):
        for split, sizes in (("train", ((320, 160), (160, 320))), ("val", ((160, 160),))):
            folder = root / f"{name}2-160" / split / wnid
            folder.mkdir(parents=True)
            for i, (width, height) in enumerate(sizes):
                image = Image.new("RGB", (width, height), (0, 20 * label, 0))
                if width > height:
                    image.paste((255, 0, 0), (0, 0, 80, 160))
                    image.paste((0, 0, 255), (240, 0, 320, 160))
                elif height > width:
                    image.paste((255, 0, 0), (0, 0, 160, 80))
                    image.paste((0, 0, 255), (0, 240, 160, 320))
                image.save(folder / f"{wnid}_{9 + i}.JPEG", quality=100)


class TestMissing:
    """Where the network is closed, the message names the setting, the folder and the files."""

    @pytest.mark.parametrize("name", [name for name in READERS if name != "digits"])
    def test_says_where_to_put_which_files(self, name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        def no_network(self: Any) -> None:
            raise URLError("no network")

        for owner in (datasets.MNIST, datasets.EMNIST, datasets.CIFAR10, datasets.SVHN, datasets.STL10):
            monkeypatch.setattr(owner, "download", no_network)
        monkeypatch.setattr(datasets.Imagenette, "_download", no_network)
        monkeypatch.setattr(torchvision_sets, "DEBIAN_FASHION_MNIST", tmp_path / "not installed")
        first = {
            "mnist": "MNIST/raw/", "fashion-mnist": "FashionMNIST/raw/", "kmnist": "KMNIST/raw/", "svhn": "train_32x32.mat",
            "cifar10": "cifar-10-batches-py/", "cifar100": "cifar-100-python/", "stl10": "stl10_binary/",
            "tiny-imagenet": "tiny-imagenet-200/train/", "imagenette": "imagenette2-160/train/", "fsdd": "fsdd/recordings/",
            "imagewoof": "imagewoof2-160/train/", "mini-speech-commands": "mini_speech_commands/<word>/",
        }.get(name, f"EMNIST/raw/{name}-")
        with pytest.raises(DatasetUnreadableError) as caught:
            READERS[name](tmp_path / "root")
        message = caught.value.message
        assert message.startswith(f"data set {name!r} is not on this worker")
        assert f"under the data root {tmp_path / 'root'} (setting DISTILL_DATA_ROOT): {first}" in message


class TestKMNIST:
    def test_refuses_an_archive_with_other_bytes(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(datasets.KMNIST, "mirrors", [])
        self.pack(tmp_path, monkeypatch)
        (tmp_path / "KMNIST" / "raw" / "train-labels-idx1-ubyte.gz").write_bytes(gzip.compress(b"other"))
        with pytest.raises(DatasetUnreadableError, match="could not be downloaded"):
            READERS["kmnist"](tmp_path)

    def test_reads_files_that_lie_there(self, tmp_path: Path) -> None:
        write_kmnist(tmp_path)
        splits = READERS["kmnist"](tmp_path)
        assert splits.train_images.shape == (20, 1, 28, 28)
        assert splits.train_images[7, 0, 0, 0] == 200 + splits.train_labels[7]
        assert splits.train_images[7, 0, 1:].tolist() == np.full((27, 28), 7).tolist()
        assert splits.test_labels.tolist() == list(range(10))[::-1]
        assert splits.test_labels.dtype == np.int64

    def test_checks_and_unpacks_the_published_archives_without_a_network(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        self.pack(tmp_path, monkeypatch)
        assert READERS["kmnist"](tmp_path).train_images.shape == (20, 1, 28, 28)

    def pack(self, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """Only the .gz files, whose sums torchvision knows."""
        write_kmnist(root)
        known = []
        for path in sorted((root / "KMNIST" / "raw").iterdir()):
            packed = path.with_name(f"{path.name}.gz")
            packed.write_bytes(gzip.compress(path.read_bytes()))
            path.unlink()
            known.append((packed.name, md5(packed)))
        monkeypatch.setattr(datasets.KMNIST, "resources", known)


class TestEMNIST:
    @pytest.mark.parametrize("split", get_args(EMNISTSplit))
    def test_puts_images_upright_and_counts_labels_from_zero(self, split: str, tmp_path: Path) -> None:
        write_emnist(tmp_path, split, first_label=int(split == "letters"))
        splits, classes = READERS[f"emnist-{split}"](tmp_path), dataset_info(f"emnist-{split}").num_classes
        assert splits.train_images.shape == (2 * classes, 1, 28, 28)
        assert splits.train_images.flags.c_contiguous
        assert (splits.train_images[:, 0, :, 0] == 255).all()
        assert (splits.train_images[:, 0, :5, 1:] == 0).all()
        assert splits.train_images[:, 0, 5, 1].tolist() == splits.train_labels.tolist()
        assert splits.train_labels.tolist() == np.repeat(np.arange(classes), 2).tolist()
        assert splits.test_labels.tolist() == list(range(classes))

    def test_letters_counted_from_zero_are_others(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        write_emnist(tmp_path, "letters", first_label=0)
        smaller(monkeypatch, "emnist-letters", (2,) * 26, (1,) * 26)
        with pytest.raises(DatasetUnreadableError, match="training images per class"):
            prepare("emnist-letters", tmp_path, tmp_path / "out")

    def test_names_of_merged_letters(self) -> None:
        """torchvision's list, in the order of the labels."""
        for split in get_args(EMNISTSplit):
            names = [name for name in datasets.EMNIST.classes_split_dict[split] if name != "N/A"]
            assert list(dataset_info(f"emnist-{split}").classes) == names


class TestSTL10:
    def test_refuses_other_bytes(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        write_stl10(tmp_path, monkeypatch)
        monkeypatch.setattr(datasets.STL10, "url", "file:///nowhere")
        (tmp_path / "stl10_binary" / "test_y.bin").write_bytes(bytes(10))
        with pytest.raises(DatasetUnreadableError, match="could not be downloaded"):
            READERS["stl10"](tmp_path)

    def test_reads_labelled_images_upright_without_the_others(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        write_stl10(tmp_path, monkeypatch)
        splits = READERS["stl10"](tmp_path)
        assert splits.train_images.shape == (10, 3, 96, 96)
        assert splits.train_images[4, :, 30, 70].tolist() == [30, 70, 4]
        assert splits.train_labels.tolist() == list(range(10))
        assert splits.test_images[0, :, 1, 2].tolist() == [1, 2, 9]
        assert splits.test_labels.tolist() == list(range(10))[::-1]


class TestImagenette:
    @pytest.mark.parametrize("name", WNIDS)
    def test_refuses_an_archive_without_its_validation_images(self, name: str, tmp_path: Path) -> None:
        write_imagenette(tmp_path, name)
        shutil.rmtree(tmp_path / f"{name}2-160" / "val")
        with pytest.raises(DatasetUnreadableError, match=rf"DISTILL_DATA_ROOT.*{name}2-160/val"):
            READERS[name](tmp_path)

    @pytest.mark.parametrize("name", WNIDS)
    def test_keeps_the_middle_of_the_longer_side(self, name: str, tmp_path: Path) -> None:
        write_imagenette(tmp_path, name)
        splits = READERS[name](tmp_path)
        assert splits.train_images.shape == (20, 3, 128, 128)
        assert splits.train_labels.tolist() == np.repeat(np.arange(10), 2).tolist()
        assert splits.test_labels.tolist() == list(range(10))
        inner = splits.train_images[:, :, 3:-3, 3:-3].astype(int)
        expected = np.stack([np.zeros(20), 20 * splits.train_labels, np.zeros(20)], axis=1)[:, :, None, None]
        assert np.abs(inner - expected).max() <= 4

    def test_is_downloaded_where_it_is_missing(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(datasets.Imagenette, "_download", lambda self: self._check_exists() or publish(tmp_path))

        def publish(root: Path) -> None:
            write_imagenette(root, "imagenette")

        assert READERS["imagenette"](tmp_path).test_images.shape == (10, 3, 128, 128)


def smaller(monkeypatch: pytest.MonkeyPatch, name: str, train: tuple[int, ...], test: tuple[int, ...]) -> None:
    info = CATALOGUE[name].model_copy(update={"train_per_class": train, "test_per_class": test})
    monkeypatch.setitem(CATALOGUE, name, info)


@pytest.mark.parametrize(
    ("name", "write", "train", "test"),
    [
        ("kmnist", lambda root, _: write_kmnist(root), 2, 1),
        ("emnist-byclass", lambda root, _: write_emnist(root, "byclass", 0), 2, 1),
        ("stl10", write_stl10, 1, 1),
        ("imagewoof", lambda root, _: write_imagenette(root, "imagewoof"), 2, 1),
    ],
)
def test_is_converted_with_a_warning_that_nothing_vouches_for_it(
    name: str, write: Callable[[Path, pytest.MonkeyPatch], None], train: int, test: int,
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture,
) -> None:
    write(tmp_path, monkeypatch)
    info = dataset_info(name)
    with pytest.raises(DatasetUnreadableError, match="the catalogue says"):
        prepare(name, tmp_path, tmp_path / "out")
    smaller(monkeypatch, name, (train,) * info.num_classes, (test,) * info.num_classes)
    with caplog.at_level(logging.WARNING):
        prepare(name, tmp_path, tmp_path / "out")
    assert "not verified" in caplog.text
    splits, _ = canonical.read(tmp_path / "out")
    assert splits.train_images.shape[1:] == splits.test_images.shape[1:] == (info.channels, info.height, info.width)
