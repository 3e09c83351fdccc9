from __future__ import annotations

import errno
import hashlib
import os
import tarfile
import zipfile
from pathlib import Path
from typing import get_args

import pytest

from api.client.errors import ClientError
from api.client.packing import packed
from core.specs.ingest import Format

pytestmark = pytest.mark.unit

FILES = {"train/cat/1.png": b"1", "train/dog/2.png": b"22", "test/cat/3.png": b"333", "test/dog/\u00e4 4.png": b""}


def tree(folder: Path, files: dict[str, bytes]) -> Path:
    for name, body in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(body)
    return folder


def digest(folder: Path) -> str:
    with packed(folder) as package:
        return hashlib.sha256(package.path.read_bytes()).hexdigest()


class TestFolder:
    def test_it_becomes_a_tar_with_the_files_in_order(self, tmp_path: Path) -> None:
        folder = tree(tmp_path / "animals", FILES)
        with packed(folder) as package:
            assert (package.filename, package.format) == ("animals.tar", "imagefolder_tar")
            with tarfile.open(package.path) as archive:
                members = archive.getmembers()
                assert [member.name for member in members] == sorted(FILES)
                assert {(m.mtime, m.uid, m.gid, m.uname, m.gname, m.mode, m.isreg()) for m in members} == {
                    (0, 0, 0, "", "", 0o644, True)
                }
                for member in members:
                    read = archive.extractfile(member)
                    assert read is not None
                    assert read.read() == FILES[member.name]
        assert not package.path.exists()

    def test_where_there_is_no_room_the_temporary_folder_is_named(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def full(*_: object) -> None:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

        monkeypatch.setattr(tarfile.TarFile, "addfile", full)
        with pytest.raises(ClientError, match="No space left on device; TMPDIR names another"):
            packed(tree(tmp_path / "animals", FILES)).__enter__()

    def test_the_same_files_give_the_same_bytes(self, tmp_path: Path) -> None:
        one = tree(tmp_path / "one", FILES)
        two = tree(tmp_path / "two", dict(reversed(FILES.items())))
        for path in two.rglob("*"):
            os.utime(path, (1, 1))
            path.chmod(0o700)
        tree(two, {".DS_Store": b"x", "train/.git/config": b"x", "train/cat/._1.png": b"x"})
        assert digest(one) == digest(two)
        tree(two, {"train/cat/1.png": b"2"})
        assert digest(one) != digest(two)

    @pytest.mark.parametrize("target", ["train/cat/1.png", "train/dog", "nowhere", "/etc"])
    def test_a_link_is_refused_by_its_name(self, tmp_path: Path, target: str) -> None:
        folder = tree(tmp_path / "animals", FILES)
        (folder / "train" / "link").symlink_to(target)
        with pytest.raises(ClientError, match=r"train/link: it is a link") as caught, packed(folder):
            raise AssertionError
        assert caught.value.code == "unsafe_archive"

    def test_what_is_no_file_is_refused(self, tmp_path: Path) -> None:
        folder = tree(tmp_path / "animals", FILES)
        os.mkfifo(folder / "pipe")
        with pytest.raises(ClientError, match="pipe: it is neither"), packed(folder):
            raise AssertionError

    def test_a_name_that_is_not_text_is_refused(self, tmp_path: Path) -> None:
        folder = tree(tmp_path / "animals", FILES)
        Path(os.fsdecode(os.fsencode(folder) + b"/\xff.png")).write_bytes(b"x")
        with pytest.raises(ClientError, match="not UTF-8"), packed(folder):
            raise AssertionError

    def test_an_empty_folder_is_refused(self, tmp_path: Path) -> None:
        (tmp_path / ".hidden").mkdir()
        with pytest.raises(ClientError, match="has no files") as caught, packed(tmp_path):
            raise AssertionError
        assert caught.value.code == "no_files"

    @pytest.mark.parametrize("inside", ["", ".DS_Store"])
    def test_a_class_without_files_is_refused(self, tmp_path: Path, inside: str) -> None:
        folder = tree(tmp_path / "animals", FILES)
        (folder / "train" / "horse").mkdir()
        if inside:
            (folder / "train" / "horse" / inside).touch()
        with pytest.raises(ClientError, match="train/horse: the folder is empty") as caught, packed(folder):
            raise AssertionError
        assert caught.value.code == "empty_folder"


class TestFile:
    def test_it_is_sent_as_it_is(self, tmp_path: Path) -> None:
        path = tree(tmp_path, {"digits.npz": b"abc"}) / "digits.npz"
        with packed(path) as package:
            assert package == (path, "digits.npz", "npz")
        assert path.exists()

    def test_a_format_that_is_said_is_not_guessed(self, tmp_path: Path) -> None:
        path = tree(tmp_path, {"digits.bin": b"abc"}) / "digits.bin"
        with packed(path, "npz") as package:
            assert package.format == "npz"
        with pytest.raises(ClientError, match="imagefolder_zip") as caught, packed(path):
            raise AssertionError
        assert caught.value.code == "unknown_format"

    def test_what_is_not_there_or_damaged_is_said(self, tmp_path: Path) -> None:
        for name, match in (("none.zip", "there is no file or folder"), ("bad.zip", "damaged"), ("bad.tar.gz", "damaged")):
            if name.startswith("bad"):
                (tmp_path / name).write_bytes(b"nonsense")
            with pytest.raises(ClientError, match=match) as caught, packed(tmp_path / name):
                raise AssertionError
            assert caught.value.code == "unreadable_file"

    def test_an_error_of_the_caller_stays_its_own(self, tmp_path: Path) -> None:
        path = tree(tmp_path, {"digits.npz": b"abc"}) / "digits.npz"
        for what in (path, tree(tmp_path / "animals", FILES)):
            with pytest.raises(OSError, match="mine"), packed(what):
                raise OSError("mine")


CONTENTS = [
    (["a/1.png", "b/2.jpg"], "imagefolder"), (["x/labels.csv", "x/1.png", "x/2.png"], "labels"),
    (["labels.json", "1.png"], "labels"), (["a/1.wav", "b/2.wav", "README.txt"], "audiofolder"),
    (["train-0.parquet", "test-0.parquet"], "parquet"), (["1.jpg", "1.cls"], "webdataset"),
    (["a.parquet", "notes.txt"], "imagefolder"), (["__MACOSX/a/._1.wav", ".x/labels.csv", "a/1.png"], "imagefolder"),
]


@pytest.mark.parametrize(("names", "layout"), CONTENTS)
def test_the_format_is_guessed_from_the_names(tmp_path: Path, names: list[str], layout: str) -> None:
    folder = tree(tmp_path / "folder", dict.fromkeys(names, b"x"))
    with packed(folder) as package:
        assert package.format == f"{layout}_tar"
    for suffix, mode in ((".tar", "w"), (".tar.gz", "w:gz"), (".TGZ", "w:gz"), (".tar.xz", "w:xz")):
        path = tmp_path / f"archive{suffix}"
        with tarfile.open(path, mode) as archive:
            archive.add(folder, arcname="folder")
        with packed(path) as package:
            assert package.format == f"{layout}_tar"
    path = tmp_path / "archive.zip"
    with zipfile.ZipFile(path, "w") as zipped:
        for name in names:
            zipped.writestr(name, b"x")
    with packed(path) as package:
        expected = f"{layout}_zip"
        assert package.format == (expected if expected in get_args(Format) else "imagefolder_zip")
