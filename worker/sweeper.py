"""The sweeper: collects bytes and rows that nobody can need any more.

Safe at any moment, twice, and side by side with itself. Rows are read after the objects were listed, so an object counts as
needed if it was when it was seen or has become so since; an attempt that runs is left alone whatever it has written. Objects
of jobs that have no row at all are never touched: the store may serve another database as well.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from datetime import timedelta

import structlog

from core.errors import InfrastructureError, StoreUnavailableError
from core.jobs import deletion, recovery, sweeping
from core.jobs.database import Database, now
from core.settings import Settings
from core.store.keys import JOBS, job_prefix, owner_of
from core.store.objects import Entry, Objects
from worker.upload_sweeper import UploadSweeper

log = structlog.get_logger(__name__)

LOOK_SECONDS = 60.0
"""How often to look whether a sweep is due, at most."""


class Sweeper:
    """One sweep at a time."""

    def __init__(self, database: Database, store: Objects, settings: Settings) -> None:
        self._database = database
        self._store = store
        self._settings = settings
        self._uploads = UploadSweeper(database, store, settings)

    def run(self, stop: threading.Event) -> None:
        """Sweep when it is due, until told to stop."""
        while not stop.is_set():
            try:
                with self._database.write() as session:
                    due = recovery.due(session, "sweeper", self._settings.sweep_seconds)
                if due:
                    self.sweep()
            except InfrastructureError as error:
                log.warning("sweep_cut_short", error=error.message)
            except Exception:
                log.exception("sweep_failed")  # the thread outlives any surprise
            stop.wait(min(LOOK_SECONDS, self._settings.sweep_seconds))

    def sweep(self) -> None:
        """Collect everything that is due.

        Raises:
            InfrastructureError: a server is away; what was done so far is done.
        """
        with self._database.write() as session:
            deletion.hide_evaluations(session, now(session))
        deleted = self._collect_deleted()
        with self._database.write() as session:
            checkpoints = sweeping.drop_checkpoints(session)
        self._store.delete(*checkpoints)
        orphans, strange = self._collect_orphans()
        uploads = self._uploads.sweep()
        with self._database.write() as session:
            keys = sweeping.forget_keys(session, self._settings.idempotency_seconds)
            workers = sweeping.forget_workers(session, self._settings.worker_row_seconds)
            tombstones = sweeping.forget_tombstones(session, self._settings.idempotency_seconds)
        log.info(
            "swept", deleted_jobs=deleted, checkpoints=len(checkpoints), orphans=orphans, idempotency_keys=keys,
            workers=workers, tombstones=tombstones, uploads=uploads._asdict(),
        )
        if strange:
            log.warning("objects_of_unknown_jobs", count=strange)
        if uploads.strange:
            log.warning("objects_of_unknown_uploads", count=uploads.strange)

    def _collect_deleted(self) -> int:
        """Bytes first: a row that is hidden anyway may name bytes that are gone, and a repetition still finds the job."""
        with self._database.read() as session:
            job_ids = sweeping.uncollected(session)
        collected = 0
        for job_id in job_ids:
            try:
                self._store.delete(*self._store.keys(job_prefix(job_id)))
            except StoreUnavailableError as error:  # perhaps only this job's: the others are not to wait for it
                log.warning("job_not_collected", job_id=job_id, error=error.message)
                continue
            with self._database.write() as session:
                sweeping.forget_contents(session, job_id)
            collected += 1
        return collected

    def _collect_orphans(self) -> tuple[int, int]:
        """Delete old objects that no row names; how many, and how many belong to no job that is known."""
        collected = strange = 0
        for page in self._store.pages(JOBS):
            orphans, unknown = self._orphans(page)
            self._store.delete(*orphans)
            collected, strange = collected + len(orphans), strange + unknown
        return collected, strange

    def _orphans(self, page: Sequence[Entry]) -> tuple[list[str], int]:
        written = {entry.key: writer for entry in page if (writer := owner_of(entry.key)) is not None}
        with self._database.read() as session:
            oldest = now(session) - timedelta(seconds=self._settings.orphan_seconds)
            owners = sweeping.owners(session, {job_id for job_id, _ in written.values()})
            named = sweeping.named(session, written.keys())
        orphans = []
        for entry in page:
            job_id, attempt = written.get(entry.key, ("", 0))
            owner = owners.get(job_id)
            if owner is None or entry.modified > oldest or owner.running_attempt == attempt:
                continue
            if owner.deleted or entry.key not in named:
                orphans.append(entry.key)
        return orphans, sum(job_id not in owners for job_id, _ in written.values())
