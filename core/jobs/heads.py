"""How far the event sequences of many jobs are, and what was added to them: a statement for many jobs, not one for each."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import sqlalchemy as sa
from sqlalchemy.orm import Session

from core.jobs.models import Event, Job
from core.jobs.states import State

JOBS_PER_STATEMENT = 500


class Head(NamedTuple):
    """Where the events of a job end for now."""

    tenant_id: str
    seq: int
    over: bool
    """Whether nothing will follow."""


def heads(session: Session, job_ids: Sequence[str]) -> dict[str, Head]:
    """The heads of those of some jobs that exist and are not deleted, by id."""
    found: dict[str, Head] = {}
    for at in range(0, len(job_ids), JOBS_PER_STATEMENT):
        rows = session.execute(
            sa.select(Job.id, Job.tenant_id, Job.event_seq, Job.state)
            .where(Job.id.in_(job_ids[at : at + JOBS_PER_STATEMENT]), Job.deleted_at.is_(None))
        )
        found |= {job_id: Head(tenant_id, seq, State(state).terminal) for job_id, tenant_id, seq, state in rows}
    return found


def added(session: Session, spans: Mapping[str, tuple[int, int]]) -> dict[str, list[Event]]:
    """The events of some jobs, each after its first and up to its second number, ascending."""
    found: dict[str, list[Event]] = {job_id: [] for job_id in spans}
    items = list(spans.items())
    for at in range(0, len(items), JOBS_PER_STATEMENT // 5):
        wanted = [
            sa.and_(Event.job_id == job_id, Event.seq > after, Event.seq <= last)
            for job_id, (after, last) in items[at : at + JOBS_PER_STATEMENT // 5]
        ]
        for event in session.scalars(sa.select(Event).where(sa.or_(*wanted)).order_by(Event.job_id, Event.seq)):
            found[event.job_id].append(event)
    return found
