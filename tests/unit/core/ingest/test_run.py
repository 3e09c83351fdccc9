"""The child that reads uploads, as its supervisor sees it: a process, a job directory, lines, exit codes."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
from pydantic import BaseModel

from core.data import canonical
from core.specs.ingest import UPLOAD_FILE, IngestLimits, IngestSpec, IngestSummary
from core.specs.report import ArtifactLine, ErrorLine, ExitCode, JobFile, PhaseLine, ProgressLine, ResultLine, parse_line
from tests.unit.core.ingest.attacks import ARCHIVES, IMAGES, Attack
from tests.unit.core.ingest.files import folders, left_in, pixels, png, tarred, zipped
from tests.unit.core.ingest.readers import ingest

pytestmark = pytest.mark.unit
ROOT = Path(__file__).parents[4]
DATASET = ["manifest.json", "test_images.npy", "test_labels.npy", "train_images.npy", "train_labels.npy"]
BEFORE = ["job.json", "upload"]


class Ended(NamedTuple):
    code: int
    lines: list[BaseModel]
    peak_bytes: int
    seconds: float

    def of(self, kind: type[Any]) -> list[Any]:
        return [line for line in self.lines if isinstance(line, kind)]


def prepare(folder: Path, content: bytes, spec: IngestSpec, **fields: Any) -> None:
    job = {"job_id": "job_1", "attempt": 1, "spec": spec.model_dump(mode="json")} | fields
    (folder / "job.json").write_text(JobFile.model_validate(job).model_dump_json())
    (folder / UPLOAD_FILE).write_bytes(content)
    (folder / UPLOAD_FILE).chmod(0o400)


def start(folder: Path) -> subprocess.Popen[bytes]:
    environment = {"PATH": os.environ["PATH"], "HOME": str(folder), "OPENBLAS_NUM_THREADS": "1"}
    return subprocess.Popen(
        [sys.executable, "-m", "core.ingest.run", str(folder)], cwd=ROOT, env=environment, start_new_session=True,
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
    )


def finish(child: subprocess.Popen[bytes]) -> Ended:
    assert child.stdout is not None
    assert child.stdin is not None
    begun, peaks = time.monotonic(), [0]

    def watch() -> None:
        """The child's own peak: `wait4` would say that of this process, from which it was forked, where it is larger."""
        with contextlib.suppress(OSError, StopIteration):
            while True:
                status = Path(f"/proc/{child.pid}/status").read_text()
                peaks.append(1024 * int(next(line for line in status.splitlines() if line.startswith("VmHWM")).split()[1]))
                time.sleep(0.01)

    watching = threading.Thread(target=watch)
    watching.start()
    with child.stdin, child.stdout:
        lines: list[BaseModel] = list(map(parse_line, child.stdout))
        child.wait()
    watching.join()
    return Ended(child.returncode, lines, max(peaks), time.monotonic() - begun)


def run(folder: Path, content: bytes, spec: IngestSpec, **fields: Any) -> Ended:
    prepare(folder, content, spec, **fields)
    return finish(start(folder))


def test_a_data_set_comes_out(tmp_path: Path) -> None:
    content = zipped(folders("abc", 10, "train/") | folders("abc", 4, "test/") | {"README.txt": b"mine"})
    ended = run(tmp_path, content, ingest(content, "imagefolder_zip"), threads=2)
    assert ended.code == ExitCode.OK
    (result,) = ended.of(ResultLine)
    summary = IngestSummary.model_validate(result.summary)
    assert (summary.info.train_per_class, summary.info.test_per_class) == ((10, 10, 10), (4, 4, 4))
    assert "1 other file(s) were left out, for example 'README.txt'." in summary.notes
    assert [(line.kind, line.name) for line in ended.of(ArtifactLine)] == [
        ("dataset", "manifest.json"), ("dataset", "train_images.npy"), ("dataset", "train_labels.npy"),
        ("dataset", "test_images.npy"), ("dataset", "test_labels.npy"), ("samples", "samples.json"), ("preview", "samples.png"),
    ]
    assert left_in(tmp_path) == sorted([
        *BEFORE, "out", "out/dataset", "out/samples.json", "out/samples.png", *(f"out/dataset/{name}" for name in DATASET),
    ])
    splits, digest = canonical.read(tmp_path / "out" / "dataset")
    assert digest == summary.info.digest == canonical.digest_of(splits)
    canonical.require_counts(summary.info, splits)
    assert np.array_equal(splits.train_images[11], pixels(12, 12, 3, 11).transpose(2, 0, 1))
    assert [line.phase for line in ended.of(PhaseLine)] == ["preparing", "preparing", "reporting"]
    assert (42, 42) in {(line.step, line.total_steps) for line in ended.of(ProgressLine)}


