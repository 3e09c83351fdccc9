"""The stand: real servers, real processes of the service, and a proxy between each process and each server.

Every worker has a folder of its own, as if it ran on a host of its own; SQL, broker and store are all that they share.
Intervals are scaled down: a lease lives 3 seconds, the reconciler looks each half second. `TEST_TIME_SCALE` stretches them.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import urlsplit

import httpx
import redis
import sqlalchemy as sa

from core.jobs import totals
from core.jobs.database import Database
from core.jobs.models import Artifact, Attempt, Base, Checkpoint, Job
from core.probe import last_state
from core.settings import Settings
from core.specs.job import ProbeSpec, parse_job_spec
from core.store.objects import Objects, open_store
from core.uploads.models import Upload, UploadPart
from migrations.commands import upgrade
from tests.faults.proxy import Proxy
from tests.faults.servers import Broker, Postgres, end, spawn
from tests.fixtures.over_http import OverHttp
from tests.fixtures.servers import free_port
from worker.sweeper import Sweeper

ROOT = Path(__file__).resolve().parents[2]
TIME_SCALE = float(os.environ.get("TEST_TIME_SCALE", "1"))
"""Above 1 on a machine that is too busy for renewals each half second: everything takes so many times longer."""

LEASE_SECONDS, TICK_SECONDS, RENEW_SECONDS = 3.0 * TIME_SCALE, 0.5 * TIME_SCALE, 0.5 * TIME_SCALE
RECOVERY_SECONDS = LEASE_SECONDS + 2 * TICK_SECONDS
"""From the death of a worker to its job being queued again: lease, grace (one tick) and the tick that sees it."""

SLACK_SECONDS = 20.0 * TIME_SCALE
"""What a busy machine may add to any interval."""

SCALED = {
    "DISTILL_LEASE_SECONDS": str(LEASE_SECONDS), "DISTILL_RENEW_SECONDS": str(RENEW_SECONDS),
    "DISTILL_TICK_SECONDS": str(TICK_SECONDS), "DISTILL_POLL_SECONDS": "0.2", "DISTILL_REPORT_SECONDS": "0.2",
    "DISTILL_STREAM_SECONDS": "0.2", "DISTILL_RESEND_SECONDS": "2", "DISTILL_CHECKPOINT_SECONDS": "1",
    "DISTILL_RETRY_BACKOFF_SECONDS": "0.5", "DISTILL_DRAIN_SECONDS": "20", "DISTILL_CANCEL_GRACE_SECONDS": "1",
    "DISTILL_PATIENCE_SECONDS": "120", "DISTILL_SELF_TEST_SECONDS": "1",
    "DISTILL_SELF_TEST_LIMIT_SECONDS": str(120 * TIME_SCALE), "DISTILL_PUBLISH_TIMEOUT_SECONDS": "1",
    "DISTILL_PROBE_FAULTS": "1", "DISTILL_CHILD_THREADS": "1",
    "https_proxy": "http://127.0.0.1:9",  # nothing is downloaded
}
_KEPT_TABLES = {"ticks"}
"""Emptying it would look like a gap of the reconciler's."""


def _processes(file: str, wanted: Callable[[bytes], bool]) -> set[int]:
    """Ids of the processes of which a file in /proc holds what is wanted; a zombie's files are empty."""
    found = set()
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with contextlib.suppress(OSError):
                if wanted((entry / file).read_bytes()):
                    found.add(int(entry.name))
    return found


class ObjectServer(NamedTuple):
    """The S3 server: its port, and the settings that lead to it, without the endpoint."""

    port: int
    settings: dict[str, str]


