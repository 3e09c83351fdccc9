"""Jobs that wait for other jobs: pools of trained networks, each trained once however many jobs need it, and evaluations.

A job that lacks something ends its attempt as `waiting` (`leases.wait`). The jobs that train what is missing, and the edges to
them, are written in the same transaction; the unique content key makes one job of two that are asked for at once. Whatever
ends a job calls `ended` in its own transaction, which wakes the jobs that wait for it, or fails them. Edges stay as history.

Rows are locked in one order, needed jobs before those that wait for them and each group by id, so that no two transactions
wait for each other. Whoever adds an edge, or looks whether all needed jobs are over, holds the locks that keep the answer true.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from typing import Any

import sqlalchemy as sa
from sqlalchemy.orm import Session, aliased

from core.jobs import events
from core.jobs.creation import columns
from core.jobs.database import insert_into
from core.jobs.models import Artifact, Checkpoint, Job, JobDependency
from core.jobs.states import State
from core.specs.job import NeededSpec
from core.specs.report import EvaluatedUnits

FAILED_CODES = {"experts": "experts_failed", "evaluation": "evaluation_failed"}
"""Error code of a job by the kind of the one that it needed and that ended badly."""
_WORK = {"experts": "trains networks for this job", "evaluation": "evaluates the set of this job"}

_FRESH = {"populate_existing": True}
_ENDS_UNNEEDED = sa.or_(
    Job.state == State.QUEUED, sa.and_(Job.kind == "evaluation", Job.state.in_([State.RUNNING, State.WAITING]))
)
"""Jobs that end when nobody waits for them."""


def finished_pools(session: Session, tenant_id: str, keys: Iterable[str]) -> dict[str, Artifact]:
    """The files of those pools that are trained, by content key."""
    rows = session.execute(
        sa.select(Job.content_key, Artifact)
        .join(Artifact, Artifact.job_id == Job.id)
        .where(
            Job.tenant_id == tenant_id, Job.content_key.in_(keys), Job.state == State.SUCCEEDED, Artifact.kind == "experts"
        )
    )
    return {key: artifact for key, artifact in rows if key is not None}


def evaluated(session: Session, job_id: str) -> list[EvaluatedUnits]:
    """What other jobs have evaluated for a job."""
    results = session.scalars(
        sa.select(Job.result)
        .join(JobDependency, JobDependency.needs_id == Job.id)
        .where(JobDependency.job_id == job_id, Job.kind == "evaluation", Job.state == State.SUCCEEDED)
        .order_by(Job.id)
    )
    return [EvaluatedUnits.model_validate(result["summary"]) for result in results if result is not None]


def checkpoint_of_parent(session: Session, job_id: str) -> Checkpoint | None:
    """The newest checkpoint of the job that asked for a job; none when that is over."""
    return session.scalar(
        sa.select(Checkpoint)
        .join(Job, Job.parent_id == Checkpoint.job_id)
        .where(Job.id == job_id)
        .order_by(Checkpoint.step.desc(), Checkpoint.attempt.desc())
        .limit(1)
    )


def forget(session: Session, job_id: str) -> None:
    """Free the content key of a job whose file is lost: who needs the pool next has it trained anew."""
    session.execute(sa.update(Job).where(Job.id == job_id).values(content_key=None, version=Job.version + 1))


def require(session: Session, waiter: Job, needed: Mapping[str, NeededSpec], at: datetime) -> None:
    """See to it that a job exists for every content key, lock these jobs, and note that `waiter` needs them.

    The caller has not written the waiter's row yet.
    """
    found: dict[str | None, Job] = {}
    while missing := [key for key in sorted(needed) if key not in found]:
        # Again only where a job was cancelled, and its key freed, between the two statements.
        _create(session, waiter, {key: needed[key] for key in missing}, at)
        rows = session.scalars(
            sa.select(Job).where(Job.tenant_id == waiter.tenant_id, Job.content_key.in_(needed))
            .order_by(Job.id).with_for_update(key_share=True),
            execution_options=_FRESH,
        )
        found = {row.content_key: row for row in rows}
    edges = [{"job_id": waiter.id, "needs_id": row.id, "tenant_id": waiter.tenant_id} for row in found.values()]
    session.execute(insert_into(session, JobDependency).on_conflict_do_nothing(), edges)


def _create(session: Session, waiter: Job, needed: Mapping[str, NeededSpec], at: datetime) -> None:
    """Insert the jobs that nobody else has asked for; wait for whoever asks at this moment."""
    rows = [
        columns(spec, waiter.tenant_id, at) | {"content_key": key, "parent_id": waiter.id} for key, spec in needed.items()
    ]
    insert = insert_into(session, Job).on_conflict_do_nothing(index_elements=["tenant_id", "content_key"])
    for job in session.scalars(insert.values(rows).returning(Job)).all():
        events.append(session, job, [events.state_event(State.QUEUED, f"{waiter.id} needs it")], at)


def settle(session: Session, waiter: Job, at: datetime) -> State:
    """Wake or fail a waiting job, whose row the caller has locked, if the jobs it needs are over; its state afterwards."""
    needed = _needed(session, waiter.id)
    broken = next((job for job in needed if job.state in {State.FAILED, State.CANCELLED}), None)
    if broken is not None:
        message = f"{broken.id}, which {_WORK[broken.kind]}, {_how_it_ended(broken)}"
        error = {
            "code": FAILED_CODES[broken.kind], "message": message, "retryable": False, "attempt": waiter.attempt,
            "detail": {"job_id": broken.id, "error": broken.error},
        }
        reason = {"code": FAILED_CODES[broken.kind], "message": message}
        _move(session, waiter, at, State.FAILED, message, finished_at=at, error=error, reason=reason, content_key=None)
        ended(session, waiter, at)
        return State.FAILED
    if all(job.state == State.SUCCEEDED for job in needed):
        _move(
            session, waiter, at, State.QUEUED, "the jobs that it needs are finished", reason=None,
            queued_at=at, next_run_at=at, sent_at=None, send_count=0,
        )
        return State.QUEUED
    session.execute(sa.update(Job).where(Job.id == waiter.id).values(version=Job.version + 1))  # it waits for fewer
    return State.WAITING


def ended(session: Session, job: Job, at: datetime) -> None:
    """Settle every job that waits for one that is over, in the transaction that ends it and after that was written."""
    waiters = session.scalars(
        sa.select(Job)
        .join(JobDependency, JobDependency.job_id == Job.id)
        .where(JobDependency.needs_id == job.id, Job.state == State.WAITING)
        .order_by(Job.id).with_for_update(of=Job, key_share=True),
        execution_options=_FRESH,
    ).all()
    for waiter in waiters:
        settle(session, waiter, at)


def lock_needed(session: Session, tenant_id: str, job_id: str) -> list[str]:
    """Lock what ends with a job of those that it needs, before the caller locks the job itself; their ids."""
    rows = session.scalars(
        sa.select(Job.id)
        .join(JobDependency, JobDependency.needs_id == Job.id)
        .where(JobDependency.job_id == job_id, Job.tenant_id == tenant_id, _ENDS_UNNEEDED)
        .order_by(Job.id).with_for_update(of=Job, key_share=True)
    )
    return list(rows)


def cancel_unneeded(session: Session, job_ids: Sequence[str], at: datetime) -> None:
    """Cancel those of some locked jobs that no job waits for any more.

    A training that runs goes on, as others will want its networks; an evaluation is of use to its parent alone.
    """
    waiter = aliased(Job)
    wanted = sa.exists().where(
        JobDependency.needs_id == Job.id, JobDependency.job_id == waiter.id, waiter.state == State.WAITING
    )
    idle = session.scalars(
        sa.select(Job).where(Job.id.in_(job_ids), _ENDS_UNNEEDED, ~wanted), execution_options=_FRESH
    ).all()
    message = "no job waits for it any more"
    for job in idle:
        reason = {"code": "not_needed", "message": message}
        if job.state != State.RUNNING:
            _move(session, job, at, State.CANCELLED, message, finished_at=at, reason=reason, content_key=None)
        else:
            _move(session, job, at, State.CANCELLING, message, reason=reason, content_key=None)


def unneeded_evaluations(session: Session) -> Sequence[tuple[str, str]]:
    """Tenant and id of evaluations that go on although their parent is over."""
    parent = aliased(Job)
    rows = session.execute(
        sa.select(Job.tenant_id, Job.id)
        .join(parent, parent.id == Job.parent_id)
        .where(
            Job.kind == "evaluation", Job.state.in_([State.QUEUED, State.WAITING, State.RUNNING]),
            parent.state.in_([state for state in State if state.terminal]),
        )
        .order_by(Job.id)
    )
    return [(tenant, job_id) for tenant, job_id in rows]


def waiting_for(session: Session, tenant_id: str, job_ids: Sequence[str]) -> dict[str, list[str]]:
    """The jobs that each of some waiting jobs still waits for, by its id."""
    waiter = aliased(Job)
    rows = session.execute(
        sa.select(JobDependency.job_id, JobDependency.needs_id)
        .join(waiter, waiter.id == JobDependency.job_id)
        .join(Job, Job.id == JobDependency.needs_id)
        .where(
            waiter.tenant_id == tenant_id, waiter.id.in_(job_ids), waiter.state == State.WAITING,
            Job.state.not_in([state for state in State if state.terminal]),
        )
        .order_by(JobDependency.job_id, JobDependency.needs_id)
    )
    found: dict[str, list[str]] = {}
    for job_id, needs_id in rows:
        found.setdefault(job_id, []).append(needs_id)
    return found


def _needed(session: Session, job_id: str) -> Sequence[Job]:
    return session.scalars(
        sa.select(Job).join(JobDependency, JobDependency.needs_id == Job.id)
        .where(JobDependency.job_id == job_id).order_by(Job.id),
        execution_options=_FRESH,
    ).all()


def _how_it_ended(job: Job) -> str:
    if job.state == State.CANCELLED or job.error is None:
        return f"was {job.state}"
    return f"failed: {job.error['message']} ({job.error['code']})"


def _move(session: Session, job: Job, at: datetime, state: State, message: str, **values: Any) -> None:
    """Change the state of a job that is locked."""
    moved = session.scalar(
        sa.update(Job).where(Job.id == job.id, Job.state == job.state)
        .values(state=state, version=Job.version + 1, **values).returning(Job),
        execution_options=_FRESH,
    )
    assert moved is not None, f"{job.id} was not locked"
    reason = values.get("reason") or {}
    data = {"code": reason["code"]} if "code" in reason else {}
    events.append(session, moved, [events.state_event(state, message, **data)], at)
