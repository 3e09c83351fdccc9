"""From samples to arrays: sizes, colours, classes, splits, and what is counted in the finished set."""

from __future__ import annotations

import base64
import hashlib
import io
import json
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image
from pydantic import ValidationError

from core.data import canonical
from core.data.named.raw import RawSplits
from core.ingest.convert import decode_all
from core.ingest.fit import Target, fitted, target_of
from core.ingest.samples import Refused, Sample, Size
from core.ingest.statistics import COMPARED, MIN_STD, STEP, difference_hashes, statistics
from core.ingest.summary import summary_of
from core.ingest.survey import Sizes
from core.ingest.views import first_of_each, write_grid, write_samples
from core.progress import Hooks, Stopped
from core.specs.ingest import ConversionSpec, IngestLimits, SampleView
from tests.unit.core.ingest.files import folders, jpeg, pixels, png, zipped
from tests.unit.core.ingest.readers import converted, ingest, problems, reader

pytestmark = pytest.mark.unit


def sizes(*shapes: tuple[int, int, int]) -> Sizes:
    found = Sizes()
    for shape in shapes:
        found.add(Size(*shape))
    return found


def sample(image: NDArray[np.uint8]) -> Sample:
    return Sample("x", "a", "", Size(*image.shape), lambda: image)


def fit(image: NDArray[np.uint8], side: int, channels: int | None = None, resize: Any = "centre_crop") -> NDArray[np.uint8]:
    """(S, S, C)"""
    return fitted(sample(image), Target(side, channels or image.shape[2], resize)).transpose(1, 2, 0)


class TestTarget:
    @pytest.mark.parametrize(
        ("shapes", "side"),
        [
            ([(30, 30, 1)] * 2, 30), ([(8, 8, 1)], 8), ([(224, 224, 3)], 224), ([(225, 225, 3)], 64), ([(7, 7, 1)], 28),
            ([(30, 31, 1)], 28), ([(30, 30, 1), (31, 31, 1)], 28), ([(64, 99, 3), (99, 64, 3)], 64),
            ([(64, 64, 3)] * 2 + [(32, 33, 3)] * 2, 32), ([(64, 64, 3)] * 3 + [(9, 9, 3)] * 2, 64), ([(20, 40, 3)], 28),
        ],
    )
    def test_the_side_that_images_have_or_most_of_them_fill(self, shapes: list[tuple[int, int, int]], side: int) -> None:
        assert target_of(sizes(*shapes), ConversionSpec()).side == side

    @pytest.mark.parametrize(
        ("channels", "colour", "expected"),
        [
            ((1, 1), "auto", 1), ((1, 3), "auto", 3), ((3, 3), "auto", 3), ((1, 3), "grey", 1), ((1, 1), "rgb", 3),
            ((2, 2), "auto", 2), ((4, 4), "auto", 4),
        ],
    )
    def test_channels(self, channels: tuple[int, int], colour: Any, expected: int) -> None:
        found = sizes(*((9, 9, count) for count in channels))
        assert target_of(found, ConversionSpec(colour=colour)).channels == expected

    def test_channels_that_cannot_become_one_another(self) -> None:
        with pytest.raises(Refused, match="1, 4"):
            target_of(sizes((9, 9, 1), (9, 9, 4)), ConversionSpec())
        with pytest.raises(Refused, match="4 channels have no colours"):
            target_of(sizes((9, 9, 4)), ConversionSpec(colour="rgb"))

    def test_a_size_out_of_range(self) -> None:
        with pytest.raises(ValidationError, match="8 to 224"):
            ConversionSpec(size=7)