def test_a_second_attempt_in_the_same_folder_gives_the_same(tmp_path: Path) -> None:
    content = tarred(folders("ab", 6), "gz")
    spec = ingest(content, "imagefolder_tar")
    prepare(tmp_path, content, spec)
    first, second = finish(start(tmp_path)), finish(start(tmp_path))
    assert (first.code, second.code) == (ExitCode.OK, ExitCode.OK)
    assert first.of(ResultLine) == second.of(ResultLine)


BOMB_OF_A_TAR = Attack(
    lambda: tarred({f"a/{i}.png": b"\x89PNG" + bytes(63 << 20) for i in range(5)}, "gz"), "inflates_too_much",
    format="imagefolder_tar",
)


@pytest.mark.parametrize("name", ["many bombs", "one content twice", "symbolic link", "50,000 x 50,000", "tar bomb"])
def test_a_refusal_costs_little_and_leaves_nothing(name: str, tmp_path: Path) -> None:
    attack = (ARCHIVES | IMAGES | {"tar bomb": BOMB_OF_A_TAR})[name]
    content = attack.make()
    ended = run(tmp_path, content, ingest(content, attack.format))
    assert ended.code == ExitCode.BAD_DATA
    (error,) = ended.of(ErrorLine)
    assert error.code == "dataset_rejected"
    first = error.detail["problems"][0]
    assert (first["code"], first["member"]) == (attack.code, attack.member)
    assert error.message == (f"{attack.member}: {first['message']}" if attack.member else first["message"])
    assert left_in(tmp_path) == BEFORE
    assert 0 < ended.peak_bytes < 1 << 30
    assert ended.seconds < 10


@pytest.mark.parametrize(
    ("change", "code"), [({"sha256": "0" * 64}, "digest_mismatch"), ({"size_bytes": 5}, "size_mismatch")]
)
def test_another_file_than_the_client_meant(change: dict[str, Any], code: str, tmp_path: Path) -> None:
    content = zipped(folders())
    ended = run(tmp_path, content, ingest(content, "imagefolder_zip").model_copy(update=change))
    assert ended.code == ExitCode.BAD_DATA
    assert ended.of(ErrorLine)[0].detail["problems"][0]["code"] == code
    assert left_in(tmp_path) == BEFORE


def many(count: int) -> bytes:
    return zipped(dict.fromkeys((f"{label}/{i}.png" for label in "ab" for i in range(count)), png()), level=0)


def test_after_sigterm_it_stops_and_leaves_nothing(tmp_path: Path) -> None:
    content = many(10_000)
    prepare(tmp_path, content, ingest(content, "imagefolder_zip"))
    child = start(tmp_path)
    assert child.stdout is not None
    while not (isinstance(line := parse_line(child.stdout.readline()), ProgressLine) and line.step > 100):
        pass
    child.send_signal(signal.SIGTERM)
    assert finish(child).code == ExitCode.STOPPED
    assert left_in(tmp_path) == BEFORE


def test_files_that_take_too_long_are_refused(tmp_path: Path) -> None:
    content = many(40_000)
    limits = IngestLimits(max_cpu_seconds=2)
    ended = run(tmp_path, content, ingest(content, "imagefolder_zip"), limits=limits)
    assert ended.code == ExitCode.BAD_DATA
    assert ended.of(ErrorLine)[0].detail["problems"][0]["code"] == "too_slow"
    assert left_in(tmp_path) == BEFORE


def test_it_runs_no_other_job(tmp_path: Path) -> None:
    (tmp_path / "job.json").write_text(json.dumps({"job_id": "j", "attempt": 1, "spec": {"kind": "probe"}}))
    ended = finish(start(tmp_path))
    assert ended.code == ExitCode.BAD_SPEC
    assert "reads uploads" in ended.of(ErrorLine)[0].message


def test_it_confines_itself_and_needs_no_torch() -> None:
    program = (
        "import resource, sys, json\n"
        "from core.ingest.run import confine\n"
        "from core.specs.ingest import IngestLimits\n"
        "confine(IngestLimits())\n"
        "kinds = ('CORE', 'NOFILE', 'CPU', 'AS', 'FSIZE')\n"
        "heavy = [name for name in ('torch', 'torchvision', 'pyarrow', 'sqlalchemy', 'matplotlib') if name in sys.modules]\n"
        "print(json.dumps([heavy, {kind: resource.getrlimit(getattr(resource, 'RLIMIT_' + kind)) for kind in kinds}]))\n"
    )
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True)
    heavy, limits = json.loads(done.stdout)
    assert heavy == []
    assert limits["CORE"] == [0, 0]
    assert limits["NOFILE"][0] <= 64
    assert limits["CPU"][0] == 3600
    assert limits["AS"][0] == 8 << 30
    assert 0 < limits["FSIZE"][0] <= (16 << 30) + (1 << 20)
