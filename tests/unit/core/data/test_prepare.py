from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from core.catalogue import CATALOGUE, dataset_info
from core.data import canonical
from core.data.prepare import main, prepare
from core.data.sources import READERS
from core.errors import DatasetUnreadableError
from core.specs.report import ErrorLine, ExitCode, parse_line

pytestmark = pytest.mark.unit


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
    def test_unknown_name(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        assert main(["letters", "--data-root", str(tmp_path), "--out", str(tmp_path / "o")]) == ExitCode.BAD_SPEC
        line = parse_line(capsys.readouterr().out)
        assert isinstance(line, ErrorLine)
        assert line.code == "dataset_not_found"

    def test_unreadable_data(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        folder = tmp_path / "o"
        folder.mkdir()
        (folder / canonical.MANIFEST).write_text(json.dumps({"format": 1, "digest": "0" * 64}))
        assert main(["digits", "--data-root", str(tmp_path), "--out", str(folder)]) == ExitCode.BAD_DATA
        line = parse_line(capsys.readouterr().out)
        assert isinstance(line, ErrorLine)
        assert line.code == "dataset_unreadable"

    def test_success_says_nothing(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        assert main(["digits", "--data-root", str(tmp_path), "--out", str(tmp_path / "o")]) == ExitCode.OK
        assert capsys.readouterr().out == ""