class TestFitted:
    @pytest.mark.parametrize("channels", [1, 2, 3, 4])
    def test_what_fits_is_copied(self, channels: int) -> None:
        image = pixels(16, 16, channels)
        assert np.array_equal(fit(image, 16), image)
        assert np.array_equal(fit(image, 16, resize="fit"), image)

    @pytest.mark.parametrize("channels", [1, 2, 3, 4])
    def test_the_middle_is_cut_out(self, channels: int) -> None:
        image = pixels(16, 23, channels)
        assert np.array_equal(fit(image, 16), image[:, 3:19])
        assert np.array_equal(fit(image.transpose(1, 0, 2), 16), image.transpose(1, 0, 2)[3:19])

    @pytest.mark.parametrize("channels", [1, 3, 4])
    @pytest.mark.parametrize("side", [12, 48])
    def test_other_sizes_look_the_same(self, side: int, channels: int) -> None:
        y, x = np.mgrid[0:side, 0:side] * (36 / side) + 18 / side
        large = pixels(36, 36, channels)
        waves = [np.sin(((c + 1) * (x - 0.5) + 2 * (y - 0.5)) / 9) for c in range(channels)]
        assert abs(fit(large, side).astype(float) - (127.5 + 120 * np.stack(waves, axis=2))).max() < 12

    def test_every_channel_is_resized_alone(self) -> None:
        image = pixels(40, 40, 4)
        alone = [fit(image[:, :, c : c + 1], 20) for c in range(4)]
        assert np.array_equal(fit(image, 20), np.concatenate(alone, axis=2))

    def test_bars_of_the_mean_colour(self) -> None:
        image = np.full((10, 20, 3), (10, 200, 30), np.uint8)
        image[:, :10] = (30, 100, 30)
        found = fit(image, 20, resize="fit")
        assert (found[:5] == (20, 150, 30)).all()
        assert (found[15:] == (20, 150, 30)).all()
        assert np.array_equal(found[5:15], image)

    def test_a_line_keeps_a_pixel(self) -> None:
        assert fit(np.full((1, 4000, 1), 9, np.uint8), 8, resize="fit").shape == (8, 8, 1)

    def test_colours(self) -> None:
        colour, grey = pixels(9, 9, 3), pixels(9, 9, 1)
        luma = colour.astype(float) @ (0.299, 0.587, 0.114)
        assert abs(fit(colour, 9, 1)[:, :, 0] - luma).max() <= 1
        assert np.array_equal(fit(grey, 9, 3), grey.repeat(3, axis=2))


