"""Between a child's lines and SQL: progress folded, metrics and events batched, checkpoints uploaded on the side."""

from __future__ import annotations

import contextlib
import os
import queue
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor, wait
from pathlib import Path
from typing import Any

import structlog

from core.errors import DatabaseUnavailableError, StoreUnavailableError
from core.jobs import reports
from core.jobs.database import Database
from core.jobs.events import NewEvent
from core.jobs.leases import Lease, LostLeaseError, StoredFile
from core.jobs.metrics import MetricPoint
from core.specs.report import (
    ArtifactLine,
    CheckpointLine,
    ErrorLine,
    Line,
    MetricLine,
    PhaseLine,
    ProgressLine,
    ResultLine,
    UnitsLine,
    WarningLine,
)
from core.store.keys import checkpoint_key
from core.store.objects import Objects, sha256_of

log = structlog.get_logger(__name__)

POLL_SECONDS = 0.1
"""How often a wait for an upload looks whether it is still wanted."""

EVENT_FRACTION = 0.01
"""A progress event is due when this share of the phase was done since the last one."""
EVENT_SECONDS = 10.0
"""Or when this much time has passed."""


class Collector:
    """Takes lines from one child; `flush` writes what came since the last flush in one transaction."""

    def __init__(self, database: Database, store: Objects, lease: Lease, folder: Path) -> None:
        self._database = database
        self._store = store
        self._lease = lease
        self._folder = folder
        self._progress: dict[str, Any] | None = None
        self._metrics: list[MetricPoint] = []
        self._events: list[NewEvent] = []
        self._event_at = 0.0
        self._event_fraction = -1.0
        self._event_said = ("", 0, "")
        self._uploads = ThreadPoolExecutor(max_workers=1, thread_name_prefix="checkpoint-upload")
        self._upload: Future[None] | None = None
        self._waiting: Callable[[], None] | None = None
        self._checkpoints = 0
        self._not_stored: queue.SimpleQueue[int] = queue.SimpleQueue()
        self.checkpoint_stored = False
        """Whether the newest checkpoint is registered."""
        self.left: UnitsLine | None = None
        """What the child leaves to other jobs."""
        self.error: ErrorLine | None = None
        self.artifacts: list[ArtifactLine] = []
        self.summary: dict[str, Any] = {}
        self.warnings: list[dict[str, str]] = []

    def take(self, line: Line) -> None:
        """Sort one line into its place."""
        match line:
            case ProgressLine():
                self._fold(line)
            case PhaseLine():
                self._event_fraction = -1.0
                self._fold(ProgressLine(phase=line.phase, step=0, total_steps=line.total_steps))
            case MetricLine():
                self._metrics.append(MetricPoint(line.name, line.step, line.value))
            case CheckpointLine():
                self._keep(line)
            case ArtifactLine():
                self.artifacts.append(line)
            case UnitsLine():
                self.left = line
            case WarningLine():
                self._warn(line.code, line.message)
            case ErrorLine():
                self.error = line
            case ResultLine():
                self.summary = line.summary

    def warn_once(self, code: str, message: str) -> None:
        """A warning of the supervisor's own, as if the child had said it, unless it was said before."""
        if not any(warning["code"] == code for warning in self.warnings):
            self._warn(code, message)

    def _warn(self, code: str, message: str) -> None:
        self.warnings.append({"code": code, "message": message})
        self._events.append(NewEvent("warning", message, {"code": code}, "warning"))

    def flush(self) -> None:
        """Write what has gathered. While the database is away, keep it for the next time.

        Raises:
            LostLeaseError: the lease is gone; nothing was written.
        """
        if self._upload is not None and self._upload.done():
            self._start_waiting()
        try:
            self.flush_or_raise()
        except DatabaseUnavailableError as error:
            log.warning("report_delayed", error=error.message)

    def flush_or_raise(self) -> None:
        """Write what has gathered.

        Raises:
            LostLeaseError: the lease is gone; nothing was written.
            DatabaseUnavailableError: nothing was written, and all is kept.
        """
        with contextlib.suppress(queue.Empty):
            while True:
                step = self._not_stored.get_nowait()
                text = f"the checkpoint at iteration {step} could not be stored; training goes on, and the next one is tried"
                self.warn_once("checkpoint_not_stored", text)
        if self._progress is None and not self._metrics and not self._events:
            return
        with self._database.write() as session:
            reports.report(session, self._lease, progress=self._progress, metrics=self._metrics, new_events=self._events)
        self._progress, self._metrics, self._events = None, [], []

    def remaining_metrics(self) -> list[MetricPoint]:
        """Points not yet written, for the committing transaction."""
        return self._metrics

    def wait_for_checkpoint(self, enough: Callable[[], bool] = lambda: False) -> None:
        """Block until the newest checkpoint is registered, or could not be, or the caller has waited enough."""
        while self._upload is not None:
            done, _ = wait([self._upload], timeout=POLL_SECONDS)
            if done:
                self._upload.result()
                self._start_waiting()
            elif enough():
                return

    def close(self) -> None:
        """Free the upload thread; an upload in progress ends on its own."""
        self._waiting = None
        self._uploads.shutdown(wait=False, cancel_futures=True)

    def _fold(self, line: ProgressLine) -> None:
        fraction = line.step / line.total_steps if line.total_steps else 0.0
        seconds = line.seconds_per_step
        self._progress = {
            "phase": line.phase, "step": line.step, "total_steps": line.total_steps, "fraction": round(fraction, 6),
            "seconds_per_step": seconds, "message": line.message,
            "eta_seconds": None if seconds is None else round(seconds * (line.total_steps - line.step), 3),
        }
        far = fraction == 1.0 or fraction - self._event_fraction >= EVENT_FRACTION
        said = (line.phase, line.step, line.message)
        if said != self._event_said and (far or time.monotonic() - self._event_at >= EVENT_SECONDS):
            self._event_fraction, self._event_at, self._event_said = fraction, time.monotonic(), said
            self._drop_older_progress_event()
            text = f"{line.phase}: {line.step} of {line.total_steps}" + (f" ({line.message})" if line.message else "")
            self._events.append(NewEvent("job.progress", text, self._progress))

    def _drop_older_progress_event(self) -> None:
        """Coalesce: at most one progress event a flush and phase."""
        phase = self._progress["phase"] if self._progress else ""
        if self._events and self._events[-1].type == "job.progress" and self._events[-1].data["phase"] == phase:
            self._events.pop()

    def _keep(self, line: CheckpointLine) -> None:
        """Pin the file under a private name, so that the child may replace or remove it, and upload it on the side."""
        self._checkpoints += 1
        self.checkpoint_stored = False
        key = checkpoint_key(self._lease.job_id, self._lease.attempt, self._checkpoints)
        number, pinned = self._checkpoints, self._folder / f".upload-{self._checkpoints}"
        try:
            os.link(self._folder / line.file, pinned)
        except FileNotFoundError:
            return  # the child has written newer ones and removed this one; their lines follow

        before = list(self._metrics)

        def upload() -> None:
            try:
                self._store.put(key, pinned)
                file = StoredFile(
                    "checkpoint", pinned.name, "application/octet-stream", pinned.stat().st_size, sha256_of(pinned), key
                )
                with self._database.write() as session:
                    older = reports.add_checkpoint(session, self._lease, line.step, file, before)
                self.checkpoint_stored = number == self._checkpoints
                self._store.delete(*older)
            except (StoreUnavailableError, DatabaseUnavailableError, LostLeaseError) as error:
                log.warning("checkpoint_not_registered", step=line.step, error=str(error))
                self._not_stored.put(line.step)
            except Exception:
                log.exception("checkpoint_not_registered", step=line.step)
                self._not_stored.put(line.step)
            finally:
                pinned.unlink(missing_ok=True)

        self._waiting = upload  # only the newest matters
        if self._upload is None or self._upload.done():
            self._start_waiting()

    def _start_waiting(self) -> None:
        upload, self._waiting = self._waiting, None
        self._upload = self._uploads.submit(upload) if upload is not None else None
