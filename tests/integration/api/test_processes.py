"""The API as processes of its own: several at once, ended with streams open, and beside a store that never answers."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from api.client.sse import read_events
from core.jobs import leases
from core.jobs.database import Database
from core.jobs.models import DEFAULT_TENANT, IdempotencyKey, Job
from core.jobs.repository import Jobs
from tests.fixtures import jobs
from tests.fixtures.api import BODY
from tests.fixtures.servers import free_port

ROOT = Path(__file__).resolve().parents[3]


@contextlib.contextmanager
def process(
    environment: dict[str, str], *arguments: str, port: int | None = None
) -> Iterator[tuple[str, subprocess.Popen[bytes]]]:
    """One API process, ready to answer."""
    port = port or free_port()
    url = f"http://127.0.0.1:{port}"
    command = [sys.executable, "-m", "uvicorn", "api.main:create_app", "--factory", "--port", str(port), "--no-access-log"]
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("DISTILL_")}
    with Path(environment["DISTILL_HOME"], "api.log").open("ab") as log:
        running = subprocess.Popen([*command, *arguments], env=inherited | environment, cwd=ROOT, stdout=log, stderr=log)
    try:
        deadline = time.monotonic() + 60
        while True:
            assert running.poll() is None, Path(environment["DISTILL_HOME"], "api.log").read_text()[-3000:]
            assert time.monotonic() < deadline
            with contextlib.suppress(httpx.TransportError):
                if httpx.get(f"{url}/readyz", timeout=5).status_code == 200:
                    break
            time.sleep(0.05)
        yield url, running
    finally:
        running.kill()
        running.wait()


@pytest.fixture
def environment(database_url: str, broker_url: str, tmp_path: Path) -> dict[str, str]:
    home = tmp_path / "home"
    home.mkdir()
    return {
        "DISTILL_HOME": str(home), "DISTILL_DATABASE_URL": database_url, "DISTILL_BROKER_URL": broker_url,
        "DISTILL_STREAM_SECONDS": "0.1",
    }


def test_one_key_at_one_instant_over_two_processes_makes_one_job(environment: dict[str, str], database: Database) -> None:
    answers: list[tuple[int, str]] = []
    start = threading.Barrier(20)
    with process(environment) as (one, _), process(environment) as (two, _):

        def post(url: str) -> None:
            with httpx.Client(base_url=url, timeout=60) as http:
                start.wait()
                answer = http.post("/v1/jobs", json=BODY, headers={"Idempotency-Key": "race"})
                answers.append((answer.status_code, answer.json().get("id", answer.text)))

        clients = [threading.Thread(target=post, args=((one, two)[i % 2],)) for i in range(20)]
        for client in clients:
            client.start()
        for client in clients:
            client.join()
    assert len({job_id for status, job_id in answers if status == 202}) == 1, answers
    assert {status for status, _ in answers} <= {202, 409}, answers
    with database.read() as session:
        assert session.query(Job).count() == 1
        assert session.query(IdempotencyKey).count() == 1


def test_ends_with_streams_open_and_a_client_resumes(environment: dict[str, str], database: Database) -> None:
    job = jobs.create(database)
    seen: list[int] = []
    ended = threading.Event()
    port = free_port()

    def follow(url: str) -> None:
        headers = {"Last-Event-ID": str(seen[-1])} if seen else {}
        with contextlib.suppress(httpx.TransportError), httpx.stream(
            "GET", f"{url}/v1/jobs/{job.id}/events/stream", headers=headers, timeout=30
        ) as answer:
            seen.extend(int(event.id) for event in read_events(answer.iter_bytes()))
        ended.set()

    with process(environment, port=port) as (url, running):
        client = threading.Thread(target=follow, args=(url,))
        client.start()
        claim = jobs.claim(database, job.id)
        time.sleep(0.5)
        started = time.monotonic()
        running.send_signal(signal.SIGTERM)
        running.wait(15)
        took = time.monotonic() - started
        assert ended.wait(5)
        client.join()
    assert took < 8, took
    assert seen == [1, 2, 3]
    with database.write() as session:
        leases.succeed(session, claim.lease, {}, [], [])
    with process(environment, port=port) as (url, _):
        follow(url)
        assert httpx.get(f"{url}/v1/jobs/{job.id}/events/stream", headers={"Last-Event-ID": "4"}).status_code == 204
    assert seen == [1, 2, 3, 4]


def test_a_large_download_takes_little_memory(sqlite_url: str, broker_url: str, tmp_path: Path) -> None:
    size = 400 << 20
    database = Database(sqlite_url)
    job = jobs.create(database)
    lease = jobs.claim(database, job.id).lease
    path = tmp_path / "objects" / "jobs" / "large"
    path.parent.mkdir(parents=True)
    with path.open("wb") as large:
        large.truncate(size)  # a hole: it takes no room on the disk
    with database.write() as session:
        file = leases.StoredFile("dataset", "large", "application/octet-stream", size, "ab" * 32, "jobs/large")
        leases.succeed(session, lease, {}, [file], [])
        (artifact,) = Jobs(session, DEFAULT_TENANT).artifacts(job.id)
    database.dispose()
    environment = {"DISTILL_HOME": str(tmp_path), "DISTILL_DATABASE_URL": sqlite_url, "DISTILL_BROKER_URL": broker_url}
    with process(environment) as (url, running):

        def peak_bytes() -> int:
            lines = Path(f"/proc/{running.pid}/status").read_text().splitlines()
            return 1024 * int(next(line for line in lines if line.startswith("VmHWM")).split()[1])

        before, received = peak_bytes(), 0
        with httpx.stream("GET", f"{url}/v1/artifacts/{artifact.id}/content", timeout=60) as answer:
            for chunk in answer.iter_raw():
                received += len(chunk)
        assert received == size
        assert peak_bytes() - before < 100 << 20


def test_a_frozen_store_stops_downloads_and_nothing_else(
    sqlite_url: str, broker_url: str, tmp_path: Path
) -> None:
    database = Database(sqlite_url)
    job = jobs.create(database)
    lease = jobs.claim(database, job.id).lease
    with database.write() as session:
        file = leases.StoredFile("preview", "preview.png", "image/png", 10, "ab" * 32, "jobs/x/preview.png")
        leases.succeed(session, lease, {}, [file], [])
    with socket.create_server(("127.0.0.1", 0), backlog=256) as frozen:
        environment = {
            "DISTILL_HOME": str(tmp_path), "DISTILL_DATABASE_URL": sqlite_url, "DISTILL_BROKER_URL": broker_url,
            "DISTILL_STORE_URL": "s3://distill", "DISTILL_S3_ENDPOINT": f"http://127.0.0.1:{frozen.getsockname()[1]}",
            "DISTILL_S3_ACCESS_KEY_ID": "x", "DISTILL_S3_SECRET_ACCESS_KEY": "y",
        }
        with process(environment, "--timeout-graceful-shutdown", "1") as (url, running):

            def download() -> None:
                with contextlib.suppress(httpx.TransportError):
                    httpx.get(f"{url}/v1/jobs/{job.id}/preview", timeout=60)

            clients = [threading.Thread(target=download) for _ in range(60)]
            for client in clients:
                client.start()
            time.sleep(1.0)
            for _ in range(5):
                started = time.monotonic()
                assert httpx.post(f"{url}/v1/jobs", json=BODY, timeout=10).status_code == 202
                assert httpx.get(f"{url}/v1/jobs/{job.id}", timeout=10).status_code == 200
                assert time.monotonic() - started < 3.0
            ready = httpx.get(f"{url}/readyz", timeout=10)
            assert (ready.status_code, ready.json()["degraded"]) == (200, ["store"])
            started = time.monotonic()
            running.send_signal(signal.SIGTERM)
            running.wait(30)
            assert time.monotonic() - started < 15
            for client in clients:
                client.join()
    database.dispose()
