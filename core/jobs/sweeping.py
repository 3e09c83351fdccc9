"""What the sweeper asks of the tables: what nobody can need any more.

Each function runs in the caller's transaction and may be repeated, or run side by side with itself, with the same result.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from datetime import timedelta
from typing import Any, NamedTuple

import sqlalchemy as sa
from sqlalchemy.orm import Session

from core.jobs import totals
from core.jobs.database import now
from core.jobs.models import Artifact, Attempt, Checkpoint, Event, IdempotencyKey, Job, JobDependency, Metric, Worker
from core.jobs.states import LEASED, State

_CONTENTS = (Artifact, Checkpoint, Metric, Event)
"""What hangs on a job, beside its attempts. Every job has an event, so a deleted job with one has not been collected yet."""


AT_ONCE = 1000
"""Tombstones removed by one statement."""


class Owner(NamedTuple):
    """What the sweeper has to know of a job whose objects it looks at."""

    deleted: bool
    running_attempt: int | None
    """The attempt that may be writing at this moment."""


def uncollected(session: Session) -> Sequence[str]:
    """Deleted jobs whose bytes and rows are still there."""
    return session.scalars(
        sa.select(Job.id)
        .where(Job.deleted_at.is_not(None), sa.exists().where(Event.job_id == Job.id))
        .order_by(Job.deleted_at)
    ).all()


def forget_contents(session: Session, job_id: str) -> None:
    """Remove everything that hangs on a deleted job, after its bytes are gone."""
    deleted = sa.select(Job.id).where(Job.id == job_id, Job.deleted_at.is_not(None))
    attempts = sa.delete(Attempt).where(Attempt.job_id.in_(deleted)).returning(Attempt.outcome, Attempt.error)
    totals.keep_attempts(session, [(outcome, error) for outcome, error in session.execute(attempts)])
    for table in _CONTENTS:
        session.execute(sa.delete(table).where(table.job_id.in_(deleted)))


def forget_tombstones(session: Session, seconds: float) -> int:
    """Remove collected jobs that were deleted so long ago that no Idempotency-Key names them; how many there were."""
    ids = session.scalars(
        sa.select(Job.id).where(
            Job.deleted_at < now(session) - timedelta(seconds=seconds),
            ~sa.exists().where(Event.job_id == Job.id), ~sa.exists().where(IdempotencyKey.job_id == Job.id),
        ).limit(AT_ONCE)
    ).all()
    session.execute(sa.delete(JobDependency).where(JobDependency.job_id.in_(ids) | JobDependency.needs_id.in_(ids)))
    session.execute(sa.update(Job).where(Job.parent_id.in_(ids)).values(parent_id=None))
    jobs = sa.delete(Job).where(Job.id.in_(ids)).returning(
        Job.recipe, Job.kind, Job.state, Job.error, Job.created_at, Job.started_at, Job.finished_at
    )
    totals.keep_jobs(session, [tuple(row) for row in session.execute(jobs)])
    return len(ids)


def drop_checkpoints(session: Session, job_id: str | None = None) -> list[str]:
    """Forget the checkpoints of all jobs that are over, or of one if it is; their store keys, to delete after the commit."""
    over = sa.select(Job.id).where(Job.state.in_([state for state in State if state.terminal]))
    if job_id is not None:
        over = over.where(Job.id == job_id)
    return list(session.scalars(sa.delete(Checkpoint).where(Checkpoint.job_id.in_(over)).returning(Checkpoint.key)))


def forget_keys(session: Session, seconds: float) -> int:
    """Remove Idempotency-Keys that are older; how many there were."""
    old = IdempotencyKey.created_at < now(session) - timedelta(seconds=seconds)
    return len(session.scalars(sa.delete(IdempotencyKey).where(old).returning(IdempotencyKey.key)).all())


def forget_workers(session: Session, seconds: float) -> int:
    """Remove workers that have been silent for longer; how many there were."""
    silent = Worker.seen_at < now(session) - timedelta(seconds=seconds)
    return len(session.scalars(sa.delete(Worker).where(silent).returning(Worker.boot_id)).all())


def owners(session: Session, job_ids: Collection[str]) -> dict[str, Owner]:
    """Those of some jobs that have a row, by id."""
    rows = session.execute(sa.select(Job.id, Job.deleted_at, Job.state, Job.attempt).where(Job.id.in_(job_ids)))
    return {
        job_id: Owner(deleted_at is not None, attempt if state in LEASED else None)
        for job_id, deleted_at, state, attempt in rows
    }


def named(session: Session, keys: Collection[str]) -> set[str]:
    """Those of some store keys that a row names."""
    rows: sa.CompoundSelect[Any] = sa.union(
        sa.select(Artifact.key).where(Artifact.key.in_(keys)), sa.select(Checkpoint.key).where(Checkpoint.key.in_(keys)),
        sa.select(Attempt.log_key).where(Attempt.log_key.in_(keys)),
    )
    return set(session.scalars(rows))
