"""The process that reads a user's files: what it can reach, and what it is told."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from core.catalogue import CATALOGUE
from core.specs.ingest import SAMPLES_FILE, IngestSpec, IngestSummary
from core.specs.report import ArtifactLine, CheckpointLine, ProgressLine, UnitsLine
from tests.fixtures.servers import free_port
from worker.child import Child
from worker.sandbox import MADE, MAX_SAMPLES_BYTES, doubts, environment, may_say, without_network

pytestmark = pytest.mark.unit

CONNECT = "import socket, sys; socket.create_connection(('127.0.0.1', int(sys.argv[1])), 5)"


def test_it_has_no_network_where_the_worker_says_so() -> None:
    """Not even its own host: the same program connects outside."""
    with socket.create_server(("127.0.0.1", free_port())) as server:
        port = str(server.getsockname()[1])
        assert subprocess.run([sys.executable, "-c", CONNECT, port], check=False).returncode == 0
        inside = subprocess.run([*without_network(), sys.executable, "-c", CONNECT, port], check=False, capture_output=True)
    assert (inside.returncode != 0) == bool(without_network()), inside.stderr


def test_it_is_told_no_secret(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("DISTILL_S3_SECRET_ACCESS_KEY", "AWS_SECRET_ACCESS_KEY", "https_proxy", "HOME"):
        monkeypatch.setenv(name, "secret")
    made = environment(tmp_path, threads=1)
    assert "secret" not in made.values()
    assert made["TMPDIR"] == made["HOME"] == str(tmp_path)


def test_it_ends_with_the_worker_as_every_child_does(tmp_path: Path) -> None:
    """`unshare` becomes the child: the process that is killed, and whose end is waited for, is the one that reads."""
    child = Child(
        "core.probe", [str(tmp_path / "nothing")], environment(tmp_path, threads=1), tmp_path / "log", within=without_network()
    )
    try:
        command = Path(f"/proc/{child.pid}/cmdline")
        for _ in range(1000):
            if child.poll() is not None or b"core.probe" in command.read_bytes():
                break
        assert os.getpgid(child.pid) == child.pid
    finally:
        child.kill()
        child.close()
    assert child.poll() is not None


SPEC = IngestSpec(dataset_id="ds_1", title="Mine", filename="a.zip", format="imagefolder_zip")


def made(folder: Path) -> tuple[list[ArtifactLine], dict[str, Any]]:
    """What an honest child leaves and says."""
    lines = []
    for kind, name, file in sorted(MADE):
        (folder / file).parent.mkdir(parents=True, exist_ok=True)
        (folder / file).write_bytes(b"x")
        lines.append(ArtifactLine(kind=kind, name=name, file=file, media_type="a/b"))
    info = CATALOGUE["digits"].model_copy(update={"name": "ds_1", "title": "Mine"})
    return lines, IngestSummary(info=info, size_bytes=1).model_dump(mode="json")


class TestDoubts:
    def test_an_honest_child_is_believed(self, tmp_path: Path) -> None:
        assert doubts(tmp_path, SPEC, *made(tmp_path)) == ""

    @pytest.mark.parametrize("file", ["/proc/self/environ", "../secret", "job.json", "out/../job.json"])
    def test_it_names_no_file_but_its_own(self, tmp_path: Path, file: str) -> None:
        lines, summary = made(tmp_path)
        lines[0] = lines[0].model_copy(update={"file": file})
        assert "other files" in doubts(tmp_path, SPEC, lines, summary)
        assert "other files" in doubts(tmp_path, SPEC, made(tmp_path)[0][1:], summary)

    def test_it_leaves_no_links(self, tmp_path: Path) -> None:
        folder = tmp_path / "job"
        folder.mkdir()
        lines, summary = made(folder)
        (tmp_path / "secret").write_text("secret")
        (folder / "out" / SAMPLES_FILE).unlink()
        (folder / "out" / SAMPLES_FILE).symlink_to(tmp_path / "secret")
        assert "plain file" in doubts(folder, SPEC, lines, summary)
        (folder / "out").rename(tmp_path / "elsewhere")
        (folder / "out").symlink_to(tmp_path / "elsewhere")
        assert "plain file" in doubts(folder, SPEC, lines, summary)

    def test_samples_fit_into_the_api(self, tmp_path: Path) -> None:
        lines, summary = made(tmp_path)
        with (tmp_path / "out" / SAMPLES_FILE).open("r+b") as file:
            file.truncate(MAX_SAMPLES_BYTES + 1)
        assert "too large" in doubts(tmp_path, SPEC, lines, summary)

    def test_the_summary_is_one_of_this_data_set(self, tmp_path: Path) -> None:
        lines, summary = made(tmp_path)
        assert "not one" in doubts(tmp_path, SPEC, lines, {"info": {}})
        assert "another" in doubts(tmp_path, SPEC.model_copy(update={"dataset_id": "ds_2"}), lines, summary)

    def test_it_has_no_checkpoints_and_leaves_nothing_to_others(self) -> None:
        assert may_say(ProgressLine(phase="preparing", step=1, total_steps=2))
        assert not may_say(CheckpointLine(step=1, file="/etc/passwd"))
        assert not may_say(UnitsLine(units=("a",), set_digest="b"))
