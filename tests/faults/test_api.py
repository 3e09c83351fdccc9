"""Rows A1 to A9: what a client must see when an API process fails. A5 and A6 wait for uploads, which do not exist yet."""

from __future__ import annotations

import hashlib
import json
import signal
import subprocess
import threading
import time
from pathlib import Path
from typing import Any
from uuid import uuid4

import httpx
import pytest
import sqlalchemy as sa

from core.jobs.models import Job
from tests.faults.stand import SLACK_SECONDS, TIME_SCALE, Stand

pytestmark = pytest.mark.faults

BODY = {"kind": "probe", "work": {"steps": 5, "seconds_per_step": 0.05}}


class Post:
    """A submission from a thread, so that the test can break it in the middle."""

    def __init__(self, url: str, key: str) -> None:
        self.answer: httpx.Response | None = None
        self.error: httpx.TransportError | None = None
        self._request = (f"{url}/v1/jobs", {"Idempotency-Key": key})
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        url, headers = self._request
        try:
            self.answer = httpx.post(url, json=BODY, headers=headers, timeout=120, trust_env=False)
        except httpx.TransportError as error:
            self.error = error

    def wait(self) -> Post:
        """Until there is an answer or an error."""
        self._thread.join(150)
        assert not self._thread.is_alive()
        return self


def count(stand: Stand) -> int:
    with stand.database.read() as session:
        return session.scalar(sa.select(sa.func.count()).select_from(Job)) or 0


def again(stand: Stand, key: str) -> httpx.Response:
    answer = stand.http.post("/v1/jobs", json=BODY, headers={"Idempotency-Key": key})
    assert answer.status_code == 202, answer.text
    return answer


def test_a1_killed_before_the_creation_commits(stand: Stand) -> None:
    key = uuid4().hex
    stand.api.db.reset()
    commit = stand.api.db.catch(b"COMMIT", after=b"INSERT INTO jobs")
    post = Post(stand.url, key)
    commit.wait()
    stand.api.kill()
    commit.drop()
    assert post.wait().error is not None
    stand.start_api()
    assert count(stand) == 0
    assert "idempotent-replayed" not in again(stand, key).headers
    assert again(stand, key).headers["idempotent-replayed"] == "true"
    assert count(stand) == 1


def test_a2_killed_between_commit_and_answer(stand: Stand) -> None:
    key = uuid4().hex
    stand.api.db.reset()
    commit = stand.api.db.catch(b"COMMIT", after=b"INSERT INTO jobs", answer=True)
    post = Post(stand.url, key)
    commit.wait()
    stand.wait_until(lambda: count(stand) == 1, 10 + SLACK_SECONDS, "the job is there")
    stand.api.kill()
    commit.drop()
    assert post.wait().error is not None
    stand.start_api()
    replay = again(stand, key)
    assert replay.headers["idempotent-replayed"] == "true"
    assert count(stand) == 1
    stand.worker()
    stand.succeeded(replay.json()["id"], attempts=1)


def test_a3_killed_before_the_message_is_sent(stand: Stand) -> None:
    stand.serving_worker()
    stand.api.broker.cut()
    job = stand.probe(steps=3)
    stand.api.kill()
    stand.in_state(job["id"], "succeeded", 30)
    stand.start_api()
    stand.succeeded(job["id"], attempts=1)


def test_a4_killed_between_sending_and_noting_it(stand: Stand) -> None:
    stand.api.db.reset()
    noted = stand.api.db.catch(b"UPDATE jobs SET sent_at")
    job = stand.probe(steps=3)
    noted.wait()
    stand.api.kill()
    noted.drop()
    stand.wait_until(lambda: stand.messages() >= 2, 20 + SLACK_SECONDS, "the reconciler sends it again")
    worker = stand.worker()
    stand.start_api()
    stand.succeeded(job["id"], attempts=1)
    stand.wait_until(lambda: "nothing_to_claim" in worker.log.read_text(), 20 + SLACK_SECONDS, "the second message is dropped")


