"""Deleting a job: hidden at once from every read; its bytes and rows are collected later by the sweeper.

The row stays as a tombstone for as long as an Idempotency-Key may name it, so that a repeated request makes no second job.
"""

from __future__ import annotations

from datetime import datetime

import sqlalchemy as sa
from sqlalchemy.orm import Session, aliased

from core.errors import DatasetInUseError, JobHasDependantsError, JobNotTerminalError
from core.jobs.models import Job, JobDependency
from core.jobs.states import State


def delete(session: Session, job: Job, at: datetime) -> None:
    """Hide a job whose row the caller has locked, and free its content key: who needs its networks next has them trained anew.

    The evaluations of its set, which are of use to nobody else, are hidden with it; those that are still being cancelled are
    hidden by the sweeper. A terminal row of a terminal parent is locked by nobody else, so that the order does not matter.

    The lock keeps new dependants away (`dependencies.require` takes it too); those that exist can only end.

    Raises:
        JobNotTerminalError: it is not over.
        JobHasDependantsError: a job that is not over needs what this one made.
        DatasetInUseError: it made a data set, which a job that is not over reads.
    """
    if not State(job.state).terminal:
        raise JobNotTerminalError(f"the job is {job.state}; cancel it first")
    waiter = aliased(Job)
    dependants = session.scalars(
        sa.select(waiter.id)
        .join(JobDependency, JobDependency.job_id == waiter.id)
        .where(JobDependency.needs_id == job.id, waiter.state.not_in([state for state in State if state.terminal]))
        .order_by(waiter.id)
    ).all()
    if dependants:
        raise JobHasDependantsError(f"needed by {', '.join(dependants)}")
    if job.kind == "ingest":
        _require_unused(session, job)
    session.execute(
        sa.update(Job).where(Job.id == job.id).values(deleted_at=at, content_key=None, version=Job.version + 1)
    )
    hide_evaluations(session, at, job.id)


def _require_unused(session: Session, job: Job) -> None:
    """Jobs that are created meanwhile wait for the lock on the row (`datasets.Datasets.hold`), and then find it deleted."""
    readers = session.scalars(
        sa.select(Job.id)
        .where(
            Job.tenant_id == job.tenant_id, Job.dataset == job.dataset, Job.id != job.id,
            Job.state.not_in([state for state in State if state.terminal]),
        )
        .order_by(Job.id)
    ).all()
    if readers:
        raise DatasetInUseError(f"the data set is read by {', '.join(readers[:10])}")


def hide_evaluations(session: Session, at: datetime, parent_id: str | None = None) -> None:
    """Hide the evaluations that are over and whose job, or one given job, is hidden."""
    parent = aliased(Job)
    of_hidden = sa.exists().where(parent.id == Job.parent_id, parent.deleted_at.is_not(None))
    session.execute(
        sa.update(Job)
        .where(
            Job.kind == "evaluation", Job.deleted_at.is_(None), Job.state.in_([state for state in State if state.terminal]),
            of_hidden if parent_id is None else Job.parent_id == parent_id,
        )
        .values(deleted_at=at, content_key=None, version=Job.version + 1)
    )
