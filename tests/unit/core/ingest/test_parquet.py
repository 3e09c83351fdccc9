"""Parquet: what pyarrow and Hugging Face's library write is read; footers that lie and rows that lack something are refused."""

from __future__ import annotations

import io
import json
import os
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from core.ingest import parquet_rows
from core.ingest.parquet import ParquetReader, _split_of
from core.ingest.samples import Corrupt, Reader, Refused
from core.specs.ingest import ConversionSpec, IngestLimits, IngestProblem
from tests.unit.core.ingest.mutations import read_all, refusal, survived

pytestmark = pytest.mark.unit

LIMITS = IngestLimits()
STRUCT = pa.struct([("bytes", pa.binary()), ("path", pa.string())])


def png(value: int, side: int = 9) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(np.full((side, side), value, np.uint8)).save(stream, "PNG")
    return stream.getvalue()


PNGS = [png(value) for value in range(6)]


def table(images: Any = None, labels: Any = None, **columns: Any) -> pa.Table:
    images = pa.array(PNGS, pa.binary()) if images is None else images
    return pa.table({"image": images, "label": pa.array([0, 1, 2] * 2) if labels is None else labels, **columns})


def features(names: Any, label: str = "label") -> dict[str, str]:
    stated = {label: {"names": names, "_type": "ClassLabel"}, "image": {"_type": "Image"}}
    return {"huggingface": json.dumps({"info": {"features": stated}})}


def write(path: Path, content: pa.Table, **options: Any) -> Path:
    pq.write_table(content, path, **options)
    return path


def content_of(content: pa.Table) -> bytes:
    stream = io.BytesIO()
    pq.write_table(content, stream)
    return stream.getvalue()


def tar(path: Path, files: dict[str, bytes], mode: Any = "w") -> Path:
    with tarfile.open(path, mode) as archive:
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return path


def read(path: Path, conversion: ConversionSpec | None = None, limits: IngestLimits = LIMITS) -> ParquetReader:
    return ParquetReader(path, conversion or ConversionSpec(), limits, tar=".tar" in path.name)


def told(found: IngestProblem) -> tuple[str, str]:
    return found.code, found.member


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "x.parquet"


