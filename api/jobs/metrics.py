"""Curves in short and thinned out, so that a chart of a long job stays small and keeps its spikes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import sqlalchemy as sa
from sqlalchemy.orm import Session

from api.jobs.schemas import Best, MetricSummary, Series
from core.jobs.models import Metric


class Sample(NamedTuple):
    """One point of a series; None where the value was not finite."""

    step: int
    value: float | None
    attempt: int


def summaries(session: Session, tenant: str, job_id: str) -> list[MetricSummary]:
    """Every series of a job, by name."""
    mine = sa.and_(Metric.tenant_id == tenant, Metric.job_id == job_id)
    totals = (
        sa.select(
            Metric.name, sa.func.max(Metric.step).label("step"), sa.func.count().label("points"),
            sa.func.count(Metric.value).label("finite"), sa.func.min(Metric.value).label("low"),
            sa.func.max(Metric.value).label("high"),
        )
        .where(mine).group_by(Metric.name).subquery()
    )
    rows = session.execute(
        sa.select(totals, Metric.value)
        .join(Metric, sa.and_(mine, Metric.name == totals.c.name, Metric.step == totals.c.step))
        .order_by(totals.c.name)
    )
    return [
        MetricSummary(
            name=row.name, last=row.value, step=row.step, best=Best(min=row.low, max=row.high), count=row.points,
            diverged=row.finite < row.points,
        )
        for row in rows
    ]


def series(session: Session, tenant: str, job_id: str, name: str, after_step: int, max_points: int) -> Series:
    """One curve with at most `max_points` points."""
    rows = session.execute(
        sa.select(Metric.step, Metric.value, Metric.attempt)
        .where(Metric.tenant_id == tenant, Metric.job_id == job_id, Metric.name == name, Metric.step > after_step)
        .order_by(Metric.step)
    )
    samples = [Sample(*row) for row in rows]
    kept = thin(samples, max_points)
    return Series(
        steps=[s.step for s in kept], values=[s.value for s in kept], attempts=[s.attempt for s in kept], count=len(samples)
    )


def thin(samples: Sequence[Sample], max_points: int) -> Sequence[Sample]:
    """Keep at most `max_points` >= 5 points: first, last, and of each stretch its minimum, maximum and a gap if it has one.

    Stretches have equal numbers of points. No value is invented, and order is kept.
    """
    if len(samples) <= max_points:
        return samples
    per_stretch = 3 if any(sample.value is None for sample in samples) else 2
    stretches = (max_points - 2) // per_stretch
    kept = {0, len(samples) - 1}
    for i in range(stretches):
        here = range(len(samples) * i // stretches, len(samples) * (i + 1) // stretches)
        values = [(value, j) for j in here if (value := samples[j].value) is not None]
        if values:
            kept |= {min(values)[1], max(values)[1]}
        if len(values) < len(here):
            kept.add(next(j for j in here if samples[j].value is None))
    return [samples[j] for j in sorted(kept)]
