"""Totals since the service exists, for Prometheus: what the rows of today say, and what was kept of rows that are gone.

Counting costs nothing while jobs run: attempts and jobs that are over are added up when somebody asks. Whoever removes such
rows keeps their share in the same transaction (`keep_*`), so that no total ever falls.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from datetime import datetime
from typing import Any

import sqlalchemy as sa
from sqlalchemy.orm import Session

from core.jobs.database import insert_into
from core.jobs.models import DEFAULT_TENANT, Attempt, Job, Total
from core.jobs.recovery import WORKER_LOST
from core.jobs.states import State

Totals = dict[tuple[str, tuple[str, ...]], float]
"""Numbers by name and the values of its labels; what is not there is 0."""

LABELS: dict[str, tuple[str, ...]] = {
    "attempts": ("outcome",),
    "leases_expired": (),
    "jobs_finished": ("method", "outcome", "code"),
    "jobs_started": ("method",),
    "job_queue_seconds": ("method",),
    "job_run_seconds": ("method",),
    "fence_rejections": ("op",),
}
"""The labels of every total. The seconds are sums over the jobs that are over and were started; `method`
is a job's recipe, or its kind where it has none."""

FENCED_OPS = ("renew", "commit", "settle")
"""What an attempt may be about when it finds itself fenced off."""

_METHOD = sa.func.coalesce(sa.func.nullif(Job.recipe, ""), Job.kind)
_OVER = Job.state.in_([state for state in State if state.terminal])


def read(session: Session) -> Totals:
    """Every total of this moment, over all tenants. To be the first statement of its transaction: a row that is removed
    between two looks must not be missed by both, so all of them see one snapshot, as in SQLite they always do.
    """
    if session.get_bind().dialect.name == "postgresql":
        session.connection(execution_options={"isolation_level": "REPEATABLE READ"})
    totals: Totals = {}
    for name, labels, value in session.execute(sa.select(Total.name, Total.labels, Total.value)):
        _merge(totals, {(name, tuple(json.loads(labels))): value})
    code = Attempt.error["code"].as_string()
    for outcome, error, count in session.execute(
        sa.select(Attempt.outcome, code, sa.func.count()).where(Attempt.outcome.is_not(None)).group_by(Attempt.outcome, code)
    ):
        _merge(totals, _of_attempts(outcome, error, count))
    code = Job.error["code"].as_string()
    waited = sa.func.sum(_seconds(session, Job.started_at) - _seconds(session, Job.created_at))
    ran = sa.func.sum(_seconds(session, Job.finished_at) - _seconds(session, Job.started_at))
    for method, state, error, *numbers in session.execute(
        sa.select(_METHOD, Job.state, code, sa.func.count(), sa.func.count(Job.started_at), waited, ran)
        .where(_OVER).group_by(_METHOD, Job.state, code)
    ):
        _merge(totals, _of_jobs(method, state, error, *(float(number or 0.0) for number in numbers)))
    return totals


def keep_attempts(session: Session, removed: Iterable[tuple[str | None, dict[str, Any] | None]]) -> None:
    """Keep the share of attempts that this transaction has removed, each given by its outcome and error."""
    totals: Totals = {}
    for outcome, error in removed:
        if outcome is not None:
            _merge(totals, _of_attempts(outcome, _code(error), 1))
    _add(session, totals)


def keep_jobs(
    session: Session,
    removed: Iterable[tuple[str, str, str, dict[str, Any] | None, datetime, datetime | None, datetime]],
) -> None:
    """Keep the share of finished jobs that this transaction has removed.

    Each is given by its recipe, kind, state and error, and by the times of its creation, its first start and its end.
    """
    totals: Totals = {}
    for recipe, kind, state, error, created_at, started_at, finished_at in removed:
        created, started, finished = (0 if at is None else int(at.timestamp()) for at in (created_at, started_at, finished_at))
        waited, ran = (started - created, finished - started) if started_at is not None else (0, 0)
        _merge(totals, _of_jobs(recipe or kind, state, _code(error), 1, started_at is not None, waited, ran))
    _add(session, totals)


def count_fence_rejection(session: Session, op: str) -> None:
    """Count an attempt that found itself fenced off: when it wanted to `renew`, to `commit`, or to `settle` otherwise."""
    _add(session, {("fence_rejections", (op,)): 1})


def _seconds(session: Session, column: Any) -> Any:
    """Whole seconds of a time: sums of whole numbers are exact, so that rows and what is kept of them add up to the same."""
    seconds = sa.extract("epoch", column)
    return sa.func.floor(seconds) if session.get_bind().dialect.name == "postgresql" else seconds  # SQLite cuts by itself


def _code(error: Mapping[str, Any] | None) -> str | None:
    return None if error is None else str(error["code"])


def _merge(totals: Totals, more: Totals) -> None:
    for key, value in more.items():
        totals[key] = totals.get(key, 0.0) + value


def _of_attempts(outcome: str, error: str | None, count: float) -> Totals:
    totals: Totals = {("attempts", (outcome,)): count}
    if error == WORKER_LOST["code"]:
        totals["leases_expired", ()] = count
    return totals


def _of_jobs(
    method: str, state: str, error: str | None, count: float, started: float, waited: float, ran: float
) -> Totals:
    code = error if state == State.FAILED and error is not None else ""
    return {
        ("jobs_finished", (method, state, code)): count, ("jobs_started", (method,)): started,
        ("job_queue_seconds", (method,)): waited, ("job_run_seconds", (method,)): ran,
    }


def _add(session: Session, totals: Totals) -> None:
    """Add to the kept totals, in one order, so that no two transactions wait for each other."""
    for (name, labels), value in sorted(totals.items()):
        insert = insert_into(session, Total).values(
            name=name, labels=json.dumps(labels), tenant_id=DEFAULT_TENANT, value=float(value)
        )
        session.execute(
            insert.on_conflict_do_update(
                index_elements=["name", "labels"], set_={"value": Total.value + insert.excluded.value}
            )
        )
