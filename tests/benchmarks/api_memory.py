"""Memory of one real API process: `python -m tests.benchmarks.api_memory` writes `results/api_memory.json`.

Resident memory of `uvicorn api.main:create_app` over PostgreSQL (`TEST_DATABASE_URL`) or else SQLite: idle; with 500 open event
streams, and how long the last of them waits for an event that is written while all are open; the peak during a download of
5 GB by `curl`, in two pieces, the second continued where the first was cut; after 100,000 requests, in ten parts. The client is
another process or thread on the same machine.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import selectors
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx

from core.jobs import leases
from core.jobs.database import Database
from core.jobs.leases import StoredFile
from core.settings import Settings
from core.store.keys import artifact_key
from core.store.objects import open_store, sha256_of
from tests.benchmarks.api_load import BODY, api, measure, postgres, sqlite
from tests.fixtures.machine import describe
from tests.fixtures.servers import POSTGRES, answers

RESULTS = Path(__file__).parent / "results" / "api_memory.json"
MIB = 2**20
PARTS = 10


def memory_mib(pid: int, field: str = "VmRSS") -> float:
    """A line of `/proc/PID/status` that counts memory."""
    line = next(line for line in Path(f"/proc/{pid}/status").read_text().splitlines() if line.startswith(f"{field}:"))
    return round(int(line.split()[1]) / 1024, 1)


def forget_peak(pid: int) -> None:
    """`VmHWM` starts anew."""
    Path(f"/proc/{pid}/clear_refs").write_text("5")


def submit(url: str) -> str:
    """A job that nobody runs."""
    answer = httpx.post(f"{url}/v1/jobs", content=BODY, headers={"Content-Type": "application/json"}, timeout=60)
    return str(answer.raise_for_status().json()["id"])


def with_streams(url: str, pid: int, streams: int) -> dict[str, Any]:
    """Open event streams of one job, measure, then cancel the job: every stream must tell it and end."""
    job_id, idle = submit(url), memory_mib(pid)
    address = urlsplit(url)
    request = (
        f"GET /v1/jobs/{job_id}/events/stream HTTP/1.1\r\nHost: {address.netloc}\r\nAccept: text/event-stream\r\n\r\n"
    ).encode()
    received: dict[socket.socket, bytes] = {}
    with selectors.DefaultSelector() as selector:
        for _ in range(streams):
            opened = socket.create_connection((address.hostname or "", address.port or 0), timeout=30)
            opened.sendall(request)
            selector.register(opened, selectors.EVENT_READ)
            received[opened] = b""
        _receive(selector, received, b'"queued"', 60.0)
        time.sleep(5.0)
        cpu = _cpu_seconds(pid)
        time.sleep(10.0)
        open_mib, cpu_share = memory_mib(pid), (_cpu_seconds(pid) - cpu) / 10.0
        httpx.post(f"{url}/v1/jobs/{job_id}/cancel", timeout=60).raise_for_status()
        last = _receive(selector, received, b'"cancelled"', 60.0)
    for opened in received:
        opened.close()
    return {
        "streams": streams, "told_all": all(b'"cancelled"' in data for data in received.values()),
        "idle_mib": idle, "open_mib": open_mib, "kib_per_stream": round((open_mib - idle) * 1024 / streams, 1),
        "cpu_share_while_nothing_happens": round(cpu_share, 3), "seconds_until_the_last_heard": round(last, 2),
    }


def _receive(selector: selectors.BaseSelector, received: dict[socket.socket, bytes], text: bytes, limit: float) -> float:
    """Read until every stream has sent some text; seconds that took."""
    began = time.monotonic()
    while any(text not in data for data in received.values()) and time.monotonic() - began < limit:
        for key, _ in selector.select(timeout=1.0):
            assert isinstance(key.fileobj, socket.socket)
            data = key.fileobj.recv(65536)
            if not data:
                selector.unregister(key.fileobj)
            received[key.fileobj] += data
    return time.monotonic() - began


def _cpu_seconds(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def with_download(url: str, pid: int, database_url: str, folder: Path, size: int) -> dict[str, Any]:
    """Put a large artifact into the store as a worker would, and fetch it."""
    job_id = submit(url)
    database = Database(database_url)
    store = open_store(Settings(home=folder / "home"))
    made = folder / "large"
    block = os.urandom(16 * MIB)
    with made.open("wb") as file:
        for _ in range(size // len(block)):
            file.write(block)
    digest = sha256_of(made)
    with database.write() as session:
        claim = leases.claim(session, job_id, "wkr_benchmark", 600.0)
    assert claim is not None
    key = artifact_key(job_id, claim.lease.attempt, "large.bin")
    store.put(key, made)
    size = made.stat().st_size
    made.unlink()
    stored = StoredFile("dataset", "large.bin", "application/octet-stream", size, digest, key)
    with database.write() as session:
        leases.succeed(session, claim.lease, {}, [stored], [])
    database.dispose()
    artifact = httpx.get(f"{url}/v1/jobs/{job_id}/artifacts", timeout=60).json()["data"][0]["id"]
    before = memory_mib(pid)
    forget_peak(pid)
    fetched = folder / "fetched"
    source = f"{url}/v1/artifacts/{artifact}/content"
    began = time.monotonic()
    head = subprocess.Popen(["curl", "-sS", "-o", str(fetched), source], stderr=subprocess.DEVNULL)
    while not fetched.exists() or fetched.stat().st_size < size // 2:
        time.sleep(0.01)
    head.kill()
    head.wait()
    cut_at = fetched.stat().st_size
    subprocess.run(["curl", "-sS", "-f", "-C", "-", "-o", str(fetched), source], check=True, timeout=1800)
    seconds = time.monotonic() - began
    return {
        "bytes": size, "cut_at": cut_at, "same_digest": sha256_of(fetched) == digest, "seconds": round(seconds, 1),
        "mib_per_second": round(size / MIB / seconds, 1), "before_mib": before, "peak_mib": memory_mib(pid, "VmHWM"),
    }


def with_requests(url: str, pid: int, requests: int) -> dict[str, Any]:
    """Reads of one job by eight clients, in parts; memory after each."""
    job_id = submit(url)
    before, after, rates = memory_mib(pid), [], []
    for _ in range(PARTS):
        part = measure(url, 8, requests // PARTS, lambda http, _number: http.get(f"/v1/jobs/{job_id}"))
        assert part["failures"] == 0
        rates.append(part["requests_per_second"])
        after.append(memory_mib(pid))
    return {"requests": requests, "before_mib": before, "after_each_part_mib": after, "requests_per_second": rates}


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure everything in one process and write the results file."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--streams", type=int, default=500)
    parser.add_argument("--bytes", type=int, default=5 * 10**9)
    parser.add_argument("--requests", type=int, default=100_000)
    parser.add_argument("--output", type=Path, default=RESULTS)
    options = parser.parse_args(arguments)
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    name, opened = ("postgresql", postgres) if answers(POSTGRES) else ("sqlite", sqlite)
    folder = Path(tempfile.mkdtemp(prefix="dl-"))
    try:
        with opened() as database_url, api(database_url, folder) as (url, pid):
            measure(url, 8, 1000, lambda http, _number: http.get("/v1/methods"))  # what first requests load does not count
            results = {
                "what": "resident memory of one uvicorn process", "at": datetime.now(UTC).isoformat(timespec="seconds"),
                "hardware": f"{describe()}; clients on the same machine",
                "database": name, "event_streams": with_streams(url, pid, options.streams),
                "download": with_download(url, pid, database_url, folder, options.bytes),
                "requests": with_requests(url, pid, options.requests),
            }
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    options.output.write_text(json.dumps(results, indent=1) + "\n")
    sys.stdout.write(json.dumps(results, indent=1) + "\n")


if __name__ == "__main__":
    main()
