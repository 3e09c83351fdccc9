"""Appending events with a gap-free sequence per job.

A table-wide counter is no safe cursor: two transactions may commit in the other order than their numbers. The number comes
from the job row, inside the transaction that inserts the event, so it becomes visible in order.
"""

from __future__ import annotations

from datetime import datetime
from typing import Any, NamedTuple

import sqlalchemy as sa
from sqlalchemy.orm import Session

from core.jobs.models import Event, Job


class NewEvent(NamedTuple):
    """An event to be appended. Types: `job.state`, `job.progress`, `attempt.started`, `attempt.ended`, `checkpoint`,
    `artifact`, `warning`.
    """

    type: str
    message: str
    data: dict[str, Any] = {}
    level: str = "info"


def append(session: Session, job: Job, events: list[NewEvent], at: datetime) -> None:
    """Append events to a job whose row this transaction has written or locked.

    `job.tenant_id` and `job.attempt` are copied; `job.event_seq` is advanced in the database.
    """
    if not events:
        return
    last = session.scalar(
        sa.update(Job).where(Job.id == job.id).values(event_seq=Job.event_seq + len(events)).returning(Job.event_seq),
        execution_options={"synchronize_session": False},
    )
    assert last is not None
    first = last - len(events) + 1
    session.execute(
        sa.insert(Event),
        [
            {
                "job_id": job.id, "seq": first + i, "tenant_id": job.tenant_id, "type": new.type, "level": new.level,
                "attempt": job.attempt, "message": new.message, "data": new.data, "created_at": at,
            }
            for i, new in enumerate(events)
        ],
    )


def state_event(state: str, message: str = "", **data: Any) -> NewEvent:
    """The event of a state change."""
    return NewEvent("job.state", message or f"the job is {state}", {"state": state, **data})
