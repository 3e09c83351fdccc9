"""Workers as rows: who serves which queues on which devices, when each was last seen, and what an operator wants of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from typing import Literal, TypedDict, cast

import sqlalchemy as sa
from sqlalchemy.orm import Session

from core.jobs.database import now
from core.jobs.models import DEFAULT_TENANT, Worker

WorkerState = Literal["idle", "busy", "draining", "quarantined", "stopped"]
ShownState = WorkerState | Literal["lost"]


class Device(TypedDict):
    """A GPU, as its driver describes it."""

    uuid: str
    name: str
    memory_bytes: int
    driver: str


def register(
    session: Session,
    boot_id: str,
    host: str,
    pid: int,
    queues: str,
    *,
    devices: Sequence[Device] = (),
    software: Mapping[str, str] | None = None,
) -> None:
    """Insert the row of a worker that has just started.

    Args:
        session: the caller's transaction.
        boot_id: drawn anew at each start.
        host: name of the machine.
        pid: process id there.
        queues: comma separated.
        devices: GPUs that are this worker's own; none for a worker on the CPU.
        software: versions by name, for example `{"torch": "2.13.0"}`.
    """
    at = now(session)
    session.add(
        Worker(
            boot_id=boot_id, tenant_id=DEFAULT_TENANT, host=host, pid=pid, queues=queues, state="idle",
            devices=[dict(device) for device in devices], software=dict(software or {}), drain_requested=False,
            started_at=at, seen_at=at,
        )
    )


def beat(session: Session, boot_id: str, state: WorkerState, job_id: str | None) -> bool:
    """Note that a worker is alive and what it does; whether it was asked to drain."""
    wanted = session.scalar(
        sa.update(Worker)
        .where(Worker.boot_id == boot_id)
        .values(seen_at=now(session), state=state, job_id=job_id)
        .returning(Worker.drain_requested)
    )
    return bool(wanted)


def quarantine(session: Session, boot_id: str, reason: str | None) -> None:
    """Note why a worker takes no job (its device failed), or, with None, that it serves again."""
    session.execute(
        sa.update(Worker)
        .where(Worker.boot_id == boot_id)
        .values(
            seen_at=now(session), quarantined_reason=reason,
            state=Worker.state if reason is None else sa.literal("quarantined"),
        )
    )


def request_drain(session: Session, boot_id: str) -> None:
    """Ask a worker to hand its job back and to take no more; it reads this with its next heartbeat."""
    session.execute(sa.update(Worker).where(Worker.boot_id == boot_id).values(drain_requested=True))


def shown_state(worker: Worker, at: datetime, silence_seconds: float) -> ShownState:
    """The state as far as it can be known: a worker that fell silent without a word is `lost`."""
    if worker.state == "stopped":
        return "stopped"
    if at - worker.seen_at > timedelta(seconds=silence_seconds):
        return "lost"
    if worker.quarantined_reason is not None:
        return "quarantined"
    return cast(WorkerState, worker.state)


def listed(session: Session) -> Sequence[Worker]:
    """Every worker known, newest first."""
    return session.scalars(sa.select(Worker).order_by(Worker.started_at.desc())).all()
