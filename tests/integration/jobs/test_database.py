"""The data layer itself: numbers that are not JSON, and many writers at once."""

from __future__ import annotations

import threading
import time

import pytest
import sqlalchemy as sa
from sqlalchemy.exc import StatementError

from core.errors import DatabaseUnavailableError
from core.jobs import reports
from core.jobs.database import Database
from core.jobs.models import Job
from tests.fixtures import jobs


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_number_that_is_not_finite_is_refused_and_nothing_is_kept(database: Database, value: float) -> None:
    lease = jobs.claim(database, jobs.create(database).id).lease
    with pytest.raises((StatementError, ValueError), match="JSON compliant"), database.write() as session:
        reports.report(session, lease, progress={"fraction": value})
    assert jobs.get(database, lease.job_id).progress is None


def test_a_server_that_takes_no_writes_counts_as_away(postgres_url: str) -> None:
    """As a standby does in a fail-over; SQLite has none."""
    database = Database(postgres_url)
    job = jobs.create(database)

    def change() -> None:
        with database.write() as session:
            session.execute(sa.text("SET TRANSACTION READ ONLY"))
            session.execute(sa.update(Job).where(Job.id == job.id).values(version=7))

    with pytest.raises(DatabaseUnavailableError, match="takes no writes"):
        change()
    database.dispose()


def test_no_writer_of_many_starves(database: Database) -> None:
    """SQLite's own waiting is a poll that let some of fifty writers wait for seconds, up to its time-out."""
    longest: list[float] = []

    def write() -> None:
        for _ in range(8):
            started = time.monotonic()
            jobs.create(database)
            longest.append(time.monotonic() - started)

    writers = [threading.Thread(target=write) for _ in range(30)]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
    with database.read() as session:
        assert session.scalar(sa.select(sa.func.count()).select_from(Job)) == 240
    assert len(longest) == 240
    assert max(longest) < 4.0