class Node:
    """A process of the service on a host of its own: proxies to the three servers, a folder, a log."""

    def __init__(self, stand: Stand, name: str) -> None:
        self.name = name
        self.db = Proxy(stand.postgres.port)
        self.broker = Proxy(stand.broker.port)
        self.store = Proxy(stand.objects_server.port)
        self.log = stand.folder / f"{name}.log"
        self.home = stand.folder / "homes" / name
        self.home.mkdir(parents=True)
        self.env = stand.environment(self.db.port, self.broker.port, self.store.port) | {"DISTILL_HOME": str(self.home)}
        self.process: subprocess.Popen[bytes] | None = None

    @property
    def running(self) -> bool:
        """Whether the process lives."""
        return self.process is not None and self.process.poll() is None

    def start(self, *arguments: str, **settings: object) -> None:
        """Start a module; settings are `DISTILL_` variables in lower case, without the prefix."""
        changed = {f"DISTILL_{name.upper()}": str(value) for name, value in settings.items()}
        self.process = spawn([sys.executable, "-m", *arguments], self.log, env=self.env | changed, cwd=ROOT)

    def signal(self, number: signal.Signals) -> None:
        """Send a signal to the process alone."""
        assert self.process is not None
        self.process.send_signal(number)

    def kill(self) -> None:
        """SIGKILL, and wait until it is gone."""
        self.signal(signal.SIGKILL)
        self.wait()

    def wait(self, seconds: float = 60.0) -> int:
        """The exit code, once it has ended."""
        assert self.process is not None
        return self.process.wait(seconds)

    def children(self) -> set[int]:
        """Process ids of the running children of this host's workers."""
        return _processes("cmdline", lambda command: b"\0core." in command and os.fsencode(self.home) in command)

    def processes(self) -> set[int]:
        """Process ids of everything that was started for this host and knows its folder, and of the children."""
        variable = b"DISTILL_HOME=" + os.fsencode(self.home)
        return self.children() | _processes("environ", lambda variables: variable in variables.split(b"\0"))

    def cut_off(self) -> None:
        """Lose every server at once, as a host whose network fails."""
        for proxy in (self.db, self.broker, self.store):
            proxy.cut()

    def heal(self) -> None:
        """Every proxy behaves again."""
        for proxy in (self.db, self.broker, self.store):
            proxy.heal()

    def close(self) -> None:
        """End the process and whatever it left."""
        if self.process is not None:
            end(self.process, signal.SIGKILL)
        for pid in self.processes():  # also what a fleet that was killed has left
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        for proxy in (self.db, self.broker, self.store):
            proxy.close()
        shutil.rmtree(self.home, ignore_errors=True)


