"""npz and safetensors: what numpy and safetensors write is read, and what hostile hands write is refused by its headers."""

from __future__ import annotations

import io
import json
import os
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from safetensors.numpy import save_file

from core.ingest.arrays import BLOCK_BYTES, NpzReader, SafetensorsReader
from core.ingest.samples import Reader, Sample
from core.specs.ingest import ConversionSpec, IngestLimits, IngestProblem
from tests.unit.core.ingest.mutations import read_all, refusal, survived

pytestmark = pytest.mark.unit

LIMITS = IngestLimits()
Arrays = dict[str, NDArray[Any]]


def images(count: int = 6, *shape: int, seed: int = 0) -> NDArray[np.uint8]:
    return np.random.default_rng(seed).integers(0, 256, (count, *(shape or (9, 10))), np.uint8)


def labelled(array: NDArray[Any] | None = None, labels: NDArray[Any] | None = None) -> Arrays:
    array = images() if array is None else array
    return {"images": array, "labels": np.arange(len(array)) % 3 if labels is None else labels}


def npz(path: Path, arrays: Arrays, compressed: bool = True) -> Path:
    (np.savez_compressed if compressed else np.savez)(path, **arrays)
    return path


def npz_of(path: Path, members: dict[str, bytes], method: int = zipfile.ZIP_DEFLATED) -> Path:
    with zipfile.ZipFile(path, "w", method) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return path


def npy(array: NDArray[Any]) -> bytes:
    stream = io.BytesIO()
    np.save(stream, array)
    return stream.getvalue()


def npy_claim(header: str, data: bytes = b"", version: bytes = b"\x01\x00") -> bytes:
    text = header.encode()
    return b"\x93NUMPY" + version + len(text).to_bytes(2 if version == b"\x01\x00" else 4, "little") + text + data


def header(shape: str, descr: str = "'|u1'", fortran: bool = False) -> str:
    return f"{{'descr': {descr}, 'fortran_order': {fortran}, 'shape': {shape}, }}\n"


def read(path: Path, limits: IngestLimits = LIMITS) -> Reader:
    return (NpzReader if path.suffix == ".npz" else SafetensorsReader)(path, ConversionSpec(), limits)


def write(path: Path, arrays: Arrays) -> Path:
    if path.suffix == ".npz":
        return npz(path, arrays)
    save_file({name: np.ascontiguousarray(array) for name, array in arrays.items()}, path)
    return path


