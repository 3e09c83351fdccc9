"""What the reconciler repairs, on both databases."""

from __future__ import annotations

from datetime import timedelta

import pytest
import sqlalchemy as sa

from core.jobs import leases, recovery
from core.jobs.database import Database, now
from core.jobs.models import DEFAULT_TENANT, Job
from core.jobs.repository import Jobs
from core.jobs.states import State
from tests.fixtures import jobs


class TestReap:
    def test_a_live_lease_is_left_alone(self, database: Database) -> None:
        job = jobs.create(database)
        lease = jobs.claim(database, job.id).lease
        with database.write() as session:
            assert recovery.expired(session, 0.0) == []
            assert recovery.reap(session, lease, 0.0, 30.0) is None

    def test_an_expired_lease_goes_back_to_the_queue_once(self, database: Database) -> None:
        job = jobs.create(database)
        jobs.claim(database, job.id, lease_seconds=-5.0)
        with database.read() as session:
            (lease,) = recovery.expired(session, 1.0)
        with database.write() as session:
            assert recovery.reap(session, lease, 1.0, 30.0) == State.QUEUED
        with database.write() as session:
            assert recovery.reap(session, lease, 1.0, 30.0) is None
        row = jobs.get(database, job.id)
        assert (row.state, row.failures) == (State.QUEUED, 1)
        with database.read() as session:
            assert [w.job_id for w in recovery.unsent(session, 30.0, 600.0)] == [job.id]

    def test_grace_is_kept(self, database: Database) -> None:
        job = jobs.create(database)
        jobs.claim(database, job.id, lease_seconds=-5.0)
        with database.read() as session:
            assert recovery.expired(session, 60.0) == []

    def test_a_second_loss_waits(self, database: Database) -> None:
        job = jobs.create(database)
        for _ in range(2):
            lease = jobs.claim(database, job.id, lease_seconds=-5.0).lease
            with database.write() as session:
                assert recovery.reap(session, lease, 0.0, 30.0) == State.QUEUED
        with database.read() as session:
            assert recovery.unsent(session, 30.0, 600.0) == []

    def test_a_cancelling_job_becomes_cancelled_and_never_queued(self, database: Database) -> None:
        job = jobs.create(database)
        lease = jobs.claim(database, job.id, lease_seconds=-5.0).lease
        with database.write() as session:
            Jobs(session, DEFAULT_TENANT).cancel(job.id, "")
        with database.write() as session:
            assert recovery.reap(session, lease, 0.0, 30.0) == State.CANCELLED

    def test_a_poisonous_job_fails_in_the_end(self, database: Database) -> None:
        job = jobs.create(database, max_attempts=1)
        lease = jobs.claim(database, job.id, lease_seconds=-5.0).lease
        with database.write() as session:
            assert recovery.reap(session, lease, 0.0, 30.0) == State.FAILED


class TestUnsent:
    def test_a_row_never_sent_is_due_at_once_and_a_sent_one_later(self, database: Database) -> None:
        job = jobs.create(database)
        with database.read() as session:
            (row,) = recovery.unsent(session, 30.0, 600.0)
        assert (row.job_id, row.queue, row.priority, row.ever_sent) == (job.id, "cpu", "normal", False)
        with database.write() as session:
            recovery.mark_sent(session, job.id, 0)
        with database.read() as session:
            assert recovery.unsent(session, 30.0, 600.0) == []
            assert [w.ever_sent for w in recovery.unsent(session, -1.0, 600.0)] == [True]

    def test_a_late_note_does_not_hide_a_row_that_was_queued_again(self, database: Database) -> None:
        job = jobs.create(database)
        lease = jobs.claim(database, job.id).lease
        with database.write() as session:
            leases.give_back(session, lease, "drain")
        with database.write() as session:
            recovery.mark_sent(session, job.id, 0)  # of the message that led to the attempt which is over
        with database.read() as session:
            assert [(row.attempt, row.ever_sent) for row in recovery.unsent(session, 30.0, 600.0)] == [(1, False)]

    def test_both_waits_double_and_the_longer_one_asks_no_broker(self, database: Database) -> None:
        job = jobs.create(database)
        for sent, age, expected in (
            (1, 29, None), (1, 31, False), (1, 599, False), (1, 601, True), (2, 59, None), (2, 61, False), (2, 1199, False),
            (2, 1201, True), (50, 8 * 30 - 1, None), (50, 8 * 30 + 1, False), (50, 8 * 600 + 1, True),
        ):
            with database.write() as session:
                at = now(session) - timedelta(seconds=age)
                session.execute(sa.update(Job).where(Job.id == job.id).values(sent_at=at, send_count=sent))
                found = [row.overdue for row in recovery.unsent(session, 30.0, 600.0)]
            assert found == ([] if expected is None else [expected]), (sent, age)

    def test_running_jobs_are_not_sent(self, database: Database) -> None:
        job = jobs.create(database)
        jobs.claim(database, job.id)
        with database.read() as session:
            assert recovery.unsent(session, -1.0, 600.0) == []

    @pytest.mark.parametrize(("failures", "low", "high"), [(0, 30, 33), (1, 60, 66), (3, 240, 264), (40, 3600, 3960)])
    def test_backoff_doubles_up_to_an_hour(self, failures: int, low: float, high: float) -> None:
        assert low <= recovery.backoff(30.0, failures) <= high


def test_a_worker_that_gives_back_starts_the_clock_anew(database: Database) -> None:
    job = jobs.create(database)
    with database.write() as session:
        recovery.mark_sent(session, job.id, 0)
    lease = jobs.claim(database, job.id).lease
    with database.write() as session:
        leases.give_back(session, lease, "drain")
    with database.read() as session:
        assert [w.ever_sent for w in recovery.unsent(session, 30.0, 600.0)] == [False]
