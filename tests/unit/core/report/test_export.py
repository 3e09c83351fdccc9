from __future__ import annotations

import dataclasses
import io
import json
import zipfile
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from safetensors import safe_open
from safetensors.numpy import load_file

from core.catalogue import CATALOGUE
from core.report.build import write_artifacts
from core.report.export import class_folder, to_8bit
from core.report.outcome import Outcome
from tests.unit.core.report.conftest import Write, digit_images, normalised

pytestmark = pytest.mark.unit


def hostile(outcome: Outcome, *names: str) -> Outcome:
    classes = names + outcome.info.classes[len(names) :]
    return dataclasses.replace(outcome, info=outcome.info.model_copy(update={"classes": classes}))


class TestTo8bit:
    @pytest.mark.parametrize("name", sorted(CATALOGUE))
    def test_every_pixel_value_comes_back(self, name: str) -> None:
        info = CATALOGUE[name]
        pixels = np.arange(256, dtype=np.uint8).reshape(1, 1, 16, 16).repeat(info.channels, axis=1)
        assert np.array_equal(to_8bit(normalised(pixels, info), info.mean, info.std), pixels)

    def test_what_no_pixel_can_hold_is_clamped(self) -> None:
        images = np.array([-50.0, 50.0, 0.0], np.float32).reshape(1, 1, 1, 3)
        assert to_8bit(images, [0.5], [0.25]).ravel().tolist() == [0, 255, 128]

    def test_a_diverged_set_is_refused(self) -> None:
        with pytest.raises(AssertionError, match="diverged"):
            to_8bit(np.full((1, 1, 2, 2), np.nan, np.float32), [0.5], [0.5])


class TestClassFolder:
    @given(st.text(max_size=80), st.integers(0, 999))
    def test_it_is_one_safe_path_component_that_sorts_by_index(self, name: str, index: int) -> None:
        folder = class_folder(index, name, 1000)
        assert folder.isascii()
        assert len(folder) <= 44
        assert folder[:3] == f"{index:03d}"
        assert not set(folder) & set('/\\:*?"<>| \0')
        assert not folder.endswith(".")

    def test_known_names(self) -> None:
        assert class_folder(0, "T-shirt/top", 10) == "0_T-shirt_top"
        assert class_folder(7, "../../etc/passwd", 100) == "07_etc_passwd"
        assert class_folder(3, "\u82b1", 10) == "3"


class TestSafetensors:
    def test_the_library_reads_images_labels_and_metadata(self, digits: Outcome, written: Write) -> None:
        out = written(digits)
        path = out / "data.safetensors"
        data = load_file(path)
        assert set(data) == {"images", "labels"}
        assert (data["images"].dtype, data["labels"].dtype) == (np.float32, np.int64)
        assert np.array_equal(data["images"], digits.images)
        assert np.array_equal(data["labels"], digits.labels)
        with safe_open(path, "numpy") as file:
            metadata = file.metadata()
        assert set(metadata) == {"mean", "std", "classes", "dataset", "ipc"}
        assert json.loads(metadata["mean"]) == [0.3054]
        assert json.loads(metadata["classes"]) == [str(i) for i in range(10)]
        assert (metadata["dataset"], json.loads(metadata["ipc"])) == ("digits", 3)

    def test_arrays_of_another_layout_are_written_in_c_order(self, digits: Outcome, tmp_path: Path) -> None:
        images = np.asfortranarray(digits.images)
        write_artifacts(dataclasses.replace(digits, images=images), tmp_path / "out")
        assert np.array_equal(load_file(tmp_path / "out" / "data.safetensors")["images"], digits.images)


class TestZip:
    def test_real_images_come_back_exactly(self, digits: Outcome, tmp_path: Path) -> None:
        write_artifacts(dataclasses.replace(digits, images=digits.initial_images), tmp_path / "out")
        with zipfile.ZipFile(tmp_path / "out" / "images.zip") as archive:
            assert archive.testzip() is None
            assert archive.namelist() == [f"{label}_{label}/{k}.png" for label in range(10) for k in range(3)]
            assert {entry.compress_type for entry in archive.infolist()} == {zipfile.ZIP_STORED}
            for name, expected in zip(archive.namelist(), digit_images(3), strict=True):
                with archive.open(name) as file, Image.open(file) as image:
                    assert (image.mode, image.size) == ("L", (8, 8))
                    assert np.array_equal(np.asarray(image), expected[0])
            about = json.loads(archive.comment)
        assert about == {"mean": [0.3054], "std": [0.376], "dataset": "digits", "ipc": 3}

    def test_colour_images_keep_their_channels_in_order(self, colour: Outcome, written: Write) -> None:
        out = written(colour)
        expected = to_8bit(colour.images, colour.info.mean, colour.info.std)
        with zipfile.ZipFile(out / "images.zip") as archive:
            assert archive.namelist()[:3] == ["0_airplane/0.png", "0_airplane/1.png", "1_automobile/0.png"]
            with archive.open("1_automobile/0.png") as file, Image.open(file) as image:
                assert image.mode == "RGB"
                assert np.array_equal(np.asarray(image).transpose(2, 0, 1), expected[2])

    def test_class_names_cannot_leave_the_folder(self, digits: Outcome, tmp_path: Path) -> None:
        write_artifacts(hostile(digits, "../../evil", "/etc/cron.d", "a\\b", "con:"), tmp_path / "out")
        with zipfile.ZipFile(tmp_path / "out" / "images.zip") as archive:
            archive.extractall(tmp_path / "images")
        assert {p.name for p in tmp_path.iterdir()} == {"out", "images"}
        assert len(list((tmp_path / "images").glob("*/*.png"))) == 30

    def test_folders_of_a_hundred_classes_sort_by_class(self, hundred: Outcome, written: Write) -> None:
        out = written(hundred)
        with zipfile.ZipFile(out / "images.zip") as archive:
            names = archive.namelist()
        assert names == sorted(names)
        assert names[12 * 10] == "10_class_number_10/00.png"