class TestOneFile:
    def test_missing_double_and_unfit_columns_are_refused(self, path: Path) -> None:
        for content, code in (
            (table().drop_columns("image"), "missing_column"), (table().drop_columns("label"), "missing_column"),
            (pa.Table.from_arrays([pa.array(PNGS)] * 2 + [pa.array([1] * 6)], ["image", "image", "label"]), "missing_column"),
            (table(pa.array(["text"] * 6)), "unsupported_column"), (table(pa.array([[1, 2]] * 6)), "unsupported_column"),
            (table(pa.array([{"path": "a"}] * 6)), "unsupported_column"),
            (table(pa.array([{"bytes": 3}] * 6)), "unsupported_column"),
            (table(labels=pa.array([0.5] * 6)), "unsupported_column"),
            (table(labels=pa.array([True] * 6)), "unsupported_column"),
            (table(labels=pa.array([[1]] * 6)), "unsupported_column"), (table(split=pa.array([1] * 6)), "unsupported_column"),
        ):
            assert told(refusal(lambda c=content: read(write(path, c)))) == (code, "")

    @pytest.mark.parametrize(
        ("content", "code"),
        [
            (table(pa.array([*PNGS[:4], None, PNGS[5]])), "missing_image"),
            (table(pa.array([*PNGS[:4], b"", PNGS[5]])), "missing_image"),
            (table(pa.array([{"bytes": x} for x in PNGS[:4]] + [None] * 2, STRUCT)), "missing_image"),
            (table(pa.array([{"bytes": x} for x in PNGS[:4]] + [{"path": "a.png"}] * 2, STRUCT)), "missing_image"),
            (table(labels=pa.array([0, 1, 2, 0, None, 2])), "missing_label"),
            (table(labels=pa.array([*"abca", " ", "c"])), "missing_label"),
            (table(labels=pa.array(["a", "b", "c", "a", None, "c"])), "missing_label"),
            (table(labels=pa.array([0, 1, 2, 0, -1, 2])), "label_range"),
            (table(labels=pa.array([0, 1, 2, 0, 3, 2])).replace_schema_metadata(features(["a", "b", "c"])), "label_range"),
            (table(split=["train"] * 4 + ["holdout", "test"]), "unknown_split"),
            (table(split=["train"] * 4 + [None, "test"]), "mixed_splits"),
        ],
    )
    def test_a_row_that_lacks_something_is_named(self, path: Path, content: pa.Table, code: str) -> None:
        assert told(refusal(lambda: read(write(path, content)))) == (code, "row 4")

    def test_limits_are_those_of_the_installation(self, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        write(path, table(), row_group_size=3)
        size = max(map(len, PNGS))
        for limit, found in (
            ({"max_members": 5}, ("too_many_images", "")),
            ({"max_member_bytes": len(PNGS[0]) - 1}, ("member_too_large", "row 0")),
            ({"max_inflated_bytes": 100}, ("inflates_too_much", "")), ({"max_side": 8}, ("image_too_large", "row 0")),
        ):
            assert told(refusal(lambda limit=limit: read(path, limits=IngestLimits(**limit)))) == found
        assert len(read_all(read(path, limits=IngestLimits(max_members=6, max_member_bytes=size, max_side=9)))) == 6
        monkeypatch.setattr(parquet_rows, "MAX_ROW_GROUP_BYTES", 100)
        assert told(refusal(lambda: read(path))) == ("row_group_too_large", "")

    def test_images_that_a_dictionary_repeats_count_each_time(self, path: Path) -> None:
        noise = np.random.default_rng(0).integers(0, 256, (99, 99), np.uint8)
        stream = io.BytesIO()
        Image.fromarray(noise).save(stream, "PNG")
        write(path, table(pa.array([stream.getvalue()] * 200), pa.array([0] * 200)))
        assert path.stat().st_size < 2 * len(stream.getvalue())
        assert told(refusal(lambda: read(path, limits=IngestLimits(always_inflated_bytes=0))))[0] == "inflates_too_much"
        assert len(read_all(read(path))) == 200

    @pytest.mark.parametrize("kind", [pa.binary(), pa.large_binary(), STRUCT, pa.dictionary(pa.int32(), pa.binary())])
    @pytest.mark.parametrize("compression", ["none", "snappy", "zstd", "gzip"])
    def test_images_in_every_form_are_read_in_order(self, path: Path, kind: pa.DataType, compression: str) -> None:
        column = pa.array([{"bytes": x, "path": "no.png"} for x in PNGS], kind) if kind == STRUCT else pa.array(PNGS).cast(kind)
        samples = read_all(read(write(path, table(column), row_group_size=4, compression=compression)))
        assert [int(sample.decode()[0, 0, 0]) for sample in read(path).samples()] == list(range(6))
        assert [sample[:4] for sample in samples[:2]] == [("row 0", "0", "", (9, 9, 1)), ("row 1", "1", "", (9, 9, 1))]

    @pytest.mark.parametrize("kind", [pa.string(), pa.large_string(), pa.dictionary(pa.int8(), pa.string())])
    def test_classes_may_be_texts(self, path: Path, kind: pa.DataType) -> None:
        reader = read(write(path, table(labels=pa.array(["cat", " dog", "Zürich"] * 2).cast(kind))))
        assert [sample.label for sample in reader.samples()] == ["cat", "dog", "Zürich"] * 2
        assert reader.class_names == ()

    @pytest.mark.parametrize("kind", [pa.int8(), pa.uint16(), pa.int64()])
    def test_hugging_faces_names_stand_for_numbers(self, path: Path, kind: pa.DataType) -> None:
        content = table(labels=pa.array([0, 1, 2] * 2).cast(kind))
        assert [sample.label for sample in read(write(path, content)).samples()] == ["0", "1", "2"] * 2
        reader = read(write(path, content.replace_schema_metadata(features(["dog", "cat", "ant"]))))
        assert [sample.label for sample in reader.samples()] == ["dog", "cat", "ant"] * 2
        assert reader.class_names == ("dog", "cat", "ant")

    def test_names_that_no_row_has_are_no_classes(self, path: Path) -> None:
        reader = read(write(path, table().replace_schema_metadata(features(["dog", "cat", "ant", "bee"]))))
        for _ in range(2):
            assert len(read_all(reader)) == 6
            assert reader.class_names == ("dog", "cat", "ant")

    def test_names_of_other_columns_and_of_texts_do_not_count(self, path: Path) -> None:
        texts = table(labels=pa.array(["0", "1", "2"] * 2)).replace_schema_metadata(features(["a", "b", "c"]))
        for content in (table().replace_schema_metadata(features(["a", "b", "c"], "fine")), texts):
            reader = read(write(path, content))
            assert [sample.label for sample in reader.samples()] == ["0", "1", "2"] * 2
            assert reader.class_names == ()

    @pytest.mark.parametrize(
        ("metadata", "code"),
        [
            (features(["a", "a"]), "class_names"), (features(["a", 3]), "class_names"), (features("abc"), "class_names"),
            (features(["a", ""]), "class_names"),
            (features(["a\ud800"]), "class_names"),
            ({"huggingface": "{"}, "damaged_parquet"),
            ({"huggingface": "[" * 100_000}, "damaged_parquet"), ({"huggingface": " " * (2 << 20)}, "damaged_parquet"),
        ],
    )
    def test_names_that_name_nothing_are_refused(self, path: Path, metadata: dict[str, str], code: str) -> None:
        assert told(refusal(lambda: read(write(path, table().replace_schema_metadata(metadata)))))[0] == code

    def test_columns_have_the_names_that_the_conversion_says(self, path: Path) -> None:
        content = table().rename_columns(["img.file", "fine label"])
        reader = read(write(path, content), ConversionSpec(image_column="img.file", label_column="fine label"))
        assert [sample.label for sample in read_all(reader)] == ["0", "1", "2"] * 2

    def test_a_column_may_say_the_split(self, path: Path) -> None:
        splits = ["train", "Test", "validation", "val", "train ", "test"]
        assert [sample.split for sample in read(write(path, table(split=splits))).samples()] == [
            "train", "test", "test", "test", "train", "test"
        ]

    def test_a_broken_image_is_a_sample_that_cannot_be_decoded(self, path: Path) -> None:
        samples = list(read(write(path, table(pa.array([*PNGS[:5], b"no image"])))).samples())
        with pytest.raises(Corrupt) as caught:
            samples[-1].decode()
        assert caught.value.problem.member == "row 5"

    def test_footers_that_lie_are_refused(self, path: Path) -> None:
        data = content_of(table())
        length = int.from_bytes(data[-8:-4], "little")
        for content in (
            b"", b"PAR1", b"PAR1PAR1", b"PAR1" + b"\0" * 4 + b"PAR1", data[:-1], data[:-4] + b"PARE", data[: len(data) // 2],
            data[:-8] + (2**32 - 1).to_bytes(4, "little") + b"PAR1", data[:-8] + (len(data)).to_bytes(4, "little") + b"PAR1",
            data[:-8] + (length // 2).to_bytes(4, "little") + b"PAR1", data[: -8 - length] + b"\xff" * length + data[-8:],
            data[4:200] + data[-8 - length :], b"\0" * 1000,
        ):
            path.write_bytes(content)
            assert told(refusal(lambda: read(path))) == ("damaged_parquet", "")

    def test_a_footer_that_claims_other_rows_is_refused(self, path: Path) -> None:
        data = content_of(table())
        start = len(data) - 8 - int.from_bytes(data[-8:-4], "little")
        codes = set()
        for at in range(start, len(data) - 8):
            if data[at] == 12:  # 6 rows, as zigzag
                path.write_bytes(data[:at] + b"\x0e" + data[at + 1 :])
                try:
                    read_all(read(path))
                except parquet_rows.Refused as refused:
                    codes.add(refused.problem.code)
        assert codes == {"damaged_parquet"}

    def test_damaged_files_are_read_or_refused(self, path: Path) -> None:
        data = content_of(table(split=["train", "test"] * 3).replace_schema_metadata(features(["a", "b", "c"])))
        read_count, refused = survived(data, path, read, seed=6)
        assert refused > 50
        assert read_count + refused == 200


class TestTar:
    @pytest.mark.parametrize("mode", ["w", "w:gz", "w:xz"])
    def test_names_of_files_say_the_split_and_nothing_is_written(self, tmp_path: Path, mode: str) -> None:
        content = table().replace_schema_metadata(features(["a", "b", "c"]))
        files = {
            f"set/data/{name}-00000-of-00001.parquet": content_of(content.slice(first, count))
            for name, first, count in (("train", 0, 3), ("Test", 3, 1), ("validation", 4, 1), ("valid", 5, 1))
        }
        path = tar(tmp_path / "x.tar", {"set/README.md": b"words"} | files, mode)
        reader = read(path)
        samples = []
        for sample in reader.samples():
            samples.append((sample.split, sample.label, int(sample.decode()[0, 0, 0])))
            assert os.listdir(tmp_path) == ["x.tar"]  # noqa: PTH208
        assert samples == [
            ("train", "a", 0), ("train", "b", 1), ("train", "c", 2), ("test", "a", 3), ("test", "b", 4), ("test", "c", 5)
        ]
        assert reader.class_names == ("a", "b", "c")
        assert [note.split("'")[1] for note in reader.notes[:2]] == [
            "set/data/validation-00000-of-00001.parquet", "set/data/valid-00000-of-00001.parquet"
        ]
        assert "README.md" in reader.notes[2]

    def test_files_that_do_not_fit_each_other_are_refused(self, tmp_path: Path) -> None:
        named = content_of(table().replace_schema_metadata(features(["a", "b", "c"])))
        for files, code, member in (
            ({"train.parquet": named, "test.parquet": content_of(table())}, "class_names", "test.parquet"),
            ({"train.parquet": named, "part.parquet": named}, "mixed_splits", "part.parquet:row 0"),
            ({"train.parquet": named, "test.parquet": named[:-9]}, "damaged_parquet", "test.parquet"),
            ({"train.parquet": named, "test.csv.gz": b"x"}, "nested_archive", "test.csv.gz"),
            ({"train.parquet": named, "test.png": b"x"}, "unexpected_file", "test.png"),
            ({"README.md": b"x"}, "no_samples", ""),
        ):
            assert told(refusal(lambda f=files: read(tar(tmp_path / "x.tar", f)))) == (code, member)
        both = tar(tmp_path / "x.tar", {"train.parquet": named, "test.parquet": named})
        assert told(refusal(lambda: read(both, limits=IngestLimits(max_members=11)))) == ("too_many_images", "test.parquet")

    def test_files_larger_than_an_image_may_be_are_read(self, tmp_path: Path) -> None:
        content = content_of(table())
        path = tar(tmp_path / "x.tar", {"x.parquet": content})
        assert len(read_all(read(path, limits=IngestLimits(max_member_bytes=max(map(len, PNGS)))))) == 6
        assert {sample.split for sample in read(path).samples()} == {""}


def test_the_reader_is_one(path: Path) -> None:
    reader: Reader = read(write(path, table()))
    assert reader.class_names == ()


@pytest.mark.parametrize(("member", "split"), [
    ("train-00000-of-00001.parquet", "train"), ("default/test/0000.parquet", "test"), ("validation.parquet", "test"),
    ("values-0.parquet", ""), ("trained.parquet", ""), ("0000.parquet", ""),
])
def test_a_folder_or_the_beginning_of_the_name_is_the_split(member: str, split: str) -> None:
    assert _split_of(member)[1] == split


def test_a_folder_and_a_name_that_disagree_are_refused() -> None:
    with pytest.raises(Refused, match="different splits"):
        _split_of("train/test-0.parquet")