class Stand(OverHttp):
    """Everything a test of this suite works with."""

    def __init__(self, folder: Path, postgres: Postgres, broker: Broker, objects_server: ObjectServer) -> None:
        self.postgres = postgres
        self.broker = broker
        self.objects_server = objects_server
        self.port = free_port()
        super().__init__(f"http://127.0.0.1:{self.port}", folder)
        admin = sa.create_engine(postgres.url, isolation_level="AUTOCOMMIT", poolclass=sa.NullPool)
        with admin.connect() as connection:
            connection.exec_driver_sql("CREATE DATABASE distill")
        self.database_url = self._url(postgres.port)
        upgrade(self.database_url)
        self.database = Database(self.database_url)
        """The test's own way to the rows, around every proxy."""
        settings = self.environment(postgres.port, broker.port, objects_server.port)
        self.objects: Objects = open_store(
            Settings(**{name.removeprefix("DISTILL_").lower(): value for name, value in settings.items()
                        if name.startswith(("DISTILL_S3", "DISTILL_STORE"))})
        )
        """The test's own way to the objects."""
        self.api = Node(self, "api")
        self.reconciler = Node(self, "reconciler")
        self.workers: list[Node] = []
        self._count = 0

    @staticmethod
    def _url(port: int) -> str:
        return f"postgresql+psycopg://postgres@127.0.0.1:{port}/distill"

    def environment(self, db_port: int, broker_port: int, store_port: int) -> dict[str, str]:
        """Variables of a process that reaches the servers at these ports."""
        kept = {name: value for name, value in os.environ.items() if not name.startswith("DISTILL_")}
        return kept | SCALED | self.objects_server.settings | {
            "DISTILL_DATABASE_URL": self._url(db_port), "DISTILL_BROKER_URL": f"redis://127.0.0.1:{broker_port}/0",
            "DISTILL_S3_ENDPOINT": f"http://127.0.0.1:{store_port}", "OMP_NUM_THREADS": "1",
        }

    # ------------------------------------------------------------------ processes

    def start_api(self, **settings: object) -> None:
        """Start the API and wait until it is ready."""
        self.launch_api(self.api, self.port, **settings)
        self.wait_until(lambda: self.ready(), 60 + SLACK_SECONDS, "the API is ready")

    @staticmethod
    def launch_api(node: Node, port: int, **settings: object) -> None:
        """Start an API process."""
        node.start("uvicorn", "api.main:create_app", "--factory", "--host", "127.0.0.1", "--port", str(port),
                   "--timeout-graceful-shutdown", "5", "--no-access-log", **settings)

    @contextlib.contextmanager
    def replica(self) -> Iterator[str]:
        """Another API process on a host of its own; its address."""
        node, port = Node(self, "api-2"), free_port()
        url = f"http://127.0.0.1:{port}"
        try:
            self.launch_api(node, port)
            self.wait_until(lambda: self.ready(url), 60 + SLACK_SECONDS, "the other replica is ready")
            yield url
        finally:
            node.close()

    def ready(self, url: str = "") -> bool:
        """Whether the API, or the one at another address, says that it is ready."""
        try:
            return self.http.get(f"{url}/readyz", timeout=5).status_code == 200
        except httpx.TransportError:
            return False

    def worker(self, *arguments: str, **settings: object) -> Node:
        """Start a worker of the queue `cpu` on a host of its own."""
        node = self.host()
        node.start("worker", "--queues", "cpu", *arguments, **settings)
        return node

    def host(self) -> Node:
        """Another host, with nothing running yet."""
        self._count += 1
        node = Node(self, f"worker-{self._count}")
        self.workers.append(node)
        return node

    def serving_worker(self, **settings: object) -> Node:
        """Start a worker and wait until it serves."""
        node = self.worker(**settings)
        self.wait_until(lambda: self.row_of(node), 60 + SLACK_SECONDS, f"{node.name} serves")
        return node

    def row_of(self, node: Node) -> dict[str, Any] | None:
        """The `workers` row of the process that runs, or ran last, on a host."""
        assert node.process is not None
        with self.database.read() as session:
            query = sa.text("SELECT * FROM workers WHERE pid = :pid ORDER BY started_at DESC")
            row = session.execute(query, {"pid": node.process.pid}).mappings().first()
        return None if row is None else dict(row)

    def boot_id(self, node: Node) -> str:
        """The boot id of the process that runs, or ran last, on a host."""
        row = self.row_of(node)
        assert row is not None, self.logs()
        return str(row["boot_id"])

    def prepare(self) -> None:
        """Bring everything that is shared by the tests back to life, healed and empty."""
        self.broker.ensure()
        if not self.postgres.running:
            self.postgres.start()
        for node in (self.api, self.reconciler):
            node.heal()
        names = [table.name for table in Base.metadata.sorted_tables if table.name not in _KEPT_TABLES]
        with self.database.write() as session:
            session.execute(sa.text(f"TRUNCATE {', '.join(names)} CASCADE"))
        if not self.reconciler.running:
            self.reconciler.start("worker.reconciler")
        if not self.api.running:
            self.start_api()
        self.wait_until(self.ready, 60, "the API is ready")

    def messages(self) -> int:
        """Messages that wait in line for workers of the queue `cpu`."""
        with self.broker.client() as client:
            return sum(client.llen(key) for key in self.message_keys(client))

    @staticmethod
    def message_keys(client: redis.Redis) -> list[bytes]:
        """Keys of the lists that hold messages of the queue `cpu`, one for each priority."""
        return [key for key in client.keys("distill:cpu*") if client.type(key) == b"list"]

    def clear(self) -> None:
        """End what a test has started, however it ended."""
        for node in (self.api, self.reconciler):
            node.heal()
            if node.running:
                node.signal(signal.SIGCONT)
        for node in self.workers:
            node.close()
        self.workers = []
        for log in self.folder.glob("worker-*.log"):
            log.unlink()

    def close(self) -> None:
        """End everything but the servers."""
        self.clear()
        self.api.close()
        self.reconciler.close()
        self.database.dispose()

    # ------------------------------------------------------------------ jobs

    def probe(self, *, steps: int = 10, seconds_per_step: float = 0.1, **fields: Any) -> dict[str, Any]:
        """Submit a probe."""
        work = {"steps": steps, "seconds_per_step": seconds_per_step, "checkpoint_steps": 5} | fields.pop("work", {})
        return self.submit(kind="probe", work=work, **fields)

    def state(self, job_id: str) -> str:
        """The job's state, from its row: also while the API or its database connection is away."""
        with self.database.read() as session:
            return str(session.scalar(sa.text("SELECT state FROM jobs WHERE id = :id"), {"id": job_id}))

    def in_state(self, job_id: str, state: str, seconds: float = 30.0) -> None:
        """Wait until a job is in a state."""
        self.wait_until(
            lambda: self.state(job_id) == state, seconds + SLACK_SECONDS, f"{job_id} is {state} (it is {self.state(job_id)})"
        )

    def stepped(self, job_id: str, step: int = 1) -> None:
        """Wait until a probe has taken so many steps."""
        query = sa.text("SELECT max(step) FROM metrics WHERE job_id = :id")

        def reached() -> bool:
            with self.database.read() as session:
                return (session.scalar(query, {"id": job_id}) or 0) >= step

        self.wait_until(reached, 60 + SLACK_SECONDS, f"{job_id} has taken {step} steps")

    def checkpointed(self, job_id: str) -> None:
        """Wait until a checkpoint is registered."""
        query = sa.text("SELECT count(*) FROM checkpoints WHERE job_id = :id")

        def registered() -> bool:
            with self.database.read() as session:
                return bool(session.scalar(query, {"id": job_id}))

        self.wait_until(registered, 60 + SLACK_SECONDS, f"{job_id} has a checkpoint")

    def events(self, job_id: str) -> list[dict[str, Any]]:
        """Every event of a job."""
        found: list[dict[str, Any]] = []
        while True:
            after = str(found[-1]["seq"]) if found else "0"
            page = self.http.get(f"/v1/jobs/{job_id}/events", params={"after": after, "limit": 100}).json()
            found += page["data"]
            if not page["has_more"]:
                return found

    def attempts(self, job_id: str) -> list[dict[str, Any]]:
        """Every attempt of a job."""
        data: list[dict[str, Any]] = self.http.get(f"/v1/jobs/{job_id}/attempts").json()["data"]
        return data

    def warnings(self, job_id: str) -> set[str]:
        """Codes of a job's warning events."""
        return {event["data"]["code"] for event in self.events(job_id) if event["type"] == "warning"}

    # ------------------------------------------------------------------ the invariant

    def succeeded(self, job_id: str, *, attempts: int | None = None, seconds: float = 60.0) -> dict[str, Any]:
        """Wait for the success of a job, and check that it has one whole result, once.

        One event says so, the sequence has no gaps, every file is there with the bytes its row names, each from the attempt
        that succeeded; a probe has taken every step exactly once, in order, whatever happened on the way.
        """
        job = self.finished(job_id, seconds + SLACK_SECONDS)
        assert job["state"] == "succeeded", (job["error"], self.logs())
        events = self.events(job_id)
        assert [event["seq"] for event in events] == list(range(1, len(events) + 1))
        assert sum(event["type"] == "job.state" and event["data"]["state"] == "succeeded" for event in events) == 1
        history = self.attempts(job_id)
        assert [attempt["number"] for attempt in history] == list(range(1, job["attempt"] + 1))
        assert [attempt["number"] for attempt in history if attempt["outcome"] == "succeeded"] == [job["attempt"]]
        if attempts is not None:
            assert job["attempt"] == attempts, history
        files = self.artifacts(job_id)
        assert files
        for file in files.values():
            assert file["attempt"] == job["attempt"]
            content = self.download(file)
            assert (len(content), hashlib.sha256(content).hexdigest()) == (file["size_bytes"], file["sha256"])
        spec = parse_job_spec(job["spec"])
        if isinstance(spec, ProbeSpec):
            assert job["result"]["summary"]["state"] == last_state(spec)
            series = self.http.get(f"/v1/jobs/{job_id}/metrics/series", params={"max_points": 5000}).json()["series"]
            assert series["probe/value"]["steps"] == list(range(1, spec.work.steps + 1))
        return job

    def fence_rejections(self) -> float:
        """Attempts that found their job given away."""
        with self.database.read() as session:
            return sum(value for (name, _), value in totals.read(session).items() if name == "fence_rejections")

    def swept(self, job_id: str) -> set[int]:
        """Sweep until nothing of a job is left that no row names; the attempts that have objects then, beside their logs."""
        self.sweep()
        return {int(key.split("/")[3]) for key in self.objects.keys(f"jobs/{job_id}") if not key.endswith("/log.txt")}

    def sweep(self) -> None:
        """Sweep until no job and no upload has an object that no row names."""
        settings = Settings(orphan_seconds=1, sweep_seconds=1, home=self.folder / "sweeper")
        sweeper = Sweeper(self.database, self.objects, settings)

        def clean() -> bool:
            sweeper.sweep()
            return not self.strays()

        self.wait_until(clean, 20 + SLACK_SECONDS, "stray objects are swept")

    def strays(self) -> set[str]:
        """Keys of objects that belong to a job or an upload and that no row names."""
        with self.database.read() as session:
            owners = {owner for column in (Job.id, Upload.id) for owner in session.scalars(sa.select(column))}
            columns = (Artifact.key, Checkpoint.key, Attempt.log_key, UploadPart.key)
            named = {key for column in columns for key in session.scalars(sa.select(column))}
        keys = [key for prefix in ("jobs", "uploads") for key in self.objects.keys(prefix)]
        return {key for key in keys if key.split("/")[1] in owners and key not in named}

    def failed(self, job_id: str, code: str, *, attempts: int | None = None, seconds: float = 60.0) -> dict[str, Any]:
        """Wait for the failure of a job with an error code; it has left no file."""
        job = self.finished(job_id, seconds + SLACK_SECONDS)
        assert (job["state"], (job["error"] or {}).get("code")) == ("failed", code), (job["error"], self.logs())
        assert self.artifacts(job_id) == {}
        if attempts is not None:
            assert job["attempt"] == attempts, self.attempts(job_id)
        return job

    def seconds_until(self, job_id: str, state: str, seconds: float = 60.0) -> float:
        """How long a job takes from now to a state."""
        begun = time.monotonic()
        self.in_state(job_id, state, seconds)
        return time.monotonic() - begun


@contextlib.contextmanager
def standing(folder: Path, s3: Mapping[str, str]) -> Iterator[Stand]:
    """A stand over servers of its own and an S3 server that runs; everything is gone afterwards."""
    settings = {name: value for name, value in s3.items() if name != "DISTILL_S3_ENDPOINT"}
    port = urlsplit(s3["DISTILL_S3_ENDPOINT"]).port
    assert port is not None
    with contextlib.closing(Postgres()) as postgres, contextlib.closing(Broker()) as broker, \
            contextlib.closing(Stand(folder, postgres, broker, ObjectServer(port, settings))) as stand:
        yield stand
