"""The lease keeper: a thread that renews the lease and reads the job's state while everything else goes on."""

from __future__ import annotations

import threading
import time

import structlog

from core.errors import DatabaseUnavailableError
from core.jobs import leases
from core.jobs.database import Database
from core.jobs.leases import Lease, LostLeaseError
from core.jobs.states import State
from core.settings import Settings

log = structlog.get_logger(__name__)


class Keeper:
    """Holds one lease. `state` is what SQL last said, None once the lease is lost.

    While the database is away the keeper goes on trying and the child goes on training: the reaper, which needs the same
    database, is blind too.
    """

    def __init__(self, database: Database, lease: Lease, settings: Settings) -> None:
        self._database = database
        self._lease = lease
        self._settings = settings
        self._done = threading.Event()
        self.state: State | None = State.RUNNING
        self._thread = threading.Thread(target=self._run, name="lease-keeper", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Stop renewing."""
        self._done.set()
        self._thread.join(timeout=10.0)

    def _run(self) -> None:
        renewed = time.monotonic()
        while not self._done.wait(self._settings.poll_seconds):
            try:
                if time.monotonic() - renewed >= self._settings.renew_seconds:
                    with self._database.write() as session:
                        self.state = leases.renew(session, self._lease, self._settings.lease_seconds)
                    renewed = time.monotonic()
                else:
                    with self._database.read() as session:
                        self.state = leases.state_of(session, self._lease)
            except LostLeaseError:
                self.state = None
                log.warning("lease_lost")
                return
            except DatabaseUnavailableError as error:
                log.warning("lease_not_renewed", error=error.message)
            except Exception:
                log.exception("lease_not_renewed")  # the thread outlives any surprise: without it the lease would run out
