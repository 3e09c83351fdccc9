from __future__ import annotations

import hashlib
import json
import os
import pickle
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from core.report.build import FACTORED, TABLE, write_artifacts
from core.report.outcome import Outcome
from core.specs.job import DistillationSpec
from core.specs.report import parse_line
from tests.unit.core.report.conftest import Write

pytestmark = pytest.mark.unit


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


class TestWriteArtifacts:
    def test_every_line_names_a_file_and_every_file_has_a_line(self, digits: Outcome, tmp_path: Path) -> None:
        lines = write_artifacts(digits, tmp_path / "out")
        assert [line.name for line in lines] == [name for name in TABLE if name not in FACTORED]
        assert lines[-1].name == "manifest.json"
        assert {line.file for line in lines} == {f"out/{path.name}" for path in (tmp_path / "out").iterdir()}
        for line in lines:
            assert (tmp_path / line.file).stat().st_size > 0
            assert parse_line(line.model_dump_json()) == line

    @pytest.mark.parametrize("name", ["digits", "single", "colour"])
    def test_equal_outcomes_give_equal_bytes(
        self, name: str, request: pytest.FixtureRequest, written: Write, tmp_path: Path
    ) -> None:
        outcome: Outcome = request.getfixturevalue(name)
        write_artifacts(outcome, tmp_path / "out")
        assert contents(tmp_path / "out") == contents(written(outcome))

    def test_writing_again_replaces_what_was_there(
        self, digits: Outcome, single: Outcome, written: Write, tmp_path: Path
    ) -> None:
        write_artifacts(digits, tmp_path / "out")
        write_artifacts(single, tmp_path / "out")
        assert contents(tmp_path / "out") == contents(written(single))

    def test_another_process_writes_the_same_bytes(self, single: Outcome, written: Write, tmp_path: Path) -> None:
        (tmp_path / "outcome").write_bytes(pickle.dumps(single))
        program = (
            "import pathlib, pickle, sys; from core.report.build import write_artifacts; "
            "folder = pathlib.Path(sys.argv[1]); outcome = pickle.loads((folder / 'outcome').read_bytes()); "
            "write_artifacts(outcome, folder / 'out')"
        )
        environment = os.environ | {"PYTHONHASHSEED": "7"}
        subprocess.run([sys.executable, "-c", program, str(tmp_path)], check=True, env=environment)
        assert contents(tmp_path / "out") == contents(written(single))

    def test_arrays_are_left_as_they_were(self, digits: Outcome, tmp_path: Path) -> None:
        before = digits.images.copy()
        write_artifacts(digits, tmp_path / "out")
        assert np.array_equal(digits.images, before)

    def test_torch_is_not_needed(self) -> None:
        program = "import sys, core.report.build; assert 'torch' not in sys.modules and 'matplotlib.pyplot' not in sys.modules"
        subprocess.run([sys.executable, "-c", program], check=True)


class TestManifest:
    def test_it_checks_every_other_file(self, colour: Outcome, written: Write) -> None:
        out = written(colour)
        files = contents(out)
        manifest = json.loads(files.pop("manifest.json"))
        assert set(manifest["files"]) == set(files)
        for name, content in files.items():
            entry = manifest["files"][name]
            assert entry["sha256"] == hashlib.sha256(content).hexdigest()
            assert entry["bytes"] == len(content)
            assert entry["media_type"] == TABLE[name][1]

    def test_the_specification_can_be_submitted_again(self, digits: Outcome, written: Write) -> None:
        out = written(digits)
        manifest = json.loads((out / "manifest.json").read_text())
        assert DistillationSpec.model_validate_json(json.dumps(manifest["spec"])) == digits.spec
        assert manifest["science_digest"] == digits.spec.science_digest()

    def test_provenance_and_normalisation(self, colour: Outcome, written: Write) -> None:
        out = written(colour)
        manifest = json.loads((out / "manifest.json").read_text())
        assert manifest["format"] == 1
        assert manifest["seed"] == 0
        assert manifest["versions"] == {"python": "3.11", "torch": "2.13.0"}
        assert manifest["code_revision"] == "0123abc"
        assert manifest["dataset"]["digest"] == colour.dataset_digest
        assert manifest["dataset"]["verified"] is True
        assert manifest["classes"] == list(colour.info.classes)
        assert manifest["normalisation"]["mean"] == [0.4914, 0.4822, 0.4465]
        assert manifest["images"] == {"count": 20, "channels": 3, "height": 32, "width": 32}
