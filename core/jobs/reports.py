"""What an attempt reports while it runs: progress, metrics, events, checkpoints. Every statement carries the fence."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import sqlalchemy as sa
from sqlalchemy.orm import Session

from core.jobs import events
from core.jobs.database import now
from core.jobs.events import NewEvent
from core.jobs.leases import Lease, StoredFile, fence, owned, update
from core.jobs.metrics import MetricPoint, put_metrics
from core.jobs.models import Attempt, Checkpoint
from core.jobs.states import LEASED


def report(
    session: Session,
    lease: Lease,
    *,
    progress: Mapping[str, Any] | None = None,
    metrics: Sequence[MetricPoint] = (),
    new_events: Sequence[NewEvent] = (),
) -> None:
    """Fold progress into the row and append metrics and events.

    Raises:
        LostLeaseError: the lease is gone; nothing is written.
    """
    at = now(session)
    values = {} if progress is None else {"progress": {**progress, "updated_at": at.isoformat()}}
    job = owned(update(session, fence(lease, *LEASED), **values), lease)
    put_metrics(session, job, metrics)
    events.append(session, job, list(new_events), at)


def add_log(session: Session, lease: Lease, key: str, size_bytes: int) -> None:
    """Register the log of an attempt whose bytes are durable.

    Raises:
        LostLeaseError: the lease is gone.
    """
    owned(update(session, fence(lease, *LEASED)), lease)
    session.execute(
        sa.update(Attempt)
        .where(Attempt.job_id == lease.job_id, Attempt.number == lease.attempt)
        .values(log_key=key, log_bytes=size_bytes)
    )


def add_checkpoint(
    session: Session, lease: Lease, step: int, file: StoredFile, metrics: Sequence[MetricPoint] = ()
) -> list[str]:
    """Register a checkpoint whose bytes are durable.

    Args:
        session: the caller's transaction.
        lease: the attempt's.
        step: iteration, in the child's own count.
        file: where the bytes lie.
        metrics: points from before the checkpoint that may not be written yet: who goes on from here does not repeat them.

    Returns:
        Store keys of the checkpoints it replaces, to be deleted after the commit.

    Raises:
        LostLeaseError: the lease is gone.
    """
    at = now(session)
    job = owned(update(session, fence(lease, *LEASED)), lease)
    put_metrics(session, job, metrics)
    older = session.scalars(
        sa.delete(Checkpoint).where(Checkpoint.job_id == lease.job_id, Checkpoint.key != file.key).returning(Checkpoint.key)
    ).all()
    session.merge(
        Checkpoint(
            job_id=job.id, attempt=lease.attempt, step=step, tenant_id=job.tenant_id, size_bytes=file.size_bytes,
            sha256=file.sha256, key=file.key, created_at=at,
        )
    )
    events.append(session, job, [NewEvent("checkpoint", f"checkpoint at iteration {step}", {"step": step})], at)
    return list(older)