@pytest.fixture(params=["x.npz", "x.safetensors"])
def path(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    return tmp_path / request.param


def pixels(samples: list[Sample]) -> list[NDArray[np.uint8]]:
    return [sample.decode() for sample in samples]


class TestBothKinds:
    def test_missing_and_unknown_arrays_are_refused(self, path: Path) -> None:
        assert problem(path, {"images": images()}) == ("missing_array", "labels")
        assert problem(path, {"labels": np.zeros(3, np.int64)}) == ("missing_array", "images")
        assert problem(path, {"x_train": images(), "y_train": np.zeros(6, np.int64)}) == ("unknown_array", "x_train")
        test = {"test_images": images(), "test_labels": np.zeros(6, np.int64)}
        assert problem(path, test) == ("missing_array", "")
        assert problem(path, test | labelled()) == ("mixed_splits", "images")

    @pytest.mark.parametrize(
        ("array", "code"),
        [
            (images(3, 4, 4, 4), "ambiguous_layout"), (images(3, 3, 20, 3), "ambiguous_layout"),
            (images(3, 20, 20, 5), "unsupported_shape"), (images(3, 20), "unsupported_shape"),
            (images(3, 2, 9, 9, 3), "unsupported_shape"), (images(3, 9, 7), "image_size"), (images(3, 3, 7, 20), "image_size"),
            (images(1, 9, 9)[:0], "empty_array"), (images().astype(np.uint16), "unsupported_dtype"),
            (images().astype(np.int64), "unsupported_dtype"),
        ],
    )
    def test_what_is_no_stack_of_images_is_refused(self, path: Path, array: NDArray[Any], code: str) -> None:
        assert problem(path, labelled(array, np.zeros(len(array), np.int64))) == (code, "images")

    @pytest.mark.parametrize(
        ("labels", "code", "where"),
        [
            (np.zeros(5, np.int64), "label_count", "labels"), (np.zeros((6, 2), np.int64), "label_count", "labels"),
            (np.zeros(6, np.float32), "unsupported_dtype", "labels"),
            (np.array([0, 1, 2, -1, 0, 0]), "label_range", "labels[3]"),
            (np.array([0, 1, 2, 0, 2**31, 0]), "label_range", "labels[4]"),
        ],
    )
    def test_labels_that_are_no_classes_are_refused(self, path: Path, labels: NDArray[Any], code: str, where: str) -> None:
        assert problem(path, labelled(None, labels)) == (code, where)

    @pytest.mark.parametrize("value", [np.nan, np.inf, -0.01, 1.01, 255.0])
    @pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
    def test_a_value_outside_the_unit_range_names_its_image(self, path: Path, value: float, dtype: type) -> None:
        array = images().astype(dtype) / dtype(255)
        array[4, 3, 2] = value
        assert problem(path, labelled(array)) == ("value_range", "images[4]")

    def test_limits_are_those_of_the_installation(self, path: Path) -> None:
        write(path, labelled(images(6, 9, 10, 3)))
        for limit, code in (
            ({"max_arrays": 1}, "too_many_arrays"),
            ({"max_members": 5}, "too_many_images"),
            ({"max_classes": 2}, "too_many_classes"),
            ({"max_canonical_bytes": 6 * 270 - 1}, "too_large"),
            ({"max_side": 9}, "image_size"),
            ({"max_pixels": 89}, "image_size"),
        ):
            assert refusal(lambda limit=limit: read(path, IngestLimits(**limit))).code == code
        exact = IngestLimits(max_arrays=2, max_members=6, max_classes=3, max_canonical_bytes=1620, max_side=10, max_pixels=90)
        assert len(read_all(read(path, exact))) == 6

    def test_every_layout_gives_the_same_images(self, path: Path) -> None:
        last = images(5, 12, 8, 3)
        for array in (last, np.moveaxis(last, -1, 1)):
            samples = read_all(read(write(path, labelled(array))))
            assert np.array_equal(pixels(samples), last)
            assert [sample.size for sample in samples] == [(12, 8, 3)] * 5
        grey = last[..., 0]
        for array in (grey, grey[..., None], grey[:, None]):
            assert np.array_equal(pixels(read_all(read(write(path, labelled(array))))), grey[..., None])

    @pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
    def test_every_grey_value_survives_floating_point(self, path: Path, dtype: type) -> None:
        array = np.arange(256, dtype=np.uint8).reshape(1, 16, 16)
        found = read_all(read(write(path, labelled((array / 255).astype(dtype)))))
        assert np.array_equal(found[0].decode()[..., 0], array[0])

    @pytest.mark.parametrize("dtype", [np.uint8, np.int8, np.int16, np.int32, np.int64, np.uint32])
    def test_labels_may_have_gaps_any_width_and_an_axis_of_their_own(self, path: Path, dtype: type) -> None:
        labels = np.array([7, 0, 100, 7, 3, 0], dtype)
        for shaped in (labels, labels[:, None]):
            reader = read(write(path, labelled(None, shaped)))
            assert [sample.label for sample in read_all(reader)] == ["7", "0", "100", "7", "3", "0"]
            assert reader.class_names == ()

    def test_splits_and_places_are_told(self, path: Path) -> None:
        names = ("train", "val", "test")
        arrays = {f"{name}_images": images(count, 8, 8, seed=count) for count, name in enumerate(names, 1)}
        arrays |= {f"{name}_labels": np.zeros(count, np.int64) for count, name in enumerate(names, 1)}
        reader = read(write(path, arrays))
        samples = read_all(reader)
        assert sorted((sample.split, sample.member) for sample in samples) == [
            ("test", "test_images[0]"), ("test", "test_images[1]"), ("test", "test_images[2]"), ("test", "val_images[0]"),
            ("test", "val_images[1]"), ("train", "train_images[0]"),
        ]
        for sample in samples:
            name, index = sample.member.rstrip("]").split("[")
            assert np.array_equal(sample.decode()[..., 0], arrays[name][int(index)])
        assert reader.notes == ("val_images belongs to the test split.",)
        assert {sample.split for sample in read_all(read(write(path, labelled())))} == {""}

    def test_more_than_a_block_is_read_in_order_and_twice(self, path: Path) -> None:
        array = np.repeat(np.arange(150, dtype=np.uint8), 224 * 224).reshape(150, 224, 224)
        assert array.nbytes > 1.5 * BLOCK_BYTES
        reader = read(write(path, labelled(array)))
        for _ in range(2):
            assert [int(sample.decode()[5, 5, 0]) for sample in reader.samples()] == list(range(150))

    def test_damaged_files_are_read_or_refused(self, path: Path) -> None:
        content = write(path, labelled(images(12, 8, 8))).read_bytes()
        read_count, refused = survived(content, path, read, seed=1)
        assert refused > 100
        assert read_count + refused == 200


def problem(path: Path, arrays: Arrays) -> tuple[str, str]:
    found = refusal(lambda: read(write(path, arrays)))
    return found.code, found.member


class TestNpz:
    def test_pickles_are_never_loaded(self, tmp_path: Path) -> None:
        class Bomb:
            def __reduce__(self) -> tuple[Callable[[str], int], tuple[str]]:
                return os.system, (f"touch {tmp_path}/touched",)

        objects = np.array([Bomb()] * 6, object)
        assert npz_problem(tmp_path, npz_content(labels=objects)) == ("pickled_array", "labels")
        assert npz_problem(tmp_path, npz_content() | {"images.npy": objects.dumps()}) == ("not_an_array", "images")
        assert not (tmp_path / "touched").exists()

    @pytest.mark.parametrize(
        ("text", "code"),
        [
            (header("(6, 9, 10)", "'|O'"), "pickled_array"),
            (header("(6, 9, 10)", "[('a', '|u1'), ('b', '<f4')]"), "unsupported_dtype"),
            (header("(6, 9, 10)", "'<c8'"), "unsupported_dtype"), (header("(6, 9, 10)", "'|S1'"), "unsupported_dtype"),
            (header("(6, 9, 10)", "'<M8[ns]'"), "unsupported_dtype"), (header("(6, 9, 10)", "'|V8'"), "unsupported_dtype"),
            (header("(6, 9, 10)", "'|b1'"), "unsupported_dtype"),
            (header("(6, 9, 10)", "'<U999999999999'"), "unsupported_dtype"),
            (header("(6, 9, -10)"), "damaged_array"), (header("(6, 9.0, 10)"), "damaged_array"),
            (header("(6, 9, 10 ** 9)"), "damaged_array"),
            (header("6, 9, 10"), "damaged_array"),
            ("-" * 4000 + "1", "damaged_array"),
            ("(" * 4000, "damaged_array"),
            ("{" * 4000, "damaged_array"),
            ("__import__('os').abort()", "damaged_array"),
            ("", "damaged_array"),
            (header("(6, 9, 10), 'more': 1"), "damaged_array"), (header("(" + "1, " * 1300 + ")"), "array_size"),
            (header("(" + "0, " * 1300 + ")"), "array_size"), (header(f"({10**18}, {10**18}, {10**18})"), "array_size"),
            (header("(6, 9, 10)") + " " * 5000, "header_too_large"), (header("(0, 9, 10)"), "array_size"),
            (header("(6, 9, 11)"), "array_size"),
            (header("(6, 9, 9)"), "array_size"),
            (header("(6, 9, 10)", fortran=True), "fortran_order"),
        ],
    )
    def test_hostile_headers_are_refused_before_the_data(self, tmp_path: Path, text: str, code: str) -> None:
        content = npz_content()
        content["images.npy"] = npy_claim(text, b"\0" * 540)
        assert npz_problem(tmp_path, content) == (code, "images")

    def test_a_header_that_claims_a_terabyte_is_refused(self, tmp_path: Path) -> None:
        content = npz_content()
        content["images.npy"] = npy_claim(header(f"({2**30}, 32, 32)"))
        assert npz_problem(tmp_path, content) == ("array_size", "images")
        # The directory can repeat the lie; then it is the directory that inflates too much.
        path = npz_of(tmp_path / "x.npz", content, zipfile.ZIP_STORED)
        data = bytearray(path.read_bytes())
        entry = data.index(b"PK\x01\x02")
        data[entry + 24 : entry + 28] = struct.pack("<L", 2**32 - 2)
        path.write_bytes(data)
        assert refusal(lambda: read(path)).code == "inflation_ratio"

    def test_versions_two_and_three_and_other_writers_are_read(self, tmp_path: Path) -> None:
        array = images(2, 8, 8)
        content = npz_content(labels=np.array([1, 0]))
        for version, text in (
            (b"\x02\x00", header("(2, 8, 8)")), (b"\x03\x00", header("(2, 8, 8)")),
            (b"\x01\x00", "{'descr': '|u1', 'fortran_order': False, 'shape': (2L, 8L, 8L), }        "),
            (b"\x01\x00", '{"descr":"|u1","fortran_order":False,"shape":(2,8,8)}'),
        ):
            content["images.npy"] = npy_claim(text, array.tobytes(), version)
            assert np.array_equal(pixels(read_all(read(npz_of(tmp_path / "x.npz", content))))[1][..., 0], array[1])
        content["images.npy"] = npy_claim(header("(2, 8, 8)"), array.tobytes(), b"\x04\x00")
        assert npz_problem(tmp_path, content) == ("damaged_array", "images")

    def test_the_archive_obeys_the_rules_of_archives(self, tmp_path: Path) -> None:
        content = npz_content()
        assert npz_problem(tmp_path, content | {"../evil.npy": npy(images())}) == ("unknown_array", "../evil")
        assert npz_problem(tmp_path, content | {"readme.txt": b"hello"}) == ("unknown_array", "readme.txt")
        assert npz_problem(tmp_path, content | {"folder/": b""}) == ("unknown_array", "folder/")
        assert npz_problem(tmp_path, content, zipfile.ZIP_LZMA) == ("unsupported_compression", "images.npy")
        assert npz_problem(tmp_path, content | {f"a{i}.npy": b"" for i in range(15)})[0] == "too_many_arrays"
        many = npz_of(tmp_path / "many.npz", {f"{i:0200d}.npy": b"" for i in range(4500)})
        assert refusal(lambda: read(many)).code == "too_many_arrays"
        zeros = labelled(np.zeros((340, 224, 224), np.uint8), np.zeros(340, np.int64))
        assert problem(tmp_path / "x.npz", zeros) == ("inflation_ratio", "images.npy")
        small = IngestLimits(always_inflated_bytes=1, max_inflation=1)
        path = npz(tmp_path / "x.npz", labelled(np.zeros((6, 99, 99), np.uint8)))
        assert refusal(lambda: read(path, small)).code == "inflates_too_much"

    def test_duplicate_encrypted_and_overlapping_members_are_refused(self, tmp_path: Path) -> None:
        path = tmp_path / "x.npz"
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("images.npy", npy(images()))
            with pytest.warns(UserWarning, match="Duplicate"):
                archive.writestr("images.npy", npy(images()))
        assert refusal(lambda: read(path)).code == "duplicate_name"

        for offset, value, code in ((8, 1, "encrypted"), (42, 0, "overlapping_entries")):
            data = bytearray(npz(path, labelled()).read_bytes())
            entry = data.rindex(b"PK\x01\x02")
            data[entry + offset] = value
            path.write_bytes(data)
            if offset == 42:
                data[entry + offset : entry + offset + 4] = b"\0" * 4
                path.write_bytes(data)
            assert (refusal(lambda: read(path)).code, refusal(lambda: read(path)).member) == (code, "labels.npy")

    def test_truncated_files_and_wrong_checksums_are_refused(self, tmp_path: Path) -> None:
        path = npz(tmp_path / "x.npz", labelled(), compressed=False)
        data = path.read_bytes()
        path.write_bytes(data[:-30])
        assert refusal(lambda: read(path)).code == "damaged_archive"
        changed = bytearray(data)
        changed[200] ^= 1
        path.write_bytes(changed)
        found = refusal(lambda: read(path))
        assert (found.code, found.member) == ("damaged_archive", "images")
        path.write_bytes(b"")
        assert refusal(lambda: read(path)).code == "damaged_archive"

    def test_big_endian_arrays_are_read(self, tmp_path: Path) -> None:
        array = images(4, 8, 8)
        stored = {"images": (array / 255).astype(">f4"), "labels": np.array([1, 256, 3, 1], ">i4")}
        samples = read_all(read(npz(tmp_path / "x.npz", stored)))
        assert np.array_equal(pixels(samples), array[..., None])
        assert [sample.label for sample in samples] == ["1", "256", "3", "1"]

    @pytest.mark.parametrize("order", ["<", ">"])
    def test_classes_may_have_names(self, tmp_path: Path, order: str) -> None:
        names = np.array(["cat", "dog", "never seen", "Zürich"], f"{order}U12")
        reader = read(npz(tmp_path / "x.npz", labelled(None, np.array([3, 1, 0, 0, 3, 1])) | {"class_names": names}))
        assert reader.class_names == ("cat", "dog", "Zürich")
        assert [sample.label for sample in read_all(reader)] == ["Zürich", "dog", "cat", "cat", "Zürich", "dog"]

    @pytest.mark.parametrize(
        ("names", "where"),
        [
            (np.array(["a", "b"]), "class_names"), (np.array([["a", "b", "c"]]), "class_names"), (np.arange(3), "class_names"),
            (np.array(["a", "a", "c"]), "class_names[1]"), (np.array(["a", "b", ""]), "class_names[2]"),
            (np.array(["a", "b\n", "c"]), "class_names[1]"), (np.array(["a", "b", "c" * 129]), "class_names"),
            (np.array([65, 66, 0x110000], "<u4").view("<U1"), "class_names[2]"),
            (np.array([65, 66, 0xD800], "<u4").view("<U1"), "class_names[2]"),
        ],
    )
    def test_names_that_name_nothing_are_refused(self, tmp_path: Path, names: NDArray[Any], where: str) -> None:
        assert problem(tmp_path / "x.npz", labelled() | {"class_names": names}) == ("class_names", where)

    def test_damaged_headers_are_read_or_refused(self, tmp_path: Path) -> None:
        content = npz_content()

        def make(path: Path) -> Reader:
            return read(npz_of(tmp_path / "x.npz", content | {"images.npy": path.read_bytes()}, zipfile.ZIP_STORED))

        head = npy(images())[:90]
        assert b"shape" in head
        read_count, refused = survived(head, tmp_path / "head", make, seed=2)
        assert read_count + refused == 200


class TestSafetensors:
    @pytest.mark.parametrize(
        ("entries", "code", "where"),
        [
            ({"images": ("U8", [6, 9, 10], [0, 540]), "labels": ("I64", [6], [500, 548])}, "overlapping_arrays", "labels"),
            ({"images": ("U8", [6, 9, 10], [0, 540]), "labels": ("I64", [6], [0, 48])}, "overlapping_arrays", "images"),
            ({"images": ("U8", [6, 9, 10], [0, 540]), "labels": ("I64", [6], [541, 589])}, "damaged_safetensors", "labels"),
            ({"images": ("U8", [6, 9, 10], [0, 540]), "labels": ("I64", [5], [540, 580])}, "damaged_safetensors", ""),
            ({"images": ("U8", [2**30, 32, 32], [0, 2**40])}, "damaged_safetensors", "images"),
            ({"images": ("U8", [6, 9, 10], [0, 541])}, "damaged_safetensors", "images"),
            ({"images": ("U8", [6, 9, 10], [540, 0])}, "damaged_safetensors", "images"),
            ({"images": ("U8", [6, 9, -10], [0, 540])}, "damaged_safetensors", "images"),
            ({"images": ("U8", [6, 9, True], [0, 54])}, "damaged_safetensors", "images"),
            ({"images": ("U8", [6, 9, 10.0], [0, 540])}, "damaged_safetensors", "images"),
            ({"images": ("U8", [6, 9, 2**70], [0, 540])}, "damaged_safetensors", "images"),
            ({"images": ("U8", [1] * 10_000, [0, 1])}, "damaged_safetensors", "images"),
            ({"images": ("U8", None, [0, 540])}, "damaged_safetensors", "images"),
            ({"images": ("BF16", [6, 9, 5], [0, 540])}, "unsupported_dtype", "images"),
            ({"images": ("\ud800\n", [6, 9, 5], [0, 540])}, "unsupported_dtype", "images"),
            ({"images": (["U8"], [6, 9, 5], [0, 540])}, "unsupported_dtype", "images"),
        ],
    )
    def test_headers_that_lie_are_refused(self, tmp_path: Path, entries: dict[str, Any], code: str, where: str) -> None:
        described = {name: dict(zip(("dtype", "shape", "data_offsets"), entry, strict=True)) for name, entry in entries.items()}
        assert raw_problem(tmp_path, json.dumps(described).encode(), b"\0" * 588) == (code, where)

    @pytest.mark.parametrize(
        "text",
        [
            b"",
            b"[]",
            b"3",
            b"{",
            b"[" * 100_000,
            b'{"a":' * 50_000,
            b"\xff\xfe",
            b'{"images": 3}',
            b'{"images": {"dtype": "U8"}}',
            b'{"n": 1' + b"0" * 5000 + b"}",
        ],
    )
    def test_headers_of_another_form_are_refused(self, tmp_path: Path, text: bytes) -> None:
        assert raw_problem(tmp_path, text, b"")[0] == "damaged_safetensors"

    def test_equal_names_and_long_headers_are_refused(self, tmp_path: Path) -> None:
        assert raw_problem(tmp_path, b'{"a": 1, "a": 2}', b"")[0] == "duplicate_name"
        assert raw_problem(tmp_path, b" " * (2 << 20), b"")[0] == "header_too_large"
        path = tmp_path / "x.safetensors"
        for content in (b"", b"\1\0", b"\xff" * 8, b"\xff" * 9, struct.pack("<Q", 3) + b"{}"):
            path.write_bytes(content)
            assert refusal(lambda: read(path)).code == "damaged_safetensors"

    def test_metadata_is_left_alone(self, tmp_path: Path) -> None:
        path = tmp_path / "x.safetensors"
        save_file(labelled(), path, metadata={"made by": "a test"})
        assert len(read_all(read(path))) == 6

    def test_damaged_headers_are_read_or_refused(self, tmp_path: Path) -> None:
        data = write(tmp_path / "y.safetensors", labelled()).read_bytes()
        length = int.from_bytes(data[:8], "little")

        def make(path: Path) -> Reader:
            text = path.read_bytes()
            target = tmp_path / "x.safetensors"
            target.write_bytes(struct.pack("<Q", len(text)) + text + data[8 + length :])
            return read(target)

        read_count, refused = survived(data[8 : 8 + length], tmp_path / "head", make, seed=3)
        assert read_count + refused == 200


def npz_content(labels: NDArray[Any] | None = None) -> dict[str, bytes]:
    return {f"{name}.npy": npy(array) for name, array in labelled(None, labels).items()}


def npz_problem(folder: Path, content: dict[str, bytes], method: int = zipfile.ZIP_DEFLATED) -> tuple[str, str]:
    return told(refusal(lambda: read(npz_of(folder / "x.npz", content, method))))


def raw_problem(folder: Path, text: bytes, data: bytes) -> tuple[str, str]:
    path = folder / "x.safetensors"
    path.write_bytes(struct.pack("<Q", len(text)) + text + data)
    return told(refusal(lambda: read(path)))


def told(found: IngestProblem) -> tuple[str, str]:
    return found.code, found.member
