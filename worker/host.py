"""The machine and process a worker is: its boot id, folders, devices, threads, and its row in `workers`."""

from __future__ import annotations

import contextlib
import fcntl
import importlib.metadata
import os
import platform
import shutil
import signal
import socket
import subprocess
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import structlog

from core.errors import DatabaseUnavailableError
from core.jobs import workers
from core.jobs.database import Database
from core.jobs.ids import new_id
from core.jobs.workers import Device, WorkerState
from core.settings import Settings
from worker.child import SOURCE_ROOT
from worker.sandbox import without_network

log = structlog.get_logger(__name__)


class Host:
    """Identity and folders of one worker process.

    The boot id is drawn at start and never derived from the host name: a restarted worker must not look like the one that
    died. Job directories lie below it, with a lock that tells a later process whether they are still in use.
    """

    def __init__(self, settings: Settings, queues: str, gpus: Sequence[Device]) -> None:
        """Take a fresh identity and folder.

        Args:
            settings: folders and intervals.
            queues: comma separated.
            gpus: the GPUs that are this worker's own.
        """
        self.boot_id = new_id("wkr")
        self.queues = queues
        self.gpus = tuple(gpus)
        self.threads = settings.child_threads or os.cpu_count() or 1
        self.code_revision = _code_revision()
        self._settings = settings
        self._state: WorkerState = "idle"
        self._job_id: str | None = None
        self._done = threading.Event()
        self.draining = threading.Event()
        """Set when the worker has to go: it hands its job back and takes no more."""
        self._folder = settings.jobs_dir / self.boot_id
        self._folder.mkdir(parents=True)
        unlocked = self._folder / "lock.new"
        self._lock = unlocked.open("w")
        fcntl.flock(self._lock, fcntl.LOCK_EX)
        # Locked before it is seen: another worker would take the folder for that of a dead one.
        unlocked.rename(self._folder / "lock")
        _remove_folders_of_dead_workers(settings.jobs_dir)

    @property
    def visible_devices(self) -> str:
        """Value of `CUDA_VISIBLE_DEVICES` for a child that may use this worker's GPUs."""
        return ",".join(gpu["uuid"] for gpu in self.gpus)

    def job_dir(self, job_id: str, attempt: int) -> Path:
        """The folder of one attempt, not made yet."""
        return self._folder / f"{job_id}-{attempt}"

    @staticmethod
    def discard(folder: Path) -> None:
        """Remove a job directory. Under another name first: a fetch that nobody waits for any more would put files into it."""
        with contextlib.suppress(OSError):
            folder = folder.rename(folder.with_name(f".{folder.name}"))
        shutil.rmtree(folder, ignore_errors=True)

    def self_test_log(self) -> Path:
        """Where the device's self-test writes what it has to say."""
        return self._folder / "self-test.log"

    def start_heartbeat(self, database: Database) -> None:
        """Register in `workers` and keep the row fresh from a thread; an operator's wish to drain becomes a SIGTERM."""
        if not without_network():
            log.warning("uploads_read_with_network", reason="unshare --net is not permitted here")
        with database.write() as session:
            workers.register(
                session, self.boot_id, socket.gethostname(), os.getpid(), self.queues, devices=self.gpus, software=_software()
            )

        def beat() -> None:
            asked = False
            while not self._done.wait(self._settings.renew_seconds):
                try:
                    wanted = self._write_state(database)
                except Exception:
                    log.exception("heartbeat_missed")  # the thread outlives any surprise
                    continue
                if wanted and not asked:
                    asked = True
                    log.info("drain_requested")
                    os.kill(os.getpid(), signal.SIGTERM)  # the way of every shutdown

        threading.Thread(target=beat, name="heartbeat", daemon=True).start()

    def stop(self, database: Database) -> None:
        """Say goodbye and free the folder."""
        self._done.set()
        self._state, self._job_id = "stopped", None
        self._write_state(database)
        self._lock.close()
        shutil.rmtree(self._folder, ignore_errors=True)

    @contextmanager
    def busy_with(self, job_id: str) -> Iterator[None]:
        """The row says `busy` inside the block."""
        self._state, self._job_id = "busy", job_id
        try:
            yield
        finally:
            self._job_id = None
            if self._state == "busy":
                self._state = "idle"

    @contextmanager
    def quarantined(self, database: Database, reason: str) -> Iterator[None]:
        """The row says `quarantined`, and why, inside the block."""
        self._state = "quarantined"
        self._write_reason(database, reason)
        try:
            yield
        finally:
            if self._state == "quarantined":
                self._state = "idle"
            self._write_reason(database, None)
            self._write_state(database)

    def _write_reason(self, database: Database, reason: str | None) -> None:
        try:
            with database.write() as session:
                workers.quarantine(session, self.boot_id, reason)
        except DatabaseUnavailableError as error:
            log.warning("quarantine_not_noted", error=error.message)

    def _write_state(self, database: Database) -> bool:
        """Write the row; whether it asks for a drain."""
        state: WorkerState = "draining" if self.draining.is_set() and self._state != "stopped" else self._state
        try:
            with database.write() as session:
                return workers.beat(session, self.boot_id, state, self._job_id)
        except DatabaseUnavailableError as error:
            log.warning("heartbeat_missed", error=error.message)
            return False


def _software() -> dict[str, str]:
    """Versions of what computes, as far as it is installed; nothing is imported."""
    found = {"python": platform.python_version(), "network isolation": " ".join(without_network()) or "none"}
    for name in ("distill-service", "torch", "torchvision", "numpy", "celery"):
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            found[name] = importlib.metadata.version(name)
    return found


def _remove_folders_of_dead_workers(jobs_dir: Path) -> None:
    for lock in jobs_dir.glob("*/lock"):
        # Another worker may be cleaning up too: then the file is gone, or locked.
        with contextlib.suppress(FileNotFoundError, BlockingIOError), lock.open("r+") as handle:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            shutil.rmtree(lock.parent, ignore_errors=True)


def _code_revision() -> str:
    """The revision of this code: from the image's environment, or from a git checkout, or `unknown`."""
    given = os.environ.get("DISTILL_CODE_REVISION")
    if given:
        return given
    if not (SOURCE_ROOT / ".git").exists() or shutil.which("git") is None:
        return "unknown"
    run = subprocess.run(
        ["git", "-C", str(SOURCE_ROOT), "describe", "--always", "--dirty", "--abbrev=12"],
        capture_output=True, text=True, check=False, timeout=10,
    )
    return run.stdout.strip() or "unknown"
