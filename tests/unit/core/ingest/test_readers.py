"""Folders, lists and WebDataset tars: what they say is what samples carry, and what says nothing is refused by name."""

from __future__ import annotations

import bz2
import gzip
import json
import lzma
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import pytest

from core.ingest.build import notes_of
from core.ingest.folders import FolderRule, SideFiles
from core.ingest.members import Container, open_members
from core.ingest.samples import Refused, Split
from core.specs.ingest import Format, IngestLimits, IngestProblem
from tests.unit.core.ingest.files import folders, jpeg, png, tar_entry, tarred, zipped
from tests.unit.core.ingest.mutations import read_all
from tests.unit.core.ingest.readers import problems, reader

pytestmark = pytest.mark.unit
Said = list[tuple[str, Split, str]]


def said(folder: Path, content: bytes, format: Format, **conversion: Any) -> Said:
    """Member, split and class of every sample; the second pass says the same as the first."""
    made = reader(folder, content, format, **conversion)
    first = [(sample.member, sample.split, sample.label) for sample in read_all(made)]
    assert [(sample.member, sample.split, sample.label) for sample in made.samples()] == first
    return first


def first_problem(folder: Path, content: bytes, format: Format, **conversion: Any) -> tuple[str, str]:
    problem = problems(folder, content, format, **conversion)[0]
    return problem.code, problem.member


