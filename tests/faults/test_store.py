"""Rows O1 to O7: the object store fails, lies or is slow."""

from __future__ import annotations

import hashlib
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.faults.stand import LEASE_SECONDS, SLACK_SECONDS, TIME_SCALE, Stand
from tests.faults.test_worker import gone

pytestmark = pytest.mark.faults


def test_o1_down_when_the_job_needs_its_input(stand: Stand) -> None:
    """The input is the checkpoint of the attempt before."""
    first = stand.serving_worker()
    job = stand.probe(steps=30, max_attempts=2)
    stand.checkpointed(job["id"])
    first.kill()
    second = stand.host()
    second.store.cut()
    second.start("worker", "--queues", "cpu")
    stand.wait_until(
        lambda: sum(attempt["outcome"] == "given_back" for attempt in stand.attempts(job["id"])) >= 3, 120 + SLACK_SECONDS,
        "three attempts were given back",
    )
    second.store.heal()
    done = stand.succeeded(job["id"])
    assert done["failures"] == 1, "the kill counts, the outage does not"
    assert stand.attempts(job["id"])[-1]["resumed_from_step"] >= 5


def test_o2_down_at_a_checkpoint(stand: Stand) -> None:
    first = stand.serving_worker()
    job = stand.probe(steps=80)
    stand.checkpointed(job["id"])
    first.store.cut()
    stand.wait_until(lambda: "checkpoint_not_stored" in stand.warnings(job["id"]), 60 + SLACK_SECONDS, "a warning says so")
    assert first.children(), "training goes on"
    first.kill()
    stand.worker()
    stand.succeeded(job["id"], attempts=2)
    assert stand.attempts(job["id"])[1]["resumed_from_step"] >= 5


def test_o3_down_at_the_end(stand: Stand) -> None:
    worker = stand.serving_worker()
    job = stand.probe(steps=10)
    stand.stepped(job["id"], 2)
    worker.store.cut()
    stand.wait_until(lambda: "object_store_unavailable" in stand.warnings(job["id"]), 60 + SLACK_SECONDS, "a warning says so")
    assert not worker.children(), "the child, and with it the device, is free"
    time.sleep(LEASE_SECONDS + 1)
    assert stand.state(job["id"]) == "running", "the lease is renewed meanwhile"
    worker.store.heal()
    stand.succeeded(job["id"], attempts=1)


def test_o3_cancel_while_the_results_wait(stand: Stand) -> None:
    """Also trap 22, cancel during upload."""
    worker = stand.serving_worker()
    job = stand.probe(steps=10)
    stand.stepped(job["id"], 2)
    worker.store.cut()
    stand.wait_until(lambda: "object_store_unavailable" in stand.warnings(job["id"]), 60 + SLACK_SECONDS, "a warning says so")
    assert stand.http.post(f"/v1/jobs/{job['id']}/cancel").status_code == 202
    stand.in_state(job["id"], "cancelled", 10)
    worker.store.heal()
    assert stand.artifacts(job["id"]) == {}
    stand.succeeded(stand.probe(steps=2)["id"], attempts=1)


def test_o3_drain_while_the_results_wait(stand: Stand) -> None:
    worker = stand.serving_worker(drain_seconds=2)
    job = stand.probe(steps=10)
    stand.stepped(job["id"], 2)
    worker.store.cut()
    stand.wait_until(lambda: "object_store_unavailable" in stand.warnings(job["id"]), 60 + SLACK_SECONDS, "a warning says so")
    worker.signal(signal.SIGTERM)
    assert worker.wait(15 + SLACK_SECONDS) == 0
    assert stand.state(job["id"]) == "queued"
    stand.worker()
    assert stand.succeeded(job["id"], attempts=2)["failures"] == 0


def test_o4_acknowledged_and_missing(stand: Stand) -> None:
    """The proxy answers the upload in the store's place, and the store never sees it."""
    worker = stand.serving_worker()
    lie = worker.store.swallow(r"PUT /[^ ]*/artifacts/probe\.bin")
    job = stand.probe(steps=2, work={"artifact_bytes": 100_000})
    assert lie.done.wait(60 + SLACK_SECONDS)
    stand.succeeded(job["id"], attempts=1)