def test_a7_stopped_with_a_stream_open(stand: Stand) -> None:
    stand.serving_worker()
    job = stand.probe(steps=200)
    path = f"/v1/jobs/{job['id']}/events/stream"
    seen: list[dict[str, Any]] = []
    with stand.http.stream("GET", path, timeout=120) as answer:
        try:
            for line in answer.iter_lines():
                if line.startswith("data:"):
                    seen.append(json.loads(line[5:]))
                    if len(seen) == 6:
                        stand.api.signal(signal.SIGTERM)
        except httpx.TransportError:
            pass  # cut instead of ended: a client must bear both
    assert stand.api.wait() is not None
    assert seen[-1]["data"].get("state") != "succeeded", "the stream ended with the process, before the job did"
    stand.start_api()
    with stand.http.stream("GET", path, headers={"Last-Event-ID": str(seen[-1]["seq"])}, timeout=240) as answer:
        seen += [json.loads(line[5:]) for line in answer.iter_lines() if line.startswith("data:")]
    assert [event["seq"] for event in seen] == list(range(1, len(seen) + 1))
    assert seen[-1]["data"]["state"] == "succeeded"
    stand.succeeded(job["id"], attempts=1)


def curl(*arguments: str) -> int:
    """Run an independent client; its exit code."""
    return subprocess.run(["curl", "--silent", "--fail", *arguments], check=False, capture_output=True).returncode


def test_a8_killed_during_a_download(stand: Stand, tmp_path: Path) -> None:
    stand.serving_worker()
    job = stand.probe(steps=2, work={"artifact_bytes": 24 << 20})
    stand.succeeded(job["id"], attempts=1)
    file = stand.artifacts(job["id"])["probe.bin"]
    url, target = f"{stand.url}/v1/artifacts/{file['id']}/content", tmp_path / "probe.bin"
    etag = stand.http.head(f"/v1/artifacts/{file['id']}/content").headers["etag"]
    slow = subprocess.Popen(["curl", "--silent", "--fail", "--limit-rate", "2M", "--output", str(target), url])
    stand.wait_until(lambda: target.exists() and target.stat().st_size > 1 << 20, 30 + SLACK_SECONDS, "bytes have come")
    stand.api.kill()
    assert slow.wait(60) != 0
    prefix = target.stat().st_size
    assert prefix < file["size_bytes"]
    stand.start_api()
    assert curl("--continue-at", "-", "--header", f"If-Range: {etag}", "--output", str(target), url) == 0
    assert hashlib.sha256(target.read_bytes()).hexdigest() == file["sha256"]
    part = tmp_path / "part"
    assert curl("--range", f"{prefix}-{prefix + 9}", "--output", str(part), url) == 0
    assert part.read_bytes() == target.read_bytes()[prefix : prefix + 10]


def test_a9_one_key_at_one_instant_on_two_replicas(stand: Stand) -> None:
    """Also trap 9."""
    with stand.replica() as url:
        for _ in range(3):
            key = uuid4().hex
            before = count(stand)
            posts = [Post(target, key) for target in (stand.url, url) * 5]
            answers = [post.wait().answer for post in posts]
            assert all(answer is not None for answer in answers)
            codes = [answer.status_code for answer in answers if answer is not None]
            assert set(codes) <= {202, 409}
            made = {answer.json()["id"] for answer in answers if answer is not None and answer.status_code == 202}
            assert len(made) == 1
            new = [a for a in answers if a is not None and a.status_code == 202 and "idempotent-replayed" not in a.headers]
            assert len(new) == 1
            assert count(stand) == before + 1


def test_trap_7_a_frozen_broker_does_not_slow_a_submission(stand: Stand) -> None:
    stand.probe(steps=1)
    stand.broker.freeze()
    for _ in range(5):
        begun = time.monotonic()
        stand.probe(steps=1)
        assert time.monotonic() - begun < 0.5 * TIME_SCALE, "shorter than the publisher's time-out of a second"