class TestParquet:
    def test_datasets_gives_pictures_and_class_names(self, colour: Outcome, written: Write, hub: Path) -> None:
        from datasets import ClassLabel, load_dataset
        from datasets import Image as ImageFeature

        data = load_dataset("parquet", data_files=str(written(colour) / "data.parquet"), split="train", cache_dir=str(hub))
        assert isinstance(data.features["image"], ImageFeature)
        assert isinstance(data.features["label"], ClassLabel)
        assert data.features["label"].names == list(colour.info.classes)
        assert data["label"][:] == colour.labels.tolist()
        expected = to_8bit(colour.images, colour.info.mean, colour.info.std)
        for item, pixels in zip(data, expected, strict=True):
            assert item["image"].mode == "RGB"
            assert np.array_equal(np.asarray(item["image"]).transpose(2, 0, 1), pixels)

    def test_it_holds_the_pictures_of_the_zip_file(self, digits: Outcome, written: Write) -> None:
        import pyarrow.parquet as pq

        out = written(digits)
        table = pq.read_table(out / "data.parquet")
        with zipfile.ZipFile(out / "images.zip") as archive:
            for cell in table.column("image").to_pylist():
                assert archive.read(cell["path"]) == cell["bytes"]
        assert json.loads(table.schema.metadata[b"distill"])["std"] == [0.376]


class TestLearned:
    """The rate and the soft labels travel with every form of the set."""

    def test_every_file_says_the_rate(self, learned: Outcome, digits: Outcome, written: Write) -> None:
        out = written(learned)
        with safe_open(out / "data.safetensors", framework="numpy") as file:
            assert file.metadata()["learned_rate"] == "0.0123"
            assert np.array_equal(file.get_tensor("soft_labels"), learned.soft_labels)
            assert np.array_equal(file.get_tensor("labels"), learned.labels)
        assert json.loads(pq.read_schema(out / "data.parquet").metadata[b"distill"])["learned_rate"] == 0.0123
        with zipfile.ZipFile(out / "images.zip") as archive:
            assert json.loads(archive.comment)["learned_rate"] == 0.0123
        report, manifest = (json.loads((out / name).read_text()) for name in ("report.json", "manifest.json"))
        assert (report["learned_rate"], report["labels"]) == (0.0123, "soft")
        assert manifest["training"]["learned_rate"] == 0.0123
        plain = json.loads((written(digits) / "manifest.json").read_text())
        assert plain["training"] == {"learned_rate": None, "soft_labels": None}

    def test_the_archive_lists_soft_labels_by_path(self, learned: Outcome, written: Write) -> None:
        assert learned.soft_labels is not None
        with zipfile.ZipFile(written(learned) / "images.zip") as archive:
            rows = [line.split(",") for line in archive.read("soft_labels.csv").decode().splitlines()]
            assert [row[0] for row in rows] == [name for name in archive.namelist() if name.endswith(".png")]
        assert np.array_equal(np.array([row[1:] for row in rows], np.float32), learned.soft_labels)

    def test_sets_without_them_have_neither(self, digits: Outcome, written: Write) -> None:
        with safe_open(written(digits) / "data.safetensors", framework="numpy") as file:
            assert set(file.keys()) == {"images", "labels"}
            assert "learned_rate" not in file.metadata()
        with zipfile.ZipFile(written(digits) / "images.zip") as archive:
            assert all(name.endswith(".png") for name in archive.namelist())


def test_a_whitened_set_brings_its_matrix_and_shows_what_was_evaluated(whitened: Outcome, written: Write) -> None:
    assert whitened.whitened is not None
    out = written(whitened)
    with safe_open(out / "data.safetensors", framework="numpy") as file:
        assert np.array_equal(file.get_tensor("whitening_matrix"), whitened.whitened.matrix)
        assert np.array_equal(file.get_tensor("whitening_mean"), whitened.whitened.mean)
        assert "mean" not in file.metadata()
    with zipfile.ZipFile(out / "images.zip") as archive:
        shown = [np.asarray(Image.open(io.BytesIO(archive.read(name)))) for name in archive.namelist()]
    assert np.array_equal(np.stack(shown)[:, None], whitened.whitened.pixels)
    normalisation = json.loads((out / "manifest.json").read_text())["normalisation"]
    assert normalisation["spec"] == {"kind": "zca", "version": 1, "epsilon": 0.1}