class TestMembers:
    @pytest.mark.parametrize("container", ["zip", "tar"])
    def test_contents_come_in_the_order_of_the_archive(self, container: Container, tmp_path: Path) -> None:
        content = {"b/2.png": b"two", "a/1.png": b"", "z/" + 120 * "x" + "/3.png": b"three" * 9999, "\u00e9/4.png": b"4"}
        path = tmp_path / "archive"
        path.write_bytes(zipped(content) if container == "zip" else tarred(content))
        found = {member.name: (member.size, member.read()) for member in open_members(path, container, IngestLimits())}
        assert found == {name: (len(data), data) for name, data in content.items()}
        assert list(found) == list(content)
        assert [member.name for member in open_members(path, container, IngestLimits())] == list(content)

    @pytest.mark.parametrize("compression", ["", "gz", "bz2", "xz"])
    @pytest.mark.parametrize("format", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
    def test_every_kind_of_tar(self, compression: Literal["", "gz", "bz2", "xz"], format: int, tmp_path: Path) -> None:
        content = {f"folder/{i * 'x'}/{i * 'y'}.png": bytes([i]) * i * 1000 for i in range(1, 90, 20)}
        path = tmp_path / "archive"
        path.write_bytes(tarred(content, compression, format=format))
        assert {member.name: member.read() for member in open_members(path, "tar", IngestLimits())} == content

    @pytest.mark.parametrize("pack", [gzip.compress, bz2.compress, lzma.compress])
    def test_several_compressed_streams_are_one(self, pack: Callable[[bytes], bytes], tmp_path: Path) -> None:
        path, whole = tmp_path / "archive", tarred(folders())
        path.write_bytes(b"".join(pack(whole[at : at + 1000]) for at in range(0, len(whole), 1000)) + bytes(8))
        assert {member.name: member.read() for member in open_members(path, "tar", IngestLimits())} == folders()

    @pytest.mark.parametrize("container", ["zip", "tar"])
    def test_what_systems_leave_behind_is_not_there(self, container: Container, tmp_path: Path) -> None:
        junk = ("a/", "./", "__MACOSX/a/._1.png", "a/.DS_Store", "a/Thumbs.db", ".git/HEAD", "a/._1.png")
        content = folders() | dict.fromkeys(junk, b"")
        path = tmp_path / "archive"
        path.write_bytes(zipped(content) if container == "zip" else tarred(content))
        assert [member.name for member in open_members(path, container, IngestLimits())] == list(folders())

    def test_a_folder_packed_from_within(self, tmp_path: Path) -> None:
        path = tmp_path / "archive"
        with tarfile.open(path, "w:gz") as archive:
            archive.addfile(tar_entry("./", tarfile.DIRTYPE))
            archive.addfile(tar_entry("./a", tarfile.DIRTYPE))
            archive.addfile(tarfile.TarInfo("./a/1.png"))
        assert [member.name for member in open_members(path, "tar", IngestLimits())] == ["a/1.png"]

    def test_a_member_that_was_not_read_is_passed_over(self, tmp_path: Path) -> None:
        path = tmp_path / "archive"
        path.write_bytes(tarred(folders(), "gz"))
        read = {member.name: member.read() for member in open_members(path, "tar", IngestLimits()) if "1" in member.name}
        assert read == {name: data for name, data in folders().items() if "1" in name}


class TestFolderRule:
    @pytest.mark.parametrize(
        ("name", "expected"),
        [
            ("boots/1.png", ("", "boots")), ("train/boots/1.png", ("train", "boots")), ("TEST/boots/1.png", ("test", "boots")),
            ("val/boots/1.png", ("test", "boots")), ("validation/boots/1.png", ("test", "boots")),
            ("shoes/boots/1.png", ("", "boots")), ("shoes/train/boots/1.png", ("train", "boots")),
            ("train/train/boots/1.png", ("train", "boots")),
        ],
    )
    def test_one_name(self, name: str, expected: tuple[Split, str]) -> None:
        assert FolderRule().split_and_label(name) == expected

    @pytest.mark.parametrize(
        ("names", "code"),
        [
            (["1.png"], "not_in_class_folder"), (["train/1.png"], "not_in_class_folder"),
            (["shoes/train/1.png"], "not_in_class_folder"), (["a/b/c/1.png"], "nested_too_deep"),
            (["a/b/c/d/1.png"], "nested_too_deep"), (["boots/1.png", "boots/old/2.png"], "nested_too_deep"),
            (["x/boots/1.png", "y/boots/1.png"], "nested_too_deep"), (["x/boots/1.png", "boots/1.png"], "nested_too_deep"),
            (["train/boots/1.png", "boots/1.png"], "mixed_splits"),
        ],
    )
    def test_names_that_say_nothing_or_contradict_each_other(self, names: list[str], code: str) -> None:
        rule = FolderRule()
        for name in names[:-1]:
            rule.split_and_label(name)
        with pytest.raises(Refused) as caught:
            rule.split_and_label(names[-1])
        assert caught.value.problem == IngestProblem(code=code, message=str(caught.value), member=names[-1])

    def test_validation_images_are_told(self) -> None:
        rule = FolderRule()
        for split in ("train", "val", "test"):
            rule.split_and_label(f"{split}/boots/1.png")
        assert rule.notes == ("What lies in 'val' belongs to the test split, beside that of 'test'.",)
        assert FolderRule().notes == ()


class TestSideFiles:
    def test_known_kinds_are_counted(self) -> None:
        side_files = SideFiles()
        for name in ("README", "a/notes.txt", "LICENSE", "meta.json"):
            side_files.leave_out(name, (".png",))
        assert side_files.notes == ("4 other file(s) were left out, for example 'README'.",)

    def test_others_are_refused(self) -> None:
        with pytest.raises(Refused, match=r"\.exe are not read here; wanted: \.png"):
            SideFiles().leave_out("a/setup.exe", (".png",))


class TestImageFolder:
    @pytest.mark.parametrize("format", ["imagefolder_zip", "imagefolder_tar"])
    @pytest.mark.parametrize("top", ["", "shoes/"])
    def test_classes_and_splits(self, format: Format, top: str, tmp_path: Path) -> None:
        make = zipped if format == "imagefolder_zip" else tarred
        names = {"train/b/1.png": ("train", "b"), "train/a/1.JPG": ("train", "a"), "val/a/1.jpeg": ("test", "a")}
        content = {f"{top}{name}": jpeg() for name in names} | {f"{top}README.md": b"hello"}
        assert said(tmp_path, make(content), format) == [(top + name, *expected) for name, expected in names.items()]

    def test_what_was_left_out_is_told(self, tmp_path: Path) -> None:
        made = reader(tmp_path, zipped(folders() | {"README": b"hello"}), "imagefolder_zip")
        list(made.samples())
        assert notes_of(made) == ("1 other file(s) were left out, for example 'README'.",)

    def test_other_files_are_refused(self, tmp_path: Path) -> None:
        content = zipped(folders() | {"a/film.mp4": b"x"})
        assert first_problem(tmp_path, content, "imagefolder_zip") == ("unexpected_file", "a/film.mp4")

    def test_nothing_to_read(self, tmp_path: Path) -> None:
        assert first_problem(tmp_path, zipped({}), "imagefolder_zip") == ("no_images", "")
        assert first_problem(tmp_path, tarred({"README": b"x"}), "imagefolder_tar") == ("no_images", "")


IMAGES = {f"{i}.png": png(i) for i in range(4)}


class TestLabels:
    @pytest.mark.parametrize("format", ["labels_zip", "labels_tar"])
    @pytest.mark.parametrize(
        ("name", "text"),
        [
            ("labels.csv", "file,label\r\n0.png,a\r\n1.png,b\r\n2.png,a\r\n3.png,b\r\n"),
            ("labels.csv", "\ufeffid;label;file\n1;a;0.png\n2;b;1.png\n3; a;./2.png\n4;b;3.png"),
            ("labels.csv", 'file\tlabel\n\n0.png\ta\n1.png\t"b"\n2.png\ta\n3.png\tb\n'),
            ("labels.json", json.dumps([{"file": f"{i}.png", "label": "ab"[i % 2]} for i in range(4)], indent=1)),
        ],
    )
    def test_a_list_beside_images(self, format: Format, name: str, text: str, tmp_path: Path) -> None:
        make = zipped if format == "labels_zip" else tarred
        expected = [(f"{i}.png", "", "ab"[i % 2]) for i in range(4)]
        assert said(tmp_path, make({name: text.encode()} | IMAGES), format) == expected
        assert said(tmp_path, make(IMAGES | {name: text.encode()}), format) == expected

    def test_columns_folders_and_splits(self, tmp_path: Path) -> None:
        text = "picture,kind,split\nimages/e\u0301.png,7,train\nimages/1.png,8,Validation\n"
        content = {"set/labels.csv": text.encode(), "set/images/\u00e9.png": png(), "set/images/1.png": png()}
        found = said(tmp_path, zipped(content), "labels_zip", file_column="picture", label_column="kind")
        assert found == [("set/images/\u00e9.png", "train", "7"), ("set/images/1.png", "test", "8")]

    def test_what_the_list_does_not_name_is_left_out_and_told(self, tmp_path: Path) -> None:
        text = b"file,label\n0.png,a\n1.png,b\n"
        made = reader(tmp_path, zipped({"labels.csv": text} | IMAGES | {"README": b"x"}), "labels_zip")
        assert len(list(made.samples())) == 2
        assert notes_of(made) == (
            "2 image(s) that labels.csv does not name were left out.", "1 other file(s) were left out, for example 'README'.",
        )

    @pytest.mark.parametrize(
        ("name", "text", "code", "member"),
        [
            ("list.txt", "", "missing_list", ""),
            ("labels.csv", "", "bad_labels", "labels.csv"),
            ("labels.csv", "file,label\n", "bad_labels", "labels.csv"),
            ("labels.csv", "name,label\n0.png,a", "bad_labels", "labels.csv"),
            ("labels.csv", "file,label,label\n0.png,a,b", "bad_labels", "labels.csv"),
            ("labels.csv", "file,label\n0.png", "bad_labels", "labels.csv, line 2"),
            ("labels.csv", "file,label\n0.png,a\n0.png,a", "duplicate_name", "labels.csv, line 3"),
            ("labels.csv", "file,label\n0.png,", "missing_label", "labels.csv, line 2"),
            ("labels.csv", "file,label,split\n0.png,a,dev", "unknown_split", "labels.csv, line 2"),
            ("labels.csv", "file,label\n../0.png,a", "unsafe_name", "../0.png"),
            ("labels.csv", "file,label\n0.png,a\n9.png,a", "missing_file", "9.png"),
            ("labels.csv", 'file,label\n"0.png,a', "bad_labels", "labels.csv"),
            ("labels.csv", "file,label\n0.png," + 200_000 * "x", "bad_labels", "labels.csv"),
            ("labels.json", "", "bad_labels", "labels.json"),
            ("labels.json", "{}", "bad_labels", "labels.json"),
            ("labels.json", "[]", "bad_labels", "labels.json"),
            ("labels.json", "[1]", "bad_labels", "labels.json, row 1"),
            ("labels.json", '[{"file": "0.png"}]', "bad_labels", "labels.json, row 1"),
            ("labels.json", '[{"file": 3, "label": "a"}]', "bad_labels", "labels.json, row 1"),
            ("labels.json", '[{"file": "0.png", "label": 1.5}]', "missing_label", "labels.json, row 1"),
            ("labels.json", '[{"file": "0.png", "label": true}]', "missing_label", "labels.json, row 1"),
            ("labels.json", '[{"file": "0.png", "label": "a"}', "bad_labels", "labels.json"),
            ("labels.json", '[{"file": "0.png", "label": "a"},]', "bad_labels", "labels.json"),
            ("labels.json", '[{"file": "0.png", "label": "a"}] more', "bad_labels", "labels.json"),
            ("labels.json", 100_000 * "[", "bad_labels", "labels.json"),
            ("labels.json", '[{"file": "0.png", "label": ' + 5000 * "1" + "}]", "bad_labels", "labels.json"),
            ("labels.json", "[" + 2000 * '{"a":', "bad_labels", "labels.json"),
        ],
    )
    def test_a_list_that_cannot_be_used(self, name: str, text: str, code: str, member: str, tmp_path: Path) -> None:
        assert first_problem(tmp_path, zipped(IMAGES | {name: text.encode()}), "labels_zip") == (code, member)

    def test_text_that_is_not_utf8(self, tmp_path: Path) -> None:
        content = zipped(IMAGES | {"labels.csv": "file,label\n0.png,\u00e9".encode("latin-1")})
        assert first_problem(tmp_path, content, "labels_zip") == ("bad_labels", "labels.csv")

    def test_two_lists(self, tmp_path: Path) -> None:
        content = zipped(IMAGES | {"labels.csv": b"", "x/labels.json": b"[]"})
        assert first_problem(tmp_path, content, "labels_zip") == ("several_lists", "x/labels.json")

    def test_a_list_of_too_many_rows(self, tmp_path: Path) -> None:
        text = b"file,label\n" + b"".join(b"%d.png,a\n" % i for i in range(6))
        found = problems(tmp_path, zipped({"labels.csv": text} | IMAGES), "labels_zip", IngestLimits(max_members=5))
        assert (found[0].code, found[0].member) == ("too_many_members", "labels.csv, line 7")


class TestWebDataset:
    @pytest.mark.parametrize("compression", ["", "gz"])
    def test_keys(self, compression: Literal["", "gz"], tmp_path: Path) -> None:
        content = {
            "0.png": png(), "0.cls": b"3", "x/1.jpg": jpeg(), "x/1.cls": b" 4\n", "x/1.txt": b"caption",
            "2.json": b'{"label": "cat", "text": "a"}', "2.webp": png(), "3.cls": b"5", "3.json": b'{"label": 9}',
            "3.jpeg": jpeg(),
        }
        assert said(tmp_path, tarred(content, compression), "webdataset_tar") == [
            ("0.png", "", "3"), ("x/1.jpg", "", "4"), ("2.webp", "", "cat"), ("3.jpeg", "", "5"),
        ]

    def test_a_folder_with_the_name_of_a_split_is_one(self, tmp_path: Path) -> None:
        content = {"train/0.png": png(), "train/0.cls": b"0", "val/0.cls": b"0", "val/0.png": png()}
        assert [split for _, split, _ in said(tmp_path, tarred(content), "webdataset_tar")] == ["train", "test"]

    def test_the_column_of_the_class(self, tmp_path: Path) -> None:
        content = tarred({"0.png": png(), "0.json": b'{"digit": 7}'})
        assert said(tmp_path, content, "webdataset_tar", label_column="digit") == [("0.png", "", "7")]

    def test_what_was_left_out_is_told(self, tmp_path: Path) -> None:
        made = reader(tmp_path, tarred({"0.png": png(), "0.cls": b"0", "0.seg.png": png()}), "webdataset_tar")
        list(made.samples())
        assert notes_of(made) == ("1 member(s) of kind '.seg.png' were left out.",)

    @pytest.mark.parametrize(
        ("content", "expected"),
        [
            ({"0.cls": b"0", "1.png": png(), "1.cls": b"0"}, ("missing_image", "0")),
            ({"0.png": png(), "1.png": png(), "1.cls": b"0"}, ("missing_label", "0")),
            ({"0.png": png(), "0.cls": b"0", "1.png": png()}, ("missing_label", "1")),
            ({"0.png": png(), "0.json": b'{"text": "a"}'}, ("missing_label", "0")),
            ({"0.png": png(), "0.cls": b" "}, ("missing_label", "0.cls")),
            ({"0.png": png(), "0.json": b"{"}, ("bad_labels", "0.json")),
            ({"0.png": png(), "0.json": b"[" * 60_000}, ("bad_labels", "0.json")),
            ({"0.png": png(), "0.cls": b"\xff"}, ("bad_labels", "0.cls")),
            ({"0.png": png(), "0.cls": b"1" * 70_000}, ("bad_labels", "0.cls")),
            ({"0.png": png(), "0.cls": b"0", "0.jpg": jpeg()}, ("several_images", "0.jpg")),
            ({"0.png": png(), "1.png": png(), "0.cls": b"0", "1.cls": b"0"}, ("missing_label", "0")),
            ({"0.png": png(), "0.cls": b"0", "1.png": png(), "1.cls": b"0", "0.txt": b""}, ("scattered_key", "0")),
        ],
    )
    def test_members_that_do_not_belong_together(
        self, content: dict[str, bytes], expected: tuple[str, str], tmp_path: Path
    ) -> None:
        assert first_problem(tmp_path, tarred(content), "webdataset_tar") == expected


class Pipe:
    """A file that cannot go back."""

    def __init__(self) -> None:
        self.data = bytearray()

    def write(self, data: bytes) -> int:
        self.data += data
        return len(data)

    def flush(self) -> None:
        pass


def test_a_zip_that_was_written_as_a_stream_is_read(tmp_path: Path) -> None:
    pipe = Pipe()
    with zipfile.ZipFile(pipe, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in folders().items():
            archive.writestr(name, data)
    assert len(said(tmp_path, bytes(pipe.data), "imagefolder_zip")) == len(folders())
