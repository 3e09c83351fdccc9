"""`python -m worker.reconciler`: repairs what messages and workers lose.

At each tick it gives away leases that ran out and sends messages for queued rows that have none; a thread of its own sweeps.
It keeps nothing in memory that matters, and every change is conditional, so it may run twice or not at all for a while.
"""

from __future__ import annotations

import contextlib
import signal
import sys
import threading
import time

import structlog

from core import logging
from core.errors import DatabaseUnavailableError, JobAlreadyTerminalError
from core.jobs import dependencies, queue, recovery
from core.jobs.database import Database
from core.jobs.repository import Jobs
from core.settings import Settings, get_settings
from core.store.objects import open_store
from worker.sweeper import Sweeper

log = structlog.get_logger(__name__)


class Reconciler:
    """One tick at a time."""

    def __init__(self, database: Database, settings: Settings) -> None:
        self._database = database
        self._settings = settings
        self._app = queue.celery_app(settings)
        self._reap_from = 0.0
        self._ticked: float | None = None

    def tick(self) -> None:
        """Reap, then send."""
        try:
            self._reap()
            self._cancel_unneeded()
            self._send()
        except DatabaseUnavailableError as error:
            log.warning("tick_skipped", error=error.message)

    def _reap(self) -> None:
        """Take expired leases back, but after a gap of our own wait one lease time first.

        After an outage of the database or of this process, its start included, every lease looks expired at once, although the
        workers live and are about to renew.
        """
        with self._database.write() as session:
            _, gap = recovery.tick(session, "reconciler")
        # Its own gap as well: another reconciler may have ticked first after an outage that both have lived through.
        own = None if self._ticked is None else time.monotonic() - self._ticked
        self._ticked = time.monotonic()
        longest = 3 * self._settings.tick_seconds + self._settings.renew_seconds
        if gap is None or own is None or max(gap, own) > longest:
            log.info("reaping_paused", gap_seconds=gap, for_seconds=self._settings.lease_seconds)
            self._reap_from = time.monotonic() + self._settings.lease_seconds
        if time.monotonic() < self._reap_from:
            return
        with self._database.read() as session:
            leases = recovery.expired(session, self._settings.tick_seconds)
        for lease in leases:
            with self._database.write() as session:
                state = recovery.reap(
                    session, lease, self._settings.tick_seconds, self._settings.retry_backoff_seconds
                )
            log.warning("lease_reaped", job_id=lease.job_id, attempt=lease.attempt, state=state)

    def _cancel_unneeded(self) -> None:
        """Stop evaluations whose parent has ended without them."""
        with self._database.read() as session:
            found = dependencies.unneeded_evaluations(session)
        for tenant, job_id in found:
            with self._database.write() as session, contextlib.suppress(JobAlreadyTerminalError):
                Jobs(session, tenant).cancel(job_id, "the job that asked for this evaluation is over")
            log.info("evaluation_cancelled", job_id=job_id)

    def _send(self) -> None:
        """Publish a message for each due row that has none. A broker that is away is tried again at the next tick."""
        with self._database.read() as session:
            rows = recovery.unsent(session, self._settings.resend_seconds, self._settings.resend_crowded_seconds)
        empty: dict[str, bool] = {}
        try:
            for row in rows:
                if row.ever_sent and not row.overdue:
                    if row.queue not in empty:
                        empty[row.queue] = queue.depth(self._app, row.queue) == 0
                    if not empty[row.queue]:
                        continue  # its message is probably still waiting in line
                queue.publish(self._app, row.job_id, row.queue, row.priority)
                with self._database.write() as session:
                    recovery.mark_sent(session, row.job_id, row.attempt)
                log.info("message_sent", job_id=row.job_id, again=row.ever_sent)
        except queue.BROKER_ERRORS as error:
            log.warning("broker_unavailable", error=str(error))


def main() -> int:
    """Tick until SIGTERM or SIGINT."""
    settings = get_settings()
    logging.configure()
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    database = Database(settings.database)
    reconciler = Reconciler(database, settings)
    sweeper = Sweeper(database, open_store(settings), settings)
    threading.Thread(target=sweeper.run, args=(stop,), name="sweeper", daemon=True).start()
    log.info("reconciler_started", tick_seconds=settings.tick_seconds)
    while True:
        reconciler.tick()
        if stop.wait(settings.tick_seconds):
            break
    database.dispose()
    return 0


if __name__ == "__main__":
    sys.exit(main())
