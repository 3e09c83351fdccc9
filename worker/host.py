"""The machine and process a worker is: its boot id, folders, devices, threads, and its row in `workers`."""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import socket
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import structlog

from core.errors import DatabaseUnavailableError
from core.jobs import workers
from core.jobs.database import Database
from core.jobs.ids import new_id
from core.jobs.workers import WorkerState
from core.settings import Settings
from worker.child import SOURCE_ROOT

log = structlog.get_logger(__name__)


class Host:
    """Identity and folders of one worker process.

    The boot id is drawn at start and never derived from the host name: a restarted worker must not look like the one that
    died. Job directories lie below it, with a lock that tells a later process whether they are still in use.
    """

    def __init__(self, settings: Settings, queues: str, devices: str) -> None:
        self.boot_id = new_id("wkr")
        self.queues = queues
        self.devices = devices
        self.threads = settings.child_threads or os.cpu_count() or 1
        self.code_revision = _code_revision()
        self._settings = settings
        self._state: WorkerState = "idle"
        self._job_id: str | None = None
        self._done = threading.Event()
        self._folder = settings.jobs_dir / self.boot_id
        self._folder.mkdir(parents=True)
        self._lock = (self._folder / "lock").open("w")
        fcntl.flock(self._lock, fcntl.LOCK_EX)
        _remove_folders_of_dead_workers(settings.jobs_dir)

    def job_dir(self, job_id: str, attempt: int) -> Path:
        """A fresh folder for one attempt."""
        folder = self._folder / f"{job_id}-{attempt}"
        folder.mkdir(parents=True)
        return folder

    def dataset_dir(self, key: str) -> Path:
        """Where the canonical form of a data set lies on this host."""
        parent = self._settings.cache_dir / "datasets"
        parent.mkdir(parents=True, exist_ok=True)
        return parent / key

    def start_heartbeat(self, database: Database) -> None:
        """Register in `workers` and keep the row fresh from a thread."""
        with database.write() as session:
            workers.register(session, self.boot_id, socket.gethostname(), os.getpid(), self.queues)

        def beat() -> None:
            while not self._done.wait(self._settings.renew_seconds):
                self._write_state(database)

        threading.Thread(target=beat, name="heartbeat", daemon=True).start()

    def stop(self, database: Database) -> None:
        """Say goodbye and free the folder."""
        self._done.set()
        self._state, self._job_id = "stopped", None
        self._write_state(database)
        self._lock.close()
        shutil.rmtree(self._folder, ignore_errors=True)

    def drain(self) -> None:
        """From now on the row says `draining`."""
        self._state = "draining"

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

    def _write_state(self, database: Database) -> None:
        try:
            with database.write() as session:
                workers.beat(session, self.boot_id, self._state, self._job_id)
        except DatabaseUnavailableError as error:
            log.warning("heartbeat_missed", error=error.message)


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
