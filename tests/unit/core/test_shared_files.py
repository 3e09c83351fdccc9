"""Data sets that appear whole. A power loss is simulated at the nearest boundary: what was flushed when a name is given."""

from __future__ import annotations

import fcntl
import os
from pathlib import Path
from typing import Any

import pytest

from core.shared_files import appearing_dataset, has_dataset, hold
from core.specs.report import DATASET_FILES

pytestmark = pytest.mark.unit


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, str]]:
    """What is flushed and renamed, in order, by name."""
    seen: list[tuple[str, str]] = []
    fsync, rename = os.fsync, os.rename

    def flushed(descriptor: int) -> None:
        seen.append(("flush", Path(f"/proc/self/fd/{descriptor}").readlink().name))
        fsync(descriptor)

    def renamed(source: Any, target: Any) -> None:
        seen.append(("rename", Path(target).name))
        rename(source, target)

    monkeypatch.setattr(os, "fsync", flushed)
    monkeypatch.setattr(os, "rename", renamed)
    return seen


def test_bytes_are_on_the_disk_before_the_name_and_the_name_afterwards(tmp_path: Path, calls: list[tuple[str, str]]) -> None:
    cache = tmp_path / "cache"
    with appearing_dataset(cache / "ds") as temporary:
        (temporary / "train_images.npy").write_bytes(b"x")
        (temporary / "manifest.json").write_bytes(b"{}")
        assert not (cache / "ds").exists()
    assert set(calls[:2]) == {("flush", "train_images.npy"), ("flush", "manifest.json")}
    assert calls[2:] == [("flush", temporary.name), ("rename", "ds"), ("flush", "cache")]
    assert [path.name for path in cache.iterdir()] == ["ds"]


def test_an_error_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError), appearing_dataset(tmp_path / "ds") as temporary:
        (temporary / "manifest.json").rename(temporary / "nothing" / "manifest.json")
    assert list(tmp_path.iterdir()) == []


def appear(folder: Path, text: str) -> None:
    with appearing_dataset(folder) as temporary:
        for name in DATASET_FILES:
            (temporary / name).write_text(text)


def test_the_first_of_two_wins(tmp_path: Path) -> None:
    for text in ("first", "second"):
        appear(tmp_path / "ds", text)
    assert {path.read_text() for path in (tmp_path / "ds").iterdir()} == {"first"}
    assert [path.name for path in tmp_path.iterdir()] == ["ds"]


@pytest.mark.parametrize("lost", DATASET_FILES)
def test_one_that_lost_a_file_is_replaced(tmp_path: Path, lost: str) -> None:
    appear(tmp_path / "ds", "first")
    (tmp_path / "ds" / lost).rename(tmp_path / "ds" / "other")
    assert not has_dataset(tmp_path / "ds")
    appear(tmp_path / "ds", "second")
    assert {path.name: path.read_text() for path in (tmp_path / "ds").iterdir()} == dict.fromkeys(DATASET_FILES, "second")
    assert [path.name for path in tmp_path.iterdir()] == ["ds"]


def test_a_name_that_cannot_be_given_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "ds").write_text("a file")
    with pytest.raises(NotADirectoryError):
        appear(tmp_path / "ds", "first")
    assert [path.name for path in tmp_path.iterdir()] == ["ds"]


class TestHold:
    def test_what_is_not_there_cannot_be_held(self, tmp_path: Path) -> None:
        with pytest.raises(FileNotFoundError):
            hold(tmp_path / "file")

    def test_many_or_one_alone(self, tmp_path: Path) -> None:
        file = tmp_path / "file"
        file.touch()
        held = [hold(file), hold(file)]
        with pytest.raises(BlockingIOError):
            hold(file, alone=True)
        for descriptor in held:
            os.close(descriptor)
        alone = hold(file, alone=True)
        with pytest.raises(BlockingIOError):
            hold(file)
        os.close(alone)

    def test_a_file_that_was_replaced_meanwhile_is_not_held(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """Opened, then removed and made anew by another process, then locked: the lock would be on the old one."""
        file, before, lock = tmp_path / "file", list(Path("/proc/self/fd").iterdir()), fcntl.flock
        file.touch()

        def replaced(descriptor: int, operation: int) -> None:
            (tmp_path / "new").touch()
            (tmp_path / "new").replace(file)
            lock(descriptor, operation)

        with monkeypatch.context() as patched:
            patched.setattr(fcntl, "flock", replaced)
            with pytest.raises(FileNotFoundError):
                hold(file)
        assert list(Path("/proc/self/fd").iterdir()) == before
