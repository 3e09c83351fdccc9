"""Workers as rows: who serves which queues, and when each was last seen."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import sqlalchemy as sa
from sqlalchemy.orm import Session

from core.jobs.database import now
from core.jobs.models import DEFAULT_TENANT, Worker

WorkerState = Literal["idle", "busy", "draining", "stopped"]


def register(session: Session, boot_id: str, host: str, pid: int, queues: str) -> None:
    """Insert the row of a worker that has just started."""
    at = now(session)
    session.add(
        Worker(
            boot_id=boot_id, tenant_id=DEFAULT_TENANT, host=host, pid=pid, queues=queues, state="idle",
            started_at=at, seen_at=at,
        )
    )


def beat(session: Session, boot_id: str, state: WorkerState, job_id: str | None) -> None:
    """Note that a worker is alive and what it does."""
    session.execute(
        sa.update(Worker).where(Worker.boot_id == boot_id).values(seen_at=now(session), state=state, job_id=job_id)
    )


def listed(session: Session) -> Sequence[Worker]:
    """Every worker known, newest first."""
    return session.scalars(sa.select(Worker).order_by(Worker.started_at.desc())).all()
