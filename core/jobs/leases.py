"""The lease protocol: claim, renew, end. Every statement carries the fence; what an attempt reports meanwhile is in `reports`.

The fence is (job id, attempt number, boot id). A statement that changes no row means the lease was lost: the caller stops
and throws its work away. Each function runs in the caller's transaction and uses the database's clock.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import timedelta
from typing import Any, NamedTuple

import sqlalchemy as sa
from sqlalchemy.orm import Session

from core.jobs import dependencies, events
from core.jobs.database import now
from core.jobs.events import NewEvent
from core.jobs.ids import new_id
from core.jobs.metrics import MetricPoint, put_metrics
from core.jobs.models import Artifact, Attempt, Checkpoint, Job
from core.jobs.states import LEASED, State
from core.specs.job import ExpertsSpec, NeededSpec

RETRIED_ONCE = frozenset({"stalled"})
"""Error codes that may be chance the first time, and are the job's own fault the second."""


class Lease(NamedTuple):
    """The fence of one attempt."""

    job_id: str
    attempt: int
    boot_id: str


class LostLeaseError(Exception):
    """Another attempt owns the job, or it is over. Not a `DistillError`: it never leaves the worker."""


class StoredFile(NamedTuple):
    """A file whose bytes are durable in the store."""

    kind: str
    name: str
    media_type: str
    size_bytes: int
    sha256: str
    key: str


class Claim(NamedTuple):
    """What a successful claim hands to the supervisor."""

    lease: Lease
    tenant_id: str
    spec: dict[str, Any]
    checkpoint: Checkpoint | None


def fence(lease: Lease, *states: State) -> sa.ColumnElement[bool]:
    """Whether a row is a job that the lease holds, in one of some states."""
    return sa.and_(
        Job.id == lease.job_id, Job.attempt == lease.attempt, Job.boot_id == lease.boot_id, Job.state.in_(states)
    )


def update(session: Session, where: sa.ColumnElement[bool], **values: Any) -> Job | None:
    """Change the one job that matches, and its version; the row as it is then, None when there is none."""
    return session.scalar(
        sa.update(Job).where(where).values(version=Job.version + 1, **values).returning(Job),
        execution_options={"populate_existing": True},
    )


def owned(job: Job | None, lease: Lease) -> Job:
    """The row that a fenced statement changed.

    Raises:
        LostLeaseError: it changed none.
    """
    if job is None:
        raise LostLeaseError(f"attempt {lease.attempt} no longer owns {lease.job_id}")
    return job


def claim(session: Session, job_id: str, boot_id: str, lease_seconds: float) -> Claim | None:
    """Take a queued, due job. None when there is nothing to take: a duplicate, late or early message."""
    at = now(session)
    job = update(
        session,
        sa.and_(Job.id == job_id, Job.state == State.QUEUED, Job.next_run_at <= at),
        state=State.RUNNING, attempt=Job.attempt + 1, boot_id=boot_id, lease_until=at + timedelta(seconds=lease_seconds),
        started_at=sa.func.coalesce(Job.started_at, at), sent_at=None, send_count=0, reason=None,
    )
    if job is None:
        return None
    checkpoint = session.scalar(
        sa.select(Checkpoint)
        .where(Checkpoint.job_id == job_id)
        .order_by(Checkpoint.step.desc(), Checkpoint.attempt.desc())
        .limit(1)
    )
    step = checkpoint.step if checkpoint is not None else 0
    session.add(
        Attempt(
            job_id=job_id, number=job.attempt, tenant_id=job.tenant_id, boot_id=boot_id, started_at=at, resumed_from_step=step
        )
    )
    message = f"attempt {job.attempt} started" + (f" from the checkpoint at iteration {step}" if checkpoint else "")
    started = NewEvent("attempt.started", message, {"resumed_from_step": step, "worker": boot_id})
    events.append(session, job, [started, events.state_event(State.RUNNING)], at)
    return Claim(Lease(job_id, job.attempt, boot_id), job.tenant_id, job.spec, checkpoint)


