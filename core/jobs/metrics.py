"""Points of series: a step that a later attempt repeats replaces the earlier point."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from sqlalchemy.orm import Session

from core.jobs.database import insert_into
from core.jobs.models import Job, Metric


class MetricPoint(NamedTuple):
    """A point of a series; None stands for a number that was not finite."""

    name: str
    step: int
    value: float | None


def put_metrics(session: Session, job: Job, points: Sequence[MetricPoint]) -> None:
    """Insert or replace points of a job, under its current attempt."""
    if not points:
        return
    rows = {
        (p.name, p.step): {
            "job_id": job.id, "name": p.name, "step": p.step, "value": p.value,
            "tenant_id": job.tenant_id, "attempt": job.attempt,
        }
        for p in points
    }
    insert = insert_into(session, Metric)
    session.execute(
        insert.on_conflict_do_update(
            index_elements=["job_id", "name", "step"],
            set_={"value": insert.excluded.value, "attempt": insert.excluded.attempt},
        ),
        list(rows.values()),
    )