def test_o5_deleted_behind_our_back(stand: Stand) -> None:
    stand.serving_worker()
    job = stand.probe(steps=2)
    stand.succeeded(job["id"], attempts=1)
    file = stand.artifacts(job["id"])["probe.bin"]
    stand.objects.delete(*stand.objects.keys(f"jobs/{job['id']}"))
    answer = stand.http.get(f"/v1/artifacts/{file['id']}/content")
    assert answer.status_code in {410, 502}, answer.status_code
    assert answer.headers["content-type"] == "application/problem+json"
    assert answer.json()["code"] in {"artifact_corrupt", "artifact_expired"}


def test_o6_a_slow_client(stand: Stand, tmp_path: Path) -> None:
    """Also trap 19: slower than the 30 seconds at which one long body would be cut; 20 minutes are simulated by one."""
    stand.serving_worker()
    job = stand.probe(steps=2, work={"artifact_bytes": 24 << 20})
    stand.succeeded(job["id"], attempts=1)
    file = stand.artifacts(job["id"])["probe.bin"]
    target = tmp_path / "probe.bin"
    begun = time.monotonic()
    url = f"{stand.url}/v1/artifacts/{file['id']}/content"
    slow = ["curl", "--silent", "--fail", "--limit-rate", "400k", "-o", str(target), url]
    assert subprocess.run(slow, check=False).returncode == 0
    assert time.monotonic() - begun > 33
    assert hashlib.sha256(target.read_bytes()).hexdigest() == file["sha256"]


def test_o7_a_local_store_flushes_before_the_row_is_committed(tmp_path: Path) -> None:
    """A power-off is simulated at the nearest boundary: the kernel's record of what was flushed, after the last rename."""
    if shutil.which("strace") is None:
        pytest.skip("strace is needed to see what is flushed")
    source, trace, root = tmp_path / "source", tmp_path / "trace", tmp_path / "objects"
    source.write_bytes(b"x" * 1000)
    program = (
        "import sys; from pathlib import Path; from core.settings import Settings; from core.store.objects import open_store\n"
        "open_store(Settings(store_url=Path(sys.argv[1]).as_uri())).put('jobs/a/b/c', Path(sys.argv[2]))"
    )
    done = subprocess.run(
        ["strace", "-f", "-y", "-e", "trace=fsync,rename,renameat,renameat2,link,linkat", "-o", str(trace),
         sys.executable, "-c", program, str(root), str(source)],
        check=False, capture_output=True, text=True, cwd=Path(__file__).resolve().parents[2],
    )
    if "ptrace" in done.stderr and done.returncode:
        pytest.skip("this machine does not let one process trace another")
    assert done.returncode == 0, done.stderr
    calls = trace.read_text().splitlines()
    placed = max(index for index, line in enumerate(calls) if re.search(r"(rename|link)\w*\(", line) and "jobs/a/b/c" in line)
    flushed = [match.group(1) for line in calls[placed:] if (match := re.search(r"fsync\(\d+<([^>]*)>\)\s+= 0", line))]
    for path in ("jobs/a/b/c", "jobs/a/b", "jobs/a", "jobs", ""):
        assert str(root / path).rstrip("/") in flushed, (path, calls)


def test_a_stalled_store_does_not_hold_a_cancel(stand: Stand) -> None:
    """As O3, with a store that accepts connections and never answers."""
    worker = stand.serving_worker()
    job = stand.probe(steps=1000, work={"checkpoint_steps": 3})
    stand.stepped(job["id"], 2)
    worker.store.stall()
    stand.stepped(job["id"], 8)
    assert stand.http.post(f"/v1/jobs/{job['id']}/cancel").status_code == 202
    gone(stand, worker)
    assert stand.seconds_until(job["id"], "cancelled", 10) < 10 * TIME_SCALE


def test_o1_cancel_while_inputs_are_fetched(stand: Stand) -> None:
    first = stand.serving_worker()
    job = stand.probe(steps=1000)
    stand.stepped(job["id"], 7)
    stand.checkpointed(job["id"])
    first.kill()
    second = stand.worker()
    fetch = second.store.catch(b"/checkpoints/", answer=True)
    fetch.wait()
    assert stand.http.post(f"/v1/jobs/{job['id']}/cancel").status_code == 202
    stand.in_state(job["id"], "cancelled", 5)
    fetch.release()
    stand.succeeded(stand.probe(steps=2)["id"], attempts=1)
    assert second.running
