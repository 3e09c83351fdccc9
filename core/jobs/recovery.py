"""What the reconciler asks of the job tables: leases that ran out, and messages that never came.

Every change is conditional on what was read, so two reconcilers, or one that runs twice, give the same result as one.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import NamedTuple, cast

import sqlalchemy as sa
from sqlalchemy.orm import Session

from core.jobs import leases
from core.jobs.database import insert_into, now
from core.jobs.leases import Lease, LostLeaseError
from core.jobs.models import DEFAULT_TENANT, Job, JobDependency, Tick
from core.jobs.states import LEASED, State
from core.specs.run_options import Priority

MOST_DOUBLINGS = 3
"""How often the wait for another message doubles. A broker that is wiped again and again must not leave workers idle for
long, and an empty queue takes a message too many without harm."""

WORKER_LOST = {
    "code": "worker_lost", "message": "the worker stopped renewing its lease", "retryable": True, "detail": {},
}


def backoff(first_seconds: float, failures: int) -> float:
    """Wait before another attempt after `failures` earlier ones: doubles up to an hour, with up to a tenth of jitter."""
    return float(min(first_seconds * 2.0**failures, 3600.0) * (1.0 + 0.1 * random.random()))


class Waiting(NamedTuple):
    """A queued row that is due and may need a message."""

    job_id: str
    attempt: int
    """Attempts so far."""
    queue: str
    priority: Priority
    ever_sent: bool
    overdue: bool = False
    """It has waited so long that its message is repeated although the broker's queue is not empty."""


def tick(session: Session, name: str) -> tuple[datetime, float | None]:
    """Record a tick; return the database's time and the seconds since the tick before (None for the first ever)."""
    at = now(session)
    row = session.get(Tick, name)
    if row is None:
        session.add(Tick(name=name, tenant_id=DEFAULT_TENANT, ticked_at=at))
        return at, None
    gap = (at - row.ticked_at).total_seconds()
    row.ticked_at = at
    return at, gap


def due(session: Session, name: str, seconds: float) -> bool:
    """Whether the last turn of a periodic task was `seconds` ago or never; true for one of all callers, whose turn it is."""
    at = now(session)
    first = insert_into(session, Tick).values(name=name, tenant_id=DEFAULT_TENANT, ticked_at=at)
    if session.scalar(first.on_conflict_do_nothing().returning(Tick.name)) is not None:
        return True
    turn = sa.update(Tick).where(Tick.name == name, Tick.ticked_at <= at - timedelta(seconds=seconds)).values(ticked_at=at)
    return session.scalar(turn.returning(Tick.name)) is not None


def expired(session: Session, grace_seconds: float) -> Sequence[Lease]:
    """Leases that ran out at least `grace_seconds` ago."""
    rows = session.execute(
        sa.select(Job.id, Job.attempt, Job.boot_id).where(
            Job.state.in_(LEASED), Job.lease_until < now(session) - timedelta(seconds=grace_seconds)
        )
    )
    return [Lease(job_id, attempt, boot_id or "") for job_id, attempt, boot_id in rows]


def reap(session: Session, lease: Lease, grace_seconds: float, backoff_seconds: float) -> State | None:
    """Take one job away from a worker that no longer renews; None when it renewed or ended meanwhile.

    The first loss is repeated at once, as the worker is the likely cause; after that the job itself may be, and waits.
    """
    failures = session.scalar(
        sa.select(Job.failures)
        .where(
            Job.id == lease.job_id, Job.attempt == lease.attempt, Job.state.in_(LEASED),
            Job.lease_until < now(session) - timedelta(seconds=grace_seconds),
        )
        .with_for_update()
    )
    if failures is None:
        return None
    delay = 0.0 if failures == 0 else backoff(backoff_seconds, failures - 1)
    error = WORKER_LOST | {"attempt": lease.attempt}
    try:
        return leases.fail(session, lease, error, retry_after_seconds=delay)
    except LostLeaseError:
        return None


def unsent(session: Session, resend_seconds: float, crowded_seconds: float) -> Sequence[Waiting]:
    """Due rows that were never sent, or were sent so long ago that their message may be lost.

    Both waits double with every message sent, `MOST_DOUBLINGS` times at most. After the first, a row needs another message if
    its broker queue is empty, which the caller looks up. After the second it needs one anyway: what stands in the queue may be
    foreign or stuck, and a message too many costs nothing.
    """
    at = now(session)
    rows = session.execute(
        sa.select(Job.id, Job.attempt, Job.queue, Job.priority, Job.sent_at, Job.send_count)
        .where(Job.state == State.QUEUED, Job.next_run_at <= at)
        .order_by(Job.next_run_at)
    )
    found = []
    for job_id, attempt, queue, priority, sent_at, count in rows:
        row = Waiting(job_id, attempt, queue, cast(Priority, priority), ever_sent=sent_at is not None)
        if sent_at is not None:
            waited, factor = (at - sent_at).total_seconds(), 2 ** min(max(count - 1, 0), MOST_DOUBLINGS)
            if waited <= resend_seconds * factor:
                continue
            row = row._replace(overdue=waited > crowded_seconds * factor)
        found.append(row)
    return found


def unsent_around(session: Session, job_id: str) -> Sequence[Waiting]:
    """Due rows without a message among the jobs that a job needs and those that need it: what its attempt has just queued."""
    edges = sa.union(
        sa.select(JobDependency.needs_id).where(JobDependency.job_id == job_id),
        sa.select(JobDependency.job_id).where(JobDependency.needs_id == job_id),
    )
    rows = session.execute(
        sa.select(Job.id, Job.attempt, Job.queue, Job.priority)
        .where(Job.id.in_(edges), Job.state == State.QUEUED, Job.sent_at.is_(None), Job.next_run_at <= now(session))
        .order_by(Job.id)
    )
    return [
        Waiting(found, attempt, queue, cast(Priority, priority), ever_sent=False) for found, attempt, queue, priority in rows
    ]


def mark_sent(session: Session, job_id: str, attempt: int) -> None:
    """Note that a message for a queued job was published, unless that has led to another attempt meanwhile."""
    session.execute(
        sa.update(Job)
        .where(Job.id == job_id, Job.attempt == attempt, Job.state == State.QUEUED)
        .values(sent_at=now(session), send_count=Job.send_count + 1)
    )
