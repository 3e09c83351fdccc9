"""How many jobs and workers there are, and how long the oldest waits: what an operator watches."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple

import sqlalchemy as sa
from sqlalchemy.orm import Session

from core.jobs import workers
from core.jobs.database import now
from core.jobs.models import Job, Tick
from core.jobs.states import LEASED, State


class QueueCount(NamedTuple):
    """One queue of one tenant, or of all. Times are seconds by the database's clock."""

    queued: int = 0
    """Jobs that a worker may take now."""
    delayed: int = 0
    """Queued jobs that wait for their next attempt to be due."""
    running: int = 0
    oldest_seconds: float = 0.0
    """How long the oldest job that a worker may take has been waiting; 0 when there is none."""


class JobCount(NamedTuple):
    state: str
    queue: str
    jobs: int


def queues(session: Session, tenant_id: str | None = None) -> dict[str, QueueCount]:
    """Every queue that has jobs, by name; for one tenant, or for all."""
    at = now(session)
    due = sa.and_(Job.state == State.QUEUED, Job.next_run_at <= at)
    rows = session.execute(
        sa.select(
            Job.queue,
            sa.func.count().filter(due),
            sa.func.count().filter(Job.state == State.QUEUED),
            sa.func.count().filter(Job.state.in_(LEASED)),
            sa.func.min(Job.next_run_at).filter(due),
        )
        .where(
            Job.state.in_([State.QUEUED, *LEASED]), Job.tenant_id == tenant_id if tenant_id is not None else sa.true()
        )
        .group_by(Job.queue)
    )
    return {
        queue: QueueCount(
            queued, waiting - queued, running, 0.0 if oldest is None else max(0.0, (at - oldest).total_seconds())
        )
        for queue, queued, waiting, running, oldest in rows
    }


def jobs(session: Session) -> Sequence[JobCount]:
    """Jobs of all tenants by state and queue, without those that were deleted."""
    rows = session.execute(
        sa.select(Job.state, Job.queue, sa.func.count()).where(Job.deleted_at.is_(None)).group_by(Job.state, Job.queue)
    )
    return [JobCount(*row) for row in rows]


class Outbox(NamedTuple):
    """Due rows without a message."""

    rows: int
    oldest_seconds: float


def outbox(session: Session) -> Outbox:
    """Due jobs of all tenants that no message was sent for, and how long the oldest has been due."""
    at = now(session)
    rows, oldest = session.execute(
        sa.select(sa.func.count(), sa.func.min(Job.next_run_at))
        .where(Job.state == State.QUEUED, Job.next_run_at <= at, Job.sent_at.is_(None))
    ).one()
    return Outbox(rows, 0.0 if oldest is None else max(0.0, (at - oldest).total_seconds()))


def worker_states(session: Session, silence_seconds: float) -> Counter[str]:
    """Workers by the state that is shown of them."""
    at = now(session)
    return Counter(workers.shown_state(row, at, silence_seconds) for row in workers.listed(session))


def tick_ages(session: Session) -> dict[str, float]:
    """Seconds since each periodic task last worked, by its name."""
    at = now(session)
    return {name: (at - ticked_at).total_seconds() for name, ticked_at in session.execute(sa.select(Tick.name, Tick.ticked_at))}
