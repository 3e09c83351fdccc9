"""The probe as the supervisor sees it: a process, a job directory, lines, signals, exit codes."""

from __future__ import annotations

import hashlib
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel

from core.probe import last_state, write_bytes
from core.specs.job import ProbeSpec
from core.specs.report import ArtifactLine, CheckpointLine, ErrorLine, ExitCode, JobFile, MetricLine, ResultLine, parse_line

pytestmark = pytest.mark.unit
ROOT = Path(__file__).parents[3]


def probe(**fields: Any) -> ProbeSpec:
    return ProbeSpec.model_validate_json(json.dumps({"kind": "probe"} | fields))


def write_job(folder: Path, spec: ProbeSpec, **fields: Any) -> None:
    folder.mkdir(exist_ok=True)
    job = {"job_id": "job_1", "attempt": 1, "spec": spec.model_dump(mode="json"), "dataset_dir": ""}
    (folder / "job.json").write_text(JobFile.model_validate(job | fields).model_dump_json())


def start(folder: Path) -> subprocess.Popen[bytes]:
    environment = {"PATH": os.environ["PATH"], "HOME": str(folder)}
    return subprocess.Popen(
        [sys.executable, "-m", "core.probe", str(folder)], cwd=ROOT, env=environment, start_new_session=True,
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
    )


def finish(child: subprocess.Popen[bytes]) -> tuple[int, list[BaseModel]]:
    assert child.stdout is not None
    assert child.stdin is not None
    with child.stdin, child.stdout:
        lines: list[BaseModel] = list(map(parse_line, child.stdout))
        return child.wait(timeout=60), lines


def run(folder: Path) -> tuple[int, list[BaseModel]]:
    return finish(start(folder))


def of(kind: type[Any], lines: list[BaseModel]) -> list[Any]:
    return [line for line in lines if isinstance(line, kind)]


def test_it_steps_and_leaves_a_file_that_the_steps_decide(tmp_path: Path) -> None:
    spec = probe(work={"steps": 7, "seconds_per_step": 0.0, "checkpoint_steps": 3, "artifact_bytes": (1 << 20) + 5}, seed=4)
    write_job(tmp_path, spec)
    code, lines = run(tmp_path)
    assert code == ExitCode.OK
    assert [line.step for line in of(CheckpointLine, lines)] == [3, 6]
    assert [line.step for line in of(MetricLine, lines)] == list(range(1, 8))
    (artifact,), (result,) = of(ArtifactLine, lines), of(ResultLine, lines)
    content = (tmp_path / artifact.file).read_bytes()
    assert len(content) == (1 << 20) + 5
    assert result.summary["sha256"] == hashlib.sha256(content).hexdigest()
    assert result.summary["state"] == last_state(spec) != last_state(probe(work=spec.work.model_dump(), seed=5))
    assert write_bytes(tmp_path / "again", last_state(spec), len(content)) == result.summary["sha256"]


def test_after_sigterm_it_goes_on_where_it_stood_and_ends_with_the_same_bytes(tmp_path: Path) -> None:
    spec = probe(work={"steps": 50, "seconds_per_step": 0.02, "checkpoint_steps": 1000})
    write_job(tmp_path, spec)
    child = start(tmp_path)
    assert child.stdout is not None
    while not isinstance(parse_line(child.stdout.readline()), MetricLine):
        pass
    child.send_signal(signal.SIGTERM)
    code, lines = finish(child)
    assert code == ExitCode.STOPPED
    (checkpoint,) = of(CheckpointLine, lines)
    assert 1 <= checkpoint.step < 50

    write_job(tmp_path, spec, checkpoint=checkpoint.file, attempt=2)
    code, lines = run(tmp_path)
    assert code == ExitCode.OK
    assert [line.step for line in of(MetricLine, lines)] == list(range(checkpoint.step + 1, 51))
    (result,) = of(ResultLine, lines)
    assert (result.summary["resumed_from_step"], result.summary["state"]) == (checkpoint.step, last_state(spec))


def test_it_dies_when_its_life_line_ends(tmp_path: Path) -> None:
    write_job(tmp_path, probe(work={"steps": 1000}, fault={"kind": "deaf"}))
    child = start(tmp_path)
    assert child.stdout is not None
    assert child.stdin is not None
    parse_line(child.stdout.readline())
    child.stdin.close()
    assert child.wait(timeout=10) == -signal.SIGKILL
    child.stdout.close()


@pytest.mark.parametrize(
    ("fault", "code", "error"),
    [
        ({"kind": "exit", "code": 72}, 72, None),
        ({"kind": "signal", "signal": "SIGSEGV"}, -signal.SIGSEGV, None),
        ({"kind": "memory", "limit_bytes": 1 << 28}, ExitCode.INTERNAL, "host_out_of_memory"),
    ],
)
def test_it_misbehaves_as_asked_in_the_attempts_that_are_meant(
    tmp_path: Path, fault: dict[str, Any], code: int, error: str | None
) -> None:
    spec = probe(work={"steps": 3, "seconds_per_step": 0.0}, fault=fault | {"step": 2})
    write_job(tmp_path, spec)
    found, lines = run(tmp_path)
    assert found == code
    assert [line.step for line in of(MetricLine, lines)] == [1, 2]
    assert [line.code for line in of(ErrorLine, lines)] == ([error] if error else [])
    if error == "host_out_of_memory":
        assert of(ErrorLine, lines)[0].detail["peak_memory_bytes"] > 1 << 20
    write_job(tmp_path, spec, attempt=2)
    assert run(tmp_path)[0] == ExitCode.OK


def test_a_hanging_probe_says_nothing_and_does_not_listen(tmp_path: Path) -> None:
    write_job(tmp_path, probe(work={"steps": 3, "seconds_per_step": 0.0}, fault={"kind": "hang", "step": 1}))
    child = start(tmp_path)
    assert child.stdout is not None
    while not isinstance(parse_line(child.stdout.readline()), MetricLine):
        pass
    child.send_signal(signal.SIGTERM)
    time.sleep(0.5)
    assert child.poll() is None
    child.kill()
    finish(child)


def test_another_kind_of_job_is_refused(tmp_path: Path, small_spec: Any) -> None:
    write_job(tmp_path, small_spec())
    code, lines = run(tmp_path)
    assert code == ExitCode.BAD_SPEC
    assert [line.code for line in of(ErrorLine, lines)] == ["validation_failed"]
