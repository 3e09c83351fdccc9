"""Totals: what is counted of attempts and jobs, and that no sweep lowers a number."""

from __future__ import annotations

import threading
from datetime import timedelta

import pytest
import sqlalchemy as sa

from core.jobs import deletion, leases, recovery, sweeping, totals
from core.jobs.database import Database, now
from core.jobs.models import DEFAULT_TENANT, Attempt, Event, Job
from core.jobs.repository import Jobs
from tests.fixtures import jobs

pytestmark = pytest.mark.integration


def read(database: Database) -> totals.Totals:
    with database.read() as session:
        return totals.read(session)


def finish(database: Database, job_id: str, error: str = "") -> None:
    """One attempt that succeeds, or fails for good."""
    lease = jobs.claim(database, job_id).lease
    with database.write() as session:
        if error:
            leases.fail(session, lease, {"code": error, "message": "m"}, retry_after_seconds=None)
        else:
            leases.succeed(session, lease, {}, [], [])


def remove(database: Database, job_id: str) -> None:
    """Delete a job that is over, and collect it, tombstone included."""
    with database.write() as session:
        deletion.delete(session, Jobs(session, DEFAULT_TENANT).locked(job_id), now(session))
    with database.write() as session:
        sweeping.forget_contents(session, job_id)
    with database.write() as session:
        sweeping.forget_tombstones(session, 0.0)


@pytest.fixture
def history(database: Database) -> list[str]:
    """Two jobs that succeed, one that loses its worker first, one that fails, one cancelled before it starts, one queued."""
    made = [jobs.create(database).id for _ in range(5)] + [jobs.create_probe(database).id]
    lost = jobs.claim(database, made[1]).lease
    with database.write() as session:
        session.execute(sa.update(Job).where(Job.id == made[1]).values(lease_until=now(session) - timedelta(seconds=60)))
    with database.write() as session:
        assert recovery.reap(session, lost, 0.0, 1.0) == "queued"
    finish(database, made[0])
    finish(database, made[1])
    finish(database, made[2], "non_finite_loss")
    with database.write() as session:
        Jobs(session, DEFAULT_TENANT).cancel(made[3], "")
        for index, (waited, ran) in enumerate([(10, 100), (20, 200), (40, 400)]):
            row = session.get_one(Job, made[index])
            assert row.finished_at is not None
            row.started_at = row.finished_at - timedelta(seconds=ran)
            row.created_at = row.started_at - timedelta(seconds=waited)
    return made


EXPECTED = {
    ("attempts", ("succeeded",)): 2, ("attempts", ("failed",)): 2, ("leases_expired", ()): 1,
    ("jobs_finished", ("dm", "succeeded", "")): 2, ("jobs_finished", ("dm", "failed", "non_finite_loss")): 1,
    ("jobs_finished", ("dm", "cancelled", "")): 1, ("jobs_started", ("dm",)): 3,
    ("job_queue_seconds", ("dm",)): 70, ("job_run_seconds", ("dm",)): 700,
}


def test_attempts_and_jobs_that_are_over_are_added_up(database: Database, history: list[str]) -> None:
    assert read(database) == EXPECTED
    assert {name for name, _ in EXPECTED} | {"fence_rejections"} == set(totals.LABELS)
    assert all(len(labels) == len(totals.LABELS[name]) for name, labels in EXPECTED)
    finish(database, history[-1])
    assert read(database)["jobs_finished", ("probe", "succeeded", "")] == 1


def test_an_attempt_that_was_fenced_off_is_counted(database: Database) -> None:
    for op in ("renew", "commit", "commit"):
        with database.write() as session:
            totals.count_fence_rejection(session, op)
    assert read(database) == {("fence_rejections", ("renew",)): 1, ("fence_rejections", ("commit",)): 2}


def test_removed_rows_go_on_counting(database: Database, history: list[str]) -> None:
    for job_id in history[:4]:
        remove(database, job_id)
        remaining = read(database)
        assert {key: round(value, 3) for key, value in remaining.items()} == EXPECTED
    with database.read() as session:
        assert session.scalar(sa.select(sa.func.count()).select_from(Attempt)) == 0
        assert set(session.scalars(sa.select(Job.id))) == set(history[4:])
        assert set(session.scalars(sa.select(Event.job_id))) == set(history[4:])


def test_no_total_falls_while_others_sweep(database: Database) -> None:
    made = [jobs.create_probe(database).id for _ in range(12)]
    for job_id in made:
        finish(database, job_id)
    done = threading.Event()
    errors: list[BaseException] = []

    def sweep() -> None:
        try:
            for job_id in made:
                with database.write() as session:
                    row = Jobs(session, DEFAULT_TENANT).locked(job_id) if session.get(Job, job_id) is not None else None
                    if row is not None and row.deleted_at is None:
                        deletion.delete(session, row, now(session))
                with database.write() as session:
                    sweeping.forget_contents(session, job_id)
                with database.write() as session:
                    sweeping.forget_tombstones(session, 0.0)
        except BaseException as error:
            errors.append(error)
        finally:
            done.set()

    thread = threading.Thread(target=sweep)
    thread.start()
    looks = 0
    while not done.is_set() or looks == 0:
        found = read(database)
        assert found["attempts", ("succeeded",)] == found["jobs_finished", ("probe", "succeeded", "")] == len(made)
        looks += 1
    thread.join(60)
    assert errors == []
    with database.read() as session:
        assert session.scalar(sa.select(sa.func.count()).select_from(Job)) == 0


def test_two_that_sweep_at_once_keep_each_share_once(database: Database) -> None:
    job_id = jobs.create_probe(database).id
    finish(database, job_id)
    with database.write() as session:
        deletion.delete(session, Jobs(session, DEFAULT_TENANT).locked(job_id), now(session))

    def collect() -> None:
        with database.write() as session:
            sweeping.forget_contents(session, job_id)
        with database.write() as session:
            sweeping.forget_tombstones(session, 0.0)

    threads = [threading.Thread(target=collect) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert read(database)["attempts", ("succeeded",)] == read(database)["jobs_finished", ("probe", "succeeded", "")] == 1
