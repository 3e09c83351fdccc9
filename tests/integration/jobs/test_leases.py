"""The lease protocol on both databases: fences, cancel against commit, retries, metrics of a resumed job."""

from __future__ import annotations

import contextlib
import threading

import pytest
import sqlalchemy as sa

from core.errors import JobAlreadyTerminalError
from core.jobs import leases, reports, sweeping
from core.jobs.database import Database
from core.jobs.events import NewEvent
from core.jobs.leases import Lease, LostLeaseError, StoredFile
from core.jobs.metrics import MetricPoint
from core.jobs.models import DEFAULT_TENANT, Artifact, Metric
from core.jobs.repository import Jobs
from core.jobs.states import State
from tests.fixtures import jobs

FILE = StoredFile("dataset", "data.safetensors", "application/octet-stream", 10, "ab" * 32, "jobs/x/data.safetensors")
ERROR = {"code": "worker_lost", "message": "gone", "retryable": True, "attempt": 1, "detail": {}}


def checkpoint(step: int) -> StoredFile:
    return StoredFile("checkpoint", f"{step}", "application/octet-stream", 5, "cd" * 32, f"jobs/x/{step}")


class TestClaim:
    def test_only_one_of_many_claims_wins(self, database: Database) -> None:
        job = jobs.create(database)
        won: list[str] = []

        def try_claim(name: str) -> None:
            with database.write() as session:
                if leases.claim(session, job.id, name, 60.0) is not None:
                    won.append(name)

        threads = [threading.Thread(target=try_claim, args=(f"wkr_{i}",)) for i in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(won) == 1
        row = jobs.get(database, job.id)
        assert (row.state, row.attempt, row.boot_id) == (State.RUNNING, 1, won[0])

    def test_a_cancelled_job_cannot_be_claimed(self, database: Database) -> None:
        job = jobs.create(database)
        with database.write() as session:
            assert Jobs(session, DEFAULT_TENANT).cancel(job.id, "").state == State.CANCELLED
        with database.write() as session:
            assert leases.claim(session, job.id, "wkr_a", 60.0) is None

    def test_a_job_waiting_for_its_retry_is_not_due(self, database: Database) -> None:
        job = jobs.create(database)
        lease = jobs.claim(database, job.id).lease
        with database.write() as session:
            assert leases.fail(session, lease, ERROR, retry_after_seconds=3600.0) == State.QUEUED
        with database.write() as session:
            assert leases.claim(session, job.id, "wkr_b", 60.0) is None


class TestFence:
    def test_a_former_owner_changes_nothing(self, database: Database) -> None:
        job = jobs.create(database)
        old = jobs.claim(database, job.id, "wkr_a").lease
        with database.write() as session:
            leases.fail(session, old, ERROR, retry_after_seconds=0.0)
        new = jobs.claim(database, job.id, "wkr_b").lease
        before = jobs.get(database, job.id)
        for write in (
            lambda s: leases.renew(s, old, 60.0),
            lambda s: reports.report(s, old, progress={"step": 1}),
            lambda s: reports.add_checkpoint(s, old, 5, checkpoint(5)),
            lambda s: leases.succeed(s, old, {}, [FILE], []),
            lambda s: leases.fail(s, old, ERROR, retry_after_seconds=None),
            lambda s: leases.give_back(s, old, "drain"),
        ):
            with pytest.raises(LostLeaseError), database.write() as session:
                write(session)
        after = jobs.get(database, job.id)
        assert (after.version, after.event_seq, after.state) == (before.version, before.event_seq, State.RUNNING)
        with database.write() as session:
            assert leases.renew(session, new, 60.0) == State.RUNNING

    def test_the_same_attempt_number_under_another_boot_id_is_refused(self, database: Database) -> None:
        job = jobs.create(database)
        lease = jobs.claim(database, job.id, "wkr_a").lease
        with pytest.raises(LostLeaseError), database.write() as session:
            leases.renew(session, Lease(job.id, lease.attempt, "wkr_other"), 60.0)


class TestSucceed:
    def test_state_result_and_artifacts_appear_together(self, database: Database) -> None:
        job = jobs.create(database)
        lease = jobs.claim(database, job.id).lease
        with database.write() as session:
            reports.add_checkpoint(session, lease, 7, checkpoint(7))
        with database.write() as session:
            assert sweeping.drop_checkpoints(session, job.id) == [], "the job still needs them"
        with database.write() as session:
            leases.succeed(session, lease, {"summary": {}}, [FILE], [MetricPoint("loss", 1, 0.5)])
        with database.write() as session:
            assert sweeping.drop_checkpoints(session, job.id) == ["jobs/x/7"]
        row = jobs.get(database, job.id)
        with database.read() as session:
            artifacts = Jobs(session, DEFAULT_TENANT).artifacts(job.id)
        assert row.state == State.SUCCEEDED
        assert row.result is not None
        assert row.result["artifacts"] == [artifacts[0].id]
        assert row.finished_at is not None

    def test_a_cancel_that_came_first_wins(self, database: Database) -> None:
        job = jobs.create(database)
        lease = jobs.claim(database, job.id).lease
        with database.write() as session:
            assert Jobs(session, DEFAULT_TENANT).cancel(job.id, "enough").state == State.CANCELLING
        with pytest.raises(LostLeaseError), database.write() as session:
            leases.succeed(session, lease, {}, [FILE], [])
        with database.write() as session:
            leases.cancelled(session, lease)
        with database.read() as session:
            assert session.scalar(sa.select(sa.func.count()).select_from(Artifact)) == 0
        assert jobs.get(database, job.id).state == State.CANCELLED

    def test_a_cancel_that_comes_after_is_refused(self, database: Database) -> None:
        job = jobs.create(database)
        lease = jobs.claim(database, job.id).lease
        with database.write() as session:
            leases.succeed(session, lease, {}, [], [])
        with pytest.raises(JobAlreadyTerminalError), database.write() as session:
            Jobs(session, DEFAULT_TENANT).cancel(job.id, "")

    def test_a_second_commit_of_the_same_attempt_is_refused(self, database: Database) -> None:
        job = jobs.create(database)
        lease = jobs.claim(database, job.id).lease
        with database.write() as session:
            leases.succeed(session, lease, {}, [FILE], [])
        with pytest.raises(LostLeaseError), database.write() as session:
            leases.succeed(session, lease, {}, [FILE], [])


class TestFail:
    def test_retries_until_the_attempts_are_used_up(self, database: Database) -> None:
        job = jobs.create(database, max_attempts=2)
        states = []
        for _ in range(2):
            lease = jobs.claim(database, job.id).lease
            with database.write() as session:
                states.append(leases.fail(session, lease, ERROR, retry_after_seconds=0.0))
        row = jobs.get(database, job.id)
        assert states == [State.QUEUED, State.FAILED]
        assert (row.attempt, row.failures) == (2, 2)
        assert row.error is not None
        assert row.error["code"] == "worker_lost"

    def test_an_error_that_is_not_retryable_fails_at_once(self, database: Database) -> None:
        job = jobs.create(database)
        lease = jobs.claim(database, job.id).lease
        with database.write() as session:
            assert leases.fail(session, lease, ERROR | {"code": "diverged"}, retry_after_seconds=None) == State.FAILED

    def test_giving_back_counts_no_failure(self, database: Database) -> None:
        job = jobs.create(database, max_attempts=1)
        for _ in range(3):
            lease = jobs.claim(database, job.id).lease
            with database.write() as session:
                assert leases.give_back(session, lease, "drain") == State.QUEUED
        row = jobs.get(database, job.id)
        assert (row.attempt, row.failures) == (3, 0)

    def test_a_cancelling_job_ends_cancelled_however_its_child_ended(self, database: Database) -> None:
        for end in (
            lambda s, lease: leases.fail(s, lease, ERROR, retry_after_seconds=0.0),
            lambda s, lease: leases.give_back(s, lease, "drain"),
        ):
            job = jobs.create(database)
            lease = jobs.claim(database, job.id).lease
            with database.write() as session:
                Jobs(session, DEFAULT_TENANT).cancel(job.id, "")
            with database.write() as session:
                assert end(session, lease) == State.CANCELLED


class TestStalled:
    def test_it_is_tried_again_once_however_many_attempts_are_left(self, database: Database) -> None:
        job = jobs.create(database, max_attempts=10)
        stalled = ERROR | {"code": "stalled"}
        for error, expected in ((ERROR, "queued"), (stalled, "queued"), (ERROR, "queued"), (stalled, "failed")):
            lease = jobs.claim(database, job.id).lease
            with database.write() as session:
                assert leases.fail(session, lease, error, retry_after_seconds=0.0) == expected
        row = jobs.get(database, job.id)
        assert (row.failures, row.reason) == (4, {"code": "stalled", "message": "gone"})


class TestCancel:
    def test_a_job_handed_back_at_the_same_moment_is_cancelled_all_the_same(self, database: Database) -> None:
        for _ in range(10):
            job = jobs.create(database)
            lease = jobs.claim(database, job.id).lease
            start = threading.Barrier(2)

            def hand_back(lease: Lease = lease, start: threading.Barrier = start) -> None:
                start.wait()
                with contextlib.suppress(LostLeaseError), database.write() as session:
                    leases.give_back(session, lease, "drain")

            thread = threading.Thread(target=hand_back)
            thread.start()
            start.wait()
            with database.write() as session:
                state = Jobs(session, DEFAULT_TENANT).cancel(job.id, "").state
            thread.join()
            assert state in {State.CANCELLED, State.CANCELLING}
            assert jobs.get(database, job.id).state == State.CANCELLED or state == State.CANCELLING


class TestResume:
    def test_the_newest_checkpoint_is_handed_to_the_next_attempt(self, database: Database) -> None:
        job = jobs.create(database)
        lease = jobs.claim(database, job.id).lease
        with database.write() as session:
            assert reports.add_checkpoint(session, lease, 10, checkpoint(10)) == []
        with database.write() as session:
            assert reports.add_checkpoint(session, lease, 20, checkpoint(20)) == ["jobs/x/10"]
        with database.write() as session:
            leases.give_back(session, lease, "drain")
        claim = jobs.claim(database, job.id)
        assert claim.checkpoint is not None
        assert (claim.checkpoint.step, claim.checkpoint.key) == (20, "jobs/x/20")

    def test_steps_repeated_by_a_later_attempt_replace_the_earlier_ones(self, database: Database) -> None:
        job = jobs.create(database)
        first = jobs.claim(database, job.id).lease
        with database.write() as session:
            reports.report(session, first, metrics=[MetricPoint("loss", step, 1.0) for step in range(5)])
        with database.write() as session:
            leases.give_back(session, first, "drain")
        second = jobs.claim(database, job.id).lease
        with database.write() as session:
            reports.report(session, second, metrics=[MetricPoint("loss", step, 2.0) for step in range(3, 8)])
        with database.read() as session:
            points = session.scalars(sa.select(Metric).order_by(Metric.step)).all()
        assert [(p.step, p.attempt) for p in points] == [(0, 1), (1, 1), (2, 1), *((s, 2) for s in range(3, 8))]


class TestEvents:
    def test_sequence_is_gap_free_under_two_writers(self, database: Database) -> None:
        job = jobs.create(database)
        lease = jobs.claim(database, job.id).lease

        def write(count: int) -> None:
            for i in range(count):
                with database.write() as session:
                    event = NewEvent("warning", f"{i}")
                    reports.report(session, lease, new_events=[event] * (1 + i % 3))

        threads = [threading.Thread(target=write, args=(15,)) for _ in range(2)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert [seq for seq, _ in jobs.event_types(database, job.id)] == list(range(1, 1 + 3 + 60))
