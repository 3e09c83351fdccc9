"""Deleting a job: hidden at once from every read; its bytes and rows are collected later by the sweeper.

The row stays as a tombstone for as long as an Idempotency-Key may name it, so that a repeated request makes no second job.
"""

from __future__ import annotations

from datetime import datetime

import sqlalchemy as sa
from sqlalchemy.orm import Session, aliased

from core.errors import JobHasDependantsError, JobNotTerminalError
from core.jobs.models import Job, JobDependency
from core.jobs.states import State


def delete(session: Session, job: Job, at: datetime) -> None:
    """Hide a job whose row the caller has locked, and free its content key: who needs its networks next has them trained anew.

    The evaluations of its set, which are of use to nobody else, are hidden with it.

    The lock keeps new dependants away (`dependencies.require` takes it too); those that exist can only end.

    Raises:
        JobNotTerminalError: it is not over.
        JobHasDependantsError: a job that is not over needs what this one made.
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
    its_evaluations = sa.and_(
        Job.parent_id == job.id, Job.kind == "evaluation", Job.deleted_at.is_(None),
        Job.state.in_([state for state in State if state.terminal]),
    )
    session.execute(
        sa.update(Job).where(sa.or_(Job.id == job.id, its_evaluations))
        .values(deleted_at=at, content_key=None, version=Job.version + 1)
    )