def renew(session: Session, lease: Lease, lease_seconds: float) -> State:
    """Prolong the lease and return the job's state (`running` or `cancelling`).

    Raises:
        LostLeaseError: the lease is gone.
    """
    until = now(session) + timedelta(seconds=lease_seconds)
    job = session.scalar(
        sa.update(Job).where(fence(lease, *LEASED)).values(lease_until=until).returning(Job),
        execution_options={"populate_existing": True},
    )
    return State(owned(job, lease).state)


def state_of(session: Session, lease: Lease) -> State:
    """Read the state without writing.

    Raises:
        LostLeaseError: the lease is gone.
    """
    state = session.scalar(sa.select(Job.state).where(fence(lease, *LEASED)))
    if state is None:
        raise LostLeaseError(f"attempt {lease.attempt} no longer owns {lease.job_id}")
    return State(state)


def succeed(
    session: Session, lease: Lease, result: dict[str, Any], files: Sequence[StoredFile], metrics: Sequence[MetricPoint]
) -> None:
    """Commit the attempt: state, result, artifacts, metrics and events, all or nothing.

    Raises:
        LostLeaseError: the lease is gone or the job is being cancelled; a cancel that was accepted wins.
    """
    at = now(session)
    job = owned(
        update(
            session, fence(lease, State.RUNNING), state=State.SUCCEEDED, lease_until=None, finished_at=at, error=None,
            progress=None,
        ),
        lease,
    )
    rows = [
        Artifact(
            id=new_id("art"), job_id=job.id, tenant_id=job.tenant_id, attempt=lease.attempt, kind=file.kind, name=file.name,
            media_type=file.media_type, size_bytes=file.size_bytes, sha256=file.sha256, key=file.key, created_at=at,
        )
        for file in files
    ]
    session.add_all(rows)
    session.execute(sa.update(Job).where(Job.id == job.id).values(result={**result, "artifacts": [row.id for row in rows]}))
    put_metrics(session, job, metrics)
    _close_attempt(session, lease, at, "succeeded", None)
    stored = [NewEvent("artifact", f"{row.name} is ready", {"id": row.id, "name": row.name, "kind": row.kind}) for row in rows]
    events.append(session, job, [*stored, events.state_event(State.SUCCEEDED)], at)
    dependencies.ended(session, job, at)


def fail(session: Session, lease: Lease, error: dict[str, Any], *, retry_after_seconds: float | None) -> State:
    """End the attempt badly: queue the job again when `retry_after_seconds` is given and attempts are left, else fail it.

    What `RETRIED_ONCE` names is tried again a single time. Checkpoints of a job that is over stay until they are swept.

    Raises:
        LostLeaseError: the lease is gone.
    """
    at = now(session)
    if _ended_cancelled(session, lease, at):
        return State.CANCELLED
    current = owned(session.scalar(sa.select(Job).where(fence(lease, State.RUNNING))), lease)
    message = f"attempt {lease.attempt} ended with {error['code']}: {error['message']}"
    ended = NewEvent("attempt.ended", message, {"error": error}, "error")
    left = current.failures + 1 < current.max_attempts and not _repeated(session, lease, error["code"])
    if retry_after_seconds is not None and left:
        job = _requeue(session, lease, at, retry_after_seconds, failures=Job.failures + 1, error=error)
        _close_attempt(session, lease, at, "failed", error)
        events.append(session, job, [ended, events.state_event(State.QUEUED, "the job is queued for another attempt")], at)
        return State.QUEUED
    reason = {"code": error["code"], "message": error["message"]}
    job = owned(
        update(
            session, fence(lease, State.RUNNING), state=State.FAILED, lease_until=None, finished_at=at,
            failures=Job.failures + 1, error=error, reason=reason, content_key=None,
        ),
        lease,
    )
    _close_attempt(session, lease, at, "failed", error)
    events.append(session, job, [ended, events.state_event(State.FAILED, error["message"], code=error["code"])], at)
    dependencies.ended(session, job, at)
    return State.FAILED


