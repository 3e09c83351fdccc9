"""A worker's way with a job: claim it, make one attempt, send the messages that follow. The supervisor never imports torch."""

from __future__ import annotations

import structlog
from pydantic import ValidationError

from core.errors import DatabaseUnavailableError
from core.jobs import leases, recovery
from core.jobs.database import Database
from core.jobs.leases import Claim
from core.jobs.queue import Sender, Ticket
from core.jobs.states import State
from core.settings import Settings
from core.specs.job import parse_job_spec
from core.store.objects import Objects
from worker.attempt import Attempt
from worker.host import Host
from worker.quarantine import stay

log = structlog.get_logger(__name__)


class Supervisor:
    """Runs jobs, one at a time, on behalf of one worker process."""

    def __init__(self, database: Database, store: Objects, sender: Sender, settings: Settings, host: Host) -> None:
        self._database = database
        self._store = store
        self._sender = sender
        self._settings = settings
        self._host = host

    def run(self, job_id: str) -> None:
        """Run one attempt of a job, if it can be claimed."""
        if self._host.draining.is_set():
            return  # the row stays queued; the reconciler sends another message
        with self._database.write() as session:
            claim = leases.claim(session, job_id, self._host.boot_id, self._settings.lease_seconds)
        if claim is None:
            log.info("nothing_to_claim")
            return
        try:
            parse_job_spec(claim.spec)
        except ValidationError as error:
            self._refuse(claim, error)
            return
        attempt = Attempt(self._database, self._store, self._settings, self._host, claim, self._host.draining)
        try:
            self._run(attempt, claim)
        finally:
            if attempt.device_fault:
                stay(
                    self._database, self._settings, self._host, attempt.device_fault, self._host.draining, attempt.survivor
                )

    def _run(self, attempt: Attempt, claim: Claim) -> None:
        job_id = claim.lease.job_id
        with structlog.contextvars.bound_contextvars(attempt=claim.lease.attempt), self._host.busy_with(job_id):
            log.info("attempt_started", resumed=claim.checkpoint is not None)
            state = attempt.run()
            log.info("attempt_ended", state=state)
        if state is State.QUEUED and not attempt.retry_delay:
            self._sender.send(Ticket(job_id, claim.lease.attempt, attempt.spec.queue, attempt.spec.priority))
        elif state is State.WAITING or (state is not None and state.terminal):
            self._send_around(job_id)

    def _refuse(self, claim: Claim, error: ValidationError) -> None:
        """A specification of a newer version: some other worker may know it, or this one after its upgrade."""
        log.warning("specification_unknown", error_count=error.error_count())
        message = "the worker does not know this specification; it may be older than the service that took the job"
        with self._database.write() as session:
            leases.give_back(session, claim.lease, message, after_seconds=self._settings.retry_backoff_seconds)

    def _send_around(self, job_id: str) -> None:
        """Messages for the jobs that this one has just asked for, or that waited for it. Best effort, like every message."""
        try:
            with self._database.read() as session:
                rows = recovery.unsent_around(session, job_id)
        except DatabaseUnavailableError as error:
            log.warning("messages_left_to_the_reconciler", error=error.message)
            return
        for row in rows:
            self._sender.send(Ticket(row.job_id, row.attempt, row.queue, row.priority))
