"""The end of an attempt, written to store and database: patiently, because either may be away, and once.

Results wait on the local disk while the lease is renewed. The waiting ends when they are not wanted any more: the lease is
lost, the job is being cancelled, or the worker has to go.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor, wait
from pathlib import Path
from typing import Any, TypeVar

import structlog
from tenacity import RetryCallState, Retrying, retry_if_exception_type, wait_exponential

from core.errors import InfrastructureError, StoreUnavailableError
from core.jobs import leases, recovery, reports, sweeping
from core.jobs.database import Database
from core.jobs.leases import Claim, LostLeaseError, StoredFile
from core.jobs.models import Job
from core.jobs.states import State
from core.settings import Settings
from core.specs.job import NeededSpec
from core.specs.report import ArtifactLine
from core.store.keys import artifact_key, log_key
from core.store.objects import Objects, sha256_of
from worker.collector import POLL_SECONDS, Collector
from worker.decide import Conclusion, Verdict
from worker.keeper import Keeper

log = structlog.get_logger(__name__)
T = TypeVar("T")

LONGEST_WAIT_SECONDS = 2.0
"""Between two tries; also how late a cancel may be noticed while a store is away."""
LONGEST_LOG_BYTES = 1 << 20
LOG_SECONDS = 10.0
"""How long the end of an attempt waits for its log to be stored."""


class Settlement:
    """Writes how one attempt ended."""

    def __init__(
        self, database: Database, store: Objects, settings: Settings, claim: Claim, folder: Path, keeper: Keeper,
        collector: Collector, draining: threading.Event,
    ) -> None:
        self._database = database
        self._store = store
        self._settings = settings
        self._claim = claim
        self._folder = folder
        self._keeper = keeper
        self._collector = collector
        self._draining = draining
        self._drain_noticed: float | None = None
        self._uploads = ThreadPoolExecutor(max_workers=1, thread_name_prefix="artifact-upload")
        self.retry_delay = 0.0

    def close(self) -> None:
        """Free the thread; what nobody waits for any more ends on its own."""
        self._uploads.shutdown(wait=False)

    def settle(self, conclusion: Conclusion, needed: Mapping[str, NeededSpec]) -> State:
        """Write the end of the attempt; the job's state afterwards.

        Args:
            conclusion: how the attempt ended.
            needed: jobs that the job waits for, by content key, where that is the conclusion.

        Raises:
            LostLeaseError: the job is another's by now; nothing was written.
            InfrastructureError: patience is over, and nothing was written: the lease will run out.
        """
        if conclusion.verdict is not Verdict.DISCARD:
            self.patiently(self._collector.flush_or_raise)
        match conclusion.verdict:
            case Verdict.DISCARD:
                raise LostLeaseError
            case Verdict.CANCELLED:
                state = self.patiently(self._write_cancelled)
            case Verdict.GIVE_BACK:
                state = self.patiently(lambda: self._write_given_back(conclusion))
            case Verdict.WAIT:
                state = self.patiently(lambda: self._write_waiting(needed))
            case Verdict.FAIL:
                state = self.patiently(lambda: self._write_failure(conclusion))
            case Verdict.COMMIT:
                state = self._commit()
        if state.terminal:
            self._drop_checkpoints()
        return state

    def keep_log(self, path: Path) -> None:
        """Store what the child wrote for people, or its end; best effort, in one try that may not take long.

        Raises:
            LostLeaseError: the job is another's by now.
        """
        key = log_key(self._claim.lease.job_id, self._claim.lease.attempt)
        try:
            if not path.exists() or not path.stat().st_size:
                return
            if path.stat().st_size > LONGEST_LOG_BYTES:
                _cut_to_end(path, LONGEST_LOG_BYTES)
            upload = self._uploads.submit(self._store.put, key, path)
            if not wait([upload], timeout=LOG_SECONDS).done:
                log.warning("log_not_stored", error="the object store took too long")
                return
            upload.result()
            with self._database.write() as session:
                reports.add_log(session, self._claim.lease, key, path.stat().st_size)
        except (InfrastructureError, OSError) as error:
            log.warning("log_not_stored", error=str(error))

    def patiently(self, action: Callable[[], T]) -> T:
        """Repeat an action while a server is away.

        Raises:
            InfrastructureError: patience is over.
        """
        for again in Retrying(
            retry=retry_if_exception_type(InfrastructureError), stop=self._is_over, reraise=True,
            wait=wait_exponential(multiplier=0.25, max=LONGEST_WAIT_SECONDS),
        ):
            with again:
                return action()
        raise AssertionError("unreachable: the last try raises")

    def _is_over(self, tries: RetryCallState) -> bool:
        return (tries.seconds_since_start or 0.0) >= self._settings.patience_seconds or self._has_drained()

    def _has_drained(self) -> bool:
        """Whether the worker has been asked to go for so long that it goes now."""
        if self._draining.is_set() and self._drain_noticed is None:
            self._drain_noticed = time.monotonic()
        since = self._drain_noticed
        return since is not None and time.monotonic() - since >= self._settings.drain_seconds

    def _commit(self) -> State:
        try:
            files = []
            for line in self._collector.artifacts:
                file = self._upload(line)
                if file is None:
                    return self._settle_unwanted()
                files.append(file)
            return self.patiently(lambda: self._write_success(files))
        except InfrastructureError as error:
            if self._draining.is_set():
                given_back = Conclusion(Verdict.GIVE_BACK, error.code, error.message)
                return self.patiently(lambda: self._write_given_back(given_back))
            failed = Conclusion(Verdict.FAIL, error.code, error.message, error.retryable)
            return self.patiently(lambda: self._write_failure(failed))

    def _settle_unwanted(self) -> State:
        if self._keeper.state is None:
            raise LostLeaseError
        return self.patiently(self._write_cancelled)

    def _upload(self, line: ArtifactLine) -> StoredFile | None:
        """Store one artifact; None when nobody wants it any more."""
        path = self._folder / line.file
        key = artifact_key(self._claim.lease.job_id, self._claim.lease.attempt, line.name)

        def put() -> StoredFile | None:
            if self._keeper.state is not State.RUNNING:
                return None
            try:
                if not self._put(key, path):
                    return None
            except InfrastructureError as error:
                self._collector.warn_once(error.code, "the results wait on the worker until the object store takes them")
                self._collector.flush()
                raise
            return StoredFile(line.kind, line.name, line.media_type, path.stat().st_size, sha256_of(path), key)

        return self.patiently(put)

    def _put(self, key: str, path: Path) -> bool:
        """Store a file from a thread, because a store that hangs must not hold a cancel; False when it is not wanted any more.

        Raises:
            StoreUnavailableError: the store is away, or still hangs when the worker has to go.
        """
        upload = self._uploads.submit(self._store.put, key, path)
        while not wait([upload], timeout=POLL_SECONDS).done:
            if self._keeper.state is not State.RUNNING:
                return False
            if self._has_drained():
                raise StoreUnavailableError(f"the object store did not take {path.name} before the worker had to go")
        upload.result()
        return True

    def _write_success(self, files: list[StoredFile]) -> State:
        lease = self._claim.lease
        result: dict[str, Any] = {"summary": self._collector.summary, "warnings": self._collector.warnings}
        try:
            with self._database.write() as session:
                leases.succeed(session, lease, result, files, self._collector.remaining_metrics())
        except LostLeaseError:
            return self._after_lost_commit()
        return State.SUCCEEDED

    def _after_lost_commit(self) -> State:
        """A commit that changed no row: already committed by us (the answer was lost), cancelled, or not ours any more."""
        lease = self._claim.lease
        with self._database.write() as session:
            row = session.get(Job, lease.job_id)
            if row is not None and row.attempt == lease.attempt and row.boot_id == lease.boot_id:
                if row.state == State.SUCCEEDED:
                    return State.SUCCEEDED
                if row.state == State.CANCELLING:
                    leases.cancelled(session, lease)
                    return State.CANCELLED
        raise LostLeaseError

    def _write_cancelled(self) -> State:
        with self._database.write() as session:
            leases.cancelled(session, self._claim.lease)
        return State.CANCELLED

    def _write_given_back(self, conclusion: Conclusion) -> State:
        message = conclusion.message or "the worker is shutting down; the job goes on elsewhere"
        self.retry_delay = self._settings.retry_backoff_seconds if conclusion.code else 0.0
        with self._database.write() as session:
            return leases.give_back(session, self._claim.lease, message, after_seconds=self.retry_delay)

    def _write_waiting(self, needed: Mapping[str, NeededSpec]) -> State:
        try:
            with self._database.write() as session:
                return leases.wait(session, self._claim.lease, needed)
        except LostLeaseError:
            return self._after_lost_commit()

    def _write_failure(self, conclusion: Conclusion) -> State:
        lease = self._claim.lease
        detail = self._collector.error.detail if self._collector.error is not None else {}
        error = {
            "code": conclusion.code, "message": conclusion.message, "retryable": conclusion.retryable,
            "attempt": lease.attempt, "detail": detail,
        }
        with self._database.write() as session:
            job = session.get(Job, lease.job_id)
            failures = job.failures if job is not None else 0
            self.retry_delay = recovery.backoff(self._settings.retry_backoff_seconds, failures)
            return leases.fail(
                session, lease, error, retry_after_seconds=self.retry_delay if conclusion.retryable else None
            )

    def _drop_checkpoints(self) -> None:
        """Best effort: rows first, so that none ever names bytes that are gone."""
        try:
            with self._database.write() as session:
                obsolete = sweeping.drop_checkpoints(session, self._claim.lease.job_id)
        except InfrastructureError as error:
            log.warning("checkpoints_not_dropped", error=error.message)
            return
        self._uploads.submit(self._delete, obsolete)  # a store that hangs must not hold the next job

    def _delete(self, keys: list[str]) -> None:
        try:
            self._store.delete(*keys)
        except InfrastructureError as error:
            log.warning("checkpoints_not_deleted", error=error.message)  # the sweeper finds them


def _cut_to_end(path: Path, count: int) -> None:
    """Keep the last bytes of a file, from the beginning of a line."""
    with path.open("rb") as source:
        source.seek(-count, os.SEEK_END)
        source.readline()
        end = source.read()
    path.write_bytes(end)