def _repeated(session: Session, lease: Lease, code: str) -> bool:
    """Whether an attempt has ended before in the way that may be repeated only once."""
    if code not in RETRIED_ONCE:
        return False
    errors = session.scalars(sa.select(Attempt.error).where(Attempt.job_id == lease.job_id, Attempt.number < lease.attempt))
    return any(error is not None and error["code"] == code for error in errors)


def wait(session: Session, lease: Lease, needed: Mapping[str, NeededSpec]) -> State:
    """End the attempt because the job needs what other jobs make, by content key; those that nobody asked for yet are inserted.

    Not counted as a failure.

    Returns:
        `waiting`; `queued` when all that it needs was made meanwhile; `cancelled` when that was asked for.

    Raises:
        LostLeaseError: the lease is gone, or the job is being cancelled since a moment ago; nothing is written.
    """
    at = now(session)
    if _ended_cancelled(session, lease, at):
        return State.CANCELLED
    current = owned(session.scalar(sa.select(Job).where(fence(lease, State.RUNNING))), lease)
    dependencies.require(session, current, needed, at)
    training = any(isinstance(spec, ExpertsSpec) for spec in needed.values())
    message = "the job waits for networks that other jobs train" if training else "the job waits for jobs that evaluate its set"
    job = owned(
        update(
            session, fence(lease, State.RUNNING), state=State.WAITING, lease_until=None, boot_id=None, progress=None,
            reason={"code": "waiting_for_experts" if training else "waiting_for_evaluation", "message": message},
        ),
        lease,
    )
    _close_attempt(session, lease, at, "waiting", None)
    needs = dependencies.waiting_for(session, job.tenant_id, [job.id]).get(job.id, [])
    waiting = events.state_event(State.WAITING, message, waiting_for=needs)
    events.append(session, job, [NewEvent("attempt.ended", message), waiting], at)
    return dependencies.settle(session, job, at)


def give_back(session: Session, lease: Lease, reason: str, *, after_seconds: float = 0.0) -> State:
    """End the attempt through no fault of the job's (drain, store outage): queued again, not counted as a failure.

    Raises:
        LostLeaseError: the lease is gone.
    """
    at = now(session)
    if _ended_cancelled(session, lease, at):
        return State.CANCELLED
    job = _requeue(session, lease, at, after_seconds)
    _close_attempt(session, lease, at, "given_back", None)
    events.append(session, job, [NewEvent("attempt.ended", reason), events.state_event(State.QUEUED, reason)], at)
    return State.QUEUED


def cancelled(session: Session, lease: Lease) -> None:
    """The child of a cancelling job is gone.

    Raises:
        LostLeaseError: the lease is gone.
    """
    if not _ended_cancelled(session, lease, now(session)):
        raise LostLeaseError(f"attempt {lease.attempt} no longer owns {lease.job_id}")


def _ended_cancelled(session: Session, lease: Lease, at: Any) -> bool:
    """End the attempt of a job that is being cancelled, however its child ended; False when it is not."""
    job = update(
        session, fence(lease, State.CANCELLING), state=State.CANCELLED, lease_until=None, finished_at=at, content_key=None
    )
    if job is None:
        return False
    _close_attempt(session, lease, at, "cancelled", None)
    events.append(session, job, [events.state_event(State.CANCELLED)], at)
    dependencies.ended(session, job, at)
    return True


def _requeue(session: Session, lease: Lease, at: Any, after_seconds: float, **values: Any) -> Job:
    return owned(
        update(
            session, fence(lease, State.RUNNING), state=State.QUEUED, lease_until=None, boot_id=None, queued_at=at,
            next_run_at=at + timedelta(seconds=after_seconds), sent_at=None, send_count=0, progress=None, **values,
        ),
        lease,
    )


def _close_attempt(session: Session, lease: Lease, at: Any, outcome: str, error: dict[str, Any] | None) -> None:
    session.execute(
        sa.update(Attempt)
        .where(Attempt.job_id == lease.job_id, Attempt.number == lease.attempt)
        .values(finished_at=at, outcome=outcome, error=error)
    )
