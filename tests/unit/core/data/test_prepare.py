from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from core.catalogue import CATALOGUE, dataset_info
from core.data import canonical
from core.data.prepare import prepare
from core.data.sources import READERS
from core.errors import DatasetUnreadableError
from core.specs.report import ErrorLine, ExitCode, Line, PhaseLine, ProgressLine, parse_line

pytestmark = pytest.mark.unit

ROOT = Path(__file__).resolve().parents[4]


def test_every_set_of_the_catalogue_has_a_reader() -> None:
    assert set(READERS) == set(CATALOGUE)


class TestPrepare:
    def test_refuses_bytes_of_another_digest(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        splits = READERS["digits"](tmp_path)
        changed = splits._replace(train_images=np.ascontiguousarray(splits.train_images[::-1]))
        monkeypatch.setitem(READERS, "digits", lambda root: changed)
        with pytest.raises(DatasetUnreadableError, match="digest"):
            prepare("digits", tmp_path, tmp_path / "out")
        assert not (tmp_path / "out").exists()

    def test_writes_the_canonical_form(self, digits_dir: Path) -> None:
        splits, digest = canonical.read(digits_dir)
        info = dataset_info("digits")
        assert digest == canonical.digest_of(splits) == info.digest
        assert tuple(np.bincount(splits.train_labels)) == info.train_per_class
        assert tuple(np.bincount(splits.test_labels)) == info.test_per_class

    def test_leaves_a_folder_that_exists(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        prepare("digits", tmp_path, tmp_path / "a" / "b")
        monkeypatch.delitem(READERS, "digits")
        prepare("digits", tmp_path, tmp_path / "a" / "b")


class TestCommand:
    """The command as a supervisor runs it, and the lines that it says."""

    def test_unknown_name(self, tmp_path: Path) -> None:
        code, (_, *_, error) = command("letters", tmp_path, tmp_path / "o")
        assert code == ExitCode.BAD_SPEC
        assert isinstance(error, ErrorLine)
        assert error.code == "dataset_not_found"

    def test_unreadable_data(self, tmp_path: Path) -> None:
        folder = tmp_path / "o"
        prepare("digits", tmp_path, folder)
        (folder / canonical.MANIFEST).write_text(json.dumps({"format": 1, "digest": "0" * 64}))
        code, (_, *_, error) = command("digits", tmp_path, folder)
        assert code == ExitCode.BAD_DATA
        assert isinstance(error, ErrorLine)
        assert error.code == "dataset_unreadable"

    @pytest.mark.parametrize("lost", ["manifest.json", "test_labels.npy"])
    def test_a_folder_that_lost_a_file_is_written_again(self, tmp_path: Path, lost: str) -> None:
        prepare("digits", tmp_path, tmp_path / "o")
        (tmp_path / "o" / lost).unlink()
        assert command("digits", tmp_path, tmp_path / "o")[0] == ExitCode.OK
        assert canonical.read(tmp_path / "o")[1] == dataset_info("digits").digest

    def test_a_full_disk_has_a_name(self, tmp_path: Path) -> None:
        """Simulated by the largest size that the kernel lets the process give a file."""
        limit = "import resource, signal\nsignal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        code, (_, *_, error) = command(
            "digits", tmp_path, tmp_path / "o", limit + "resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, 10_000))"
        )
        assert code == ExitCode.INTERNAL
        assert isinstance(error, ErrorLine)
        assert (error.code, "the disk of the worker is full" in error.message) == ("internal", True)
        assert not (tmp_path / "o").exists()

    def test_a_slow_reading_is_said_to_go_on(self, tmp_path: Path) -> None:
        """What a library prints meanwhile is no line."""
        patches = """
import time, core.child, core.data.sources
read = core.data.sources.READERS["digits"]
core.child.BUSY_SECONDS = 0.05
core.data.sources.READERS["digits"] = lambda root: print("100%") or time.sleep(1) or read(root)
"""
        code, (first, *rest) = command("digits", tmp_path, tmp_path / "o", patches)
        assert code == ExitCode.OK
        assert first == PhaseLine(phase="preparing", total_steps=0)
        assert len(rest) > 5
        assert {line.message for line in rest if isinstance(line, ProgressLine)} == {"reading digits"}
        assert (tmp_path / "o" / canonical.MANIFEST).is_file()


def command(name: str, root: Path, out: Path, before: str = "") -> tuple[int, list[Line]]:
    """Exit code and lines of the command in a process of its own, after some statements."""
    done = subprocess.run(
        [sys.executable, "-c", f"{before}\nimport sys\nfrom core.data.prepare import main\nsys.exit(main())",
         name, "--data-root", str(root), "--out", str(out)],
        capture_output=True, text=True, timeout=60, check=False, env=os.environ | {"PYTHONPATH": str(ROOT)},
    )
    return done.returncode, [parse_line(line) for line in done.stdout.splitlines()]