class TestConverted:
    def test_arrays_are_in_the_order_of_the_files(self, tmp_path: Path) -> None:
        names = {f"{split}/{label}/{i}.png": i for i in range(4) for split in ("test", "train") for label in "ba"}
        made = converted(tmp_path, zipped({name: png(i, channels=1) for name, i in names.items()}), "imagefolder_zip")
        assert made.classes == ("a", "b")
        assert made.split_rule == "as the files name it"
        for images, labels in (made.splits[:2], made.splits[2:]):
            assert labels.tolist() == [1, 0] * 4
            expected = [pixels(12, 12, 1, i).transpose(2, 0, 1) for i in range(4) for _ in "ba"]
            assert np.array_equal(images, np.stack(expected))

    def test_threads_change_nothing(self, tmp_path: Path) -> None:
        content = zipped({f"{k}/{i}.jpg": jpeg(10 * k + i, height=120 + i, width=90) for k in range(2) for i in range(10)})
        made = [converted(tmp_path, content, "imagefolder_zip", threads=threads).splits for threads in (1, 2, 3)]
        assert len({canonical.digest_of(splits) for splits in made}) == 1

    @pytest.mark.parametrize(
        ("names", "expected"),
        [
            (["10", "9", "-1"], ("-1", "9", "10")), (["10", "9", "x"], ("10", "9", "x")), (["1", "01"], ("01", "1")),
            (["b", "B", "\u00e4"], ("B", "b", "\u00e4")),
        ],
    )
    def test_numbers_are_sorted_as_numbers(self, names: list[str], expected: tuple[str, ...], tmp_path: Path) -> None:
        rows = "".join(f"{k}-{i}.png,{name}\n" for k, name in enumerate(names) for i in range(2))
        images = {f"{k}-{i}.png": png() for k in range(len(names)) for i in range(2)}
        content = images | {"labels.csv": b"file,label\n" + rows.encode()}
        assert converted(tmp_path, zipped(content), "labels_zip").classes == expected

    def test_a_split_by_seed_and_position(self, tmp_path: Path) -> None:
        content = zipped(folders("ab", 10))
        made = converted(tmp_path, content, "imagefolder_zip", test_fraction=0.25, split_seed=5)
        order = sorted(range(20), key=lambda i: hashlib.sha256(f"5/{i}".encode()).digest())
        chosen = [[i for i in order if i // 10 == k][:3] for k in range(2)]
        expected = [pixels(12, 12, 3, i).transpose(2, 0, 1) for k in range(2) for i in sorted(chosen[k])]
        assert np.array_equal(made.splits.test_images, np.stack(expected))
        assert made.splits.test_labels.tolist() == [0, 0, 0, 1, 1, 1]
        assert len(made.splits.train_images) == 14
        assert "25 % of each class" in made.split_rule
        assert "seed 5" in made.split_rule

    @pytest.mark.parametrize(("fraction", "num_test"), [(0.01, 1), (0.2, 1), (0.3, 2), (0.5, 3)])
    def test_every_class_has_images_in_both(self, fraction: float, num_test: int, tmp_path: Path) -> None:
        made = converted(tmp_path, zipped(folders("ab", 5)), "imagefolder_zip", test_fraction=fraction)
        assert np.bincount(made.splits.test_labels).tolist() == [num_test, num_test]
        small = converted(tmp_path, zipped(folders("ab", 2)), "imagefolder_zip", test_fraction=0.5)
        assert [len(labels) for labels in (small.splits.train_labels, small.splits.test_labels)] == [2, 2]

    def test_an_unreadable_image_does_not_move_the_others(self, tmp_path: Path) -> None:
        content = folders("ab", 10)
        whole = converted(tmp_path, zipped(content), "imagefolder_zip")
        left = {image.tobytes() for image in whole.splits.test_images}
        broken = converted(tmp_path, zipped(content | {"b/9.png": b"no"}), "imagefolder_zip", max_corrupt=1)
        assert broken.num_corrupt == 1
        assert "1 unreadable image(s) were left out." in broken.notes
        assert len(left ^ {image.tobytes() for image in broken.splits.test_images}) <= 2

    def test_where_only_training_images_are_named_some_become_the_test_split(self, tmp_path: Path) -> None:
        made = converted(tmp_path, zipped(folders("ab", 5, "train/")), "imagefolder_zip")
        assert len(made.splits.test_labels) == 2
        assert any("some of them became the test split" in note for note in made.notes)

    def test_what_was_done_is_told(self, tmp_path: Path) -> None:
        content = folders("a", 4) | {f"b/{i}.jpg": jpeg(height=50, width=60, channels=1) for i in range(4)}
        made = converted(tmp_path, zipped(content), "imagefolder_zip")
        assert made.notes == (
            "All images were brought to 28 x 28 pixels.", "4 image(s) that are not square lost their longer ends.",
            "4 image(s) are smaller than 28 pixels on a side and were enlarged.", "4 image(s) in grey became RGB.",
        )

    @pytest.mark.parametrize(
        ("names", "code", "members"),
        [
            (["a/1.png", "a/2.png"], "one_class", [""]),
            (["a/1.png", "b/1.png", "b/2.png", "c/1.png"], "class_too_small", ["a", "c"]),
            (["train/a/1.png", "train/b/1.png", "test/a/1.png"], "class_without_images", ["b"]),
            (["train/a/1.png", "test/b/1.png", "test/a/1.png"], "class_without_images", ["b"]),
            (["test/a/1.png", "test/b/1.png"], "no_training_images", [""]),
        ],
    )
    def test_classes_that_cannot_be_split(self, names: list[str], code: str, members: list[str], tmp_path: Path) -> None:
        found = problems(tmp_path, zipped(dict.fromkeys(names, png())), "imagefolder_zip")
        assert [problem.code for problem in found] == [code] * len(members)
        assert [problem.member for problem in found] == members

    def test_a_class_that_is_too_small_without_its_unreadable_image(self, tmp_path: Path) -> None:
        content = zipped(folders("ab", 2) | {"b/1.png": b"no"})
        assert problems(tmp_path, content, "imagefolder_zip", max_corrupt=9)[0].code == "class_too_small"

    def test_it_stops_between_images(self, tmp_path: Path) -> None:
        class Stopping(Hooks):
            asked = 0

            def should_stop(self) -> bool:
                self.asked += 1
                return self.asked > 9

        content = zipped(folders())
        made = reader(tmp_path, content, "imagefolder_zip")
        with pytest.raises(Stopped):
            decode_all(made, ConversionSpec(), IngestLimits(), tmp_path / "images", Stopping(), 2)


def raw(train: NDArray[np.uint8], test: NDArray[np.uint8], num_classes: int = 2) -> RawSplits:
    return RawSplits(train, np.arange(len(train)) % num_classes, test, np.arange(len(test)) % num_classes)


class TestStatistics:
    def test_moments_are_those_of_the_training_images(self) -> None:
        images = np.random.default_rng(0).integers(0, 256, (50, 3, 9, 9), np.uint8)
        images[:, 2] = 7
        found = statistics(raw(images[:40], images[40:]), Hooks())
        scaled = images[:40].astype(np.float64) / 255
        assert found.mean == tuple(np.round(scaled.mean(axis=(0, 2, 3)), 4))
        assert found.std[:2] == tuple(np.round(scaled.std(axis=(0, 2, 3))[:2], 4))
        assert found.std[2] == MIN_STD

    @pytest.mark.parametrize("channels", [1, 2, 3, 4])
    @pytest.mark.parametrize("side", [8, 9, 28, 64])
    def test_hashes_are_those_of_a_naive_form(self, side: int, channels: int) -> None:
        images = np.random.default_rng(side).integers(0, 256, (5, channels, side, side), np.uint8)
        images[4] = 128
        weights = (299, 587, 114) if channels == 3 else (1,) * channels
        for image, found in zip(images, difference_hashes(images), strict=True):
            grey = sum(weight * plane.astype(object) for weight, plane in zip(weights, image, strict=True))
            areas = grey.repeat(8, axis=0).repeat(9, axis=1).reshape(8, side, 9, side).sum(axis=(1, 3))
            step = STEP * side * side * sum(weights)
            bits = [areas[y, x + 1] - areas[y, x] > step for y in range(8) for x in range(8)]
            assert found.tobytes() == np.packbits(bits).tobytes()

    def test_copies_and_leaks_are_counted(self) -> None:
        images = np.stack([pixels(32, 32, 1, seed).transpose(2, 0, 1) for seed in range(1, 9)])
        brighter = np.minimum(images[0] + np.uint8(4), 255)[None]
        found = statistics(raw(np.concatenate([images[:6], images[2:3], brighter]), images[5:8]), Hooks())
        assert (found.num_duplicates, found.num_leaked) == (3, 1)

    def test_plain_shapes_with_one_hash_are_not_copies(self) -> None:
        plain = np.arange(0, 200, 10, dtype=np.uint8)[:, None, None, None] + np.zeros((1, 1, 16, 16), np.uint8)
        assert len(np.unique(difference_hashes(plain))) == 1
        found = statistics(raw(plain[:19], plain[18:]), Hooks())
        assert (found.num_duplicates, found.num_leaked) == (0, 0), f"only {COMPARED} of them are compared with"
        found = statistics(raw(plain[:10], plain[9:11]), Hooks())
        assert (found.num_duplicates, found.num_leaked) == (1, 1)


class TestSummary:
    def test_facts_and_warnings(self, tmp_path: Path) -> None:
        content = zipped(folders("a", 30) | folders("b", 4))
        spec = ingest(content, "imagefolder_zip", mirrored=False)
        made = converted(tmp_path, content, "imagefolder_zip")
        summary = summary_of(spec, made, statistics(made.splits, Hooks()), "d" * 64)
        info = summary.info
        assert (info.name, info.title, info.source, info.mirrored) == ("ds_1", "Mine", "uploaded as mine.zip", False)
        assert (info.channels, info.height, info.width, info.classes) == (3, 12, 12, ("a", "b"))
        assert (info.train_per_class, info.test_per_class) == ((24, 3), (6, 1))
        assert summary.size_bytes == 34 * (3 * 12 * 12 + 8)
        assert "The classes are not balanced: 'a' has 24 training images, 'b' 3." in summary.notes
        assert "1 class(es) have fewer than 10 training images; 'b' has 3." in summary.notes

    def test_recordings_have_a_time_axis(self, tmp_path: Path) -> None:
        content = zipped(folders())
        made = converted(tmp_path, content, "imagefolder_zip")
        counted = statistics(made.splits, Hooks())
        sound = summary_of(ingest(content, "audiofolder_tar"), made, counted, "").info
        assert (sound.time_axis, sound.mirrored) == (True, False)
        assert not summary_of(ingest(content, "imagefolder_zip"), made, counted, "").info.time_axis


class TestViews:
    @pytest.mark.parametrize("channels", [1, 2, 3, 4])
    def test_samples_of_each_class_and_split(self, channels: int, tmp_path: Path) -> None:
        images = np.random.default_rng(0).integers(0, 256, (60, channels, 9, 9), np.uint8)
        splits = raw(images[:50], images[50:])
        write_samples(splits, 2, tmp_path / "samples.json")
        views = [SampleView.model_validate(view) for view in json.loads((tmp_path / "samples.json").read_text())]
        assert Counter((view.split, view.label) for view in views) == {
            ("train", 0): 16, ("train", 1): 16, ("test", 0): 5, ("test", 1): 5,
        }
        shown = np.asarray(Image.open(io.BytesIO(base64.b64decode(views[17].png))))
        expected = images[3].transpose(1, 2, 0)[:, :, : 3 if channels > 2 else 1]
        assert np.array_equal(shown.reshape(expected.shape), expected)

    def test_every_class_is_shown_before_one_is_shown_twice(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("core.ingest.views.MAX_VIEWS", 5)
        write_samples(raw(np.zeros((50, 1, 9, 9), np.uint8), np.zeros((9, 1, 9, 9), np.uint8), 4), 4, tmp_path / "samples.json")
        views = json.loads((tmp_path / "samples.json").read_text())
        assert [(view["split"], view["label"]) for view in views] == [*(("train", k) for k in range(4)), ("test", 0)]

    @pytest.mark.parametrize("side", [8, 28, 64, 224])
    def test_a_grid(self, side: int, tmp_path: Path) -> None:
        splits = raw(np.zeros((60, 3, side, side), np.uint8), np.zeros((30, 3, side, side), np.uint8), 30)
        write_grid(splits, ["a name that is much too long for its place", *map(str, range(29))], tmp_path / "samples.png")
        with Image.open(tmp_path / "samples.png") as grid:
            assert grid.mode == "RGB"
            assert grid.width < 400
            assert 20 * 48 < grid.height < 20 * 72

    def test_the_first_of_each(self) -> None:
        found = first_of_each(np.array([2, 0, 2, 2, 0]), 3, 2)
        assert [positions.tolist() for positions in found] == [[1, 4], [], [0, 2]]


def test_canonical_files_are_written_from_maps(tmp_path: Path) -> None:
    made = converted(tmp_path, zipped(folders()), "imagefolder_zip")
    assert isinstance(made.splits.train_images, np.memmap)
    digest = canonical.write(made.splits, tmp_path / "dataset")
    read, recorded = canonical.read(tmp_path / "dataset")
    assert canonical.digest_of(read) == digest == recorded
    assert all(map(np.array_equal, read, made.splits))
