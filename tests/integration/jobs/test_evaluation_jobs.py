"""Jobs that evaluate the set of another job: made once, waited for, and ended with it. On both databases."""

from __future__ import annotations

import pytest
import sqlalchemy as sa

from core.jobs import deletion, dependencies, leases, reports
from core.jobs.database import Database, now
from core.jobs.leases import Lease, StoredFile
from core.jobs.models import DEFAULT_TENANT, Job
from core.jobs.repository import Jobs
from core.jobs.states import State
from core.specs.job import DistillationSpec, EvaluationJobSpec, parse_job_spec
from core.specs.requirements import evaluation_jobs
from tests.fixtures import jobs

pytestmark = pytest.mark.integration

UNITS = ("distilled/0", "distilled/1", "random/0")
SET = StoredFile("checkpoint", "c", "application/octet-stream", 10, "ab" * 32, "jobs/x/c")
DIVERGED = {"code": "diverged", "message": "the loss is not finite", "retryable": False, "attempt": 1, "detail": {}}


def delegate(database: Database, lease: Lease) -> State:
    """What a worker does when the child has left units to others."""
    spec = parse_job_spec(jobs.get(database, lease.job_id).spec)
    assert isinstance(spec, DistillationSpec)
    with database.write() as session:
        return leases.wait(session, lease, evaluation_jobs(lease.job_id, spec, UNITS, "a" * 64, 2))


@pytest.fixture
def parent(database: Database) -> str:
    """A job whose set is finished and whose evaluation is given away."""
    job_id = jobs.create(database, priority="high").id
    lease = jobs.claim(database, job_id).lease
    with database.write() as session:
        reports.add_checkpoint(session, lease, 300, SET)
    assert delegate(database, lease) == State.WAITING
    return job_id


def children(database: Database) -> list[Job]:
    with database.read() as session:
        return list(session.scalars(sa.select(Job).where(Job.kind == "evaluation").order_by(Job.id)))


def succeed(database: Database, job: Job) -> None:
    spec = parse_job_spec(job.spec)
    assert isinstance(spec, EvaluationJobSpec)
    found = {"set_digest": spec.set_digest, "units": dict.fromkeys(spec.units, 0.5), "seconds": 2.0}
    lease = jobs.claim(database, job.id, "wkr_b").lease
    with database.write() as session:
        leases.succeed(session, lease, {"summary": found}, [], [])


def state(database: Database, job_id: str) -> State:
    return State(jobs.get(database, job_id).state)


def test_each_part_is_a_job_and_the_last_one_wakes_the_parent(database: Database, parent: str) -> None:
    first, second = children(database)
    assert {(job.parent_id, job.priority, job.state) for job in (first, second)} == {(parent, "high", "queued")}
    assert sorted(unit for job in (first, second) for unit in job.spec["units"]) == sorted(UNITS)
    reason = jobs.get(database, parent).reason
    assert reason is not None
    assert reason["code"] == "waiting_for_evaluation"
    with database.read() as session:
        checkpoint = dependencies.checkpoint_of_parent(session, first.id)
        assert checkpoint is not None
        assert (checkpoint.key, checkpoint.step) == (SET.key, 300)
    succeed(database, first)
    assert state(database, parent) == State.WAITING
    succeed(database, second)
    assert state(database, parent) == State.QUEUED
    with database.read() as session:
        found = dependencies.evaluated(session, parent)
    assert {unit for part in found for unit in part.units} == set(UNITS)
    assert jobs.get(database, parent).failures == 0


def test_a_later_attempt_that_asks_again_shares_the_jobs(database: Database, parent: str) -> None:
    for job in children(database):
        succeed(database, job)
    assert delegate(database, jobs.claim(database, parent).lease) == State.QUEUED
    assert len(children(database)) == 2


def test_another_job_of_the_same_specification_has_jobs_of_its_own(database: Database, parent: str) -> None:
    assert delegate(database, jobs.claim(database, jobs.create(database, priority="high").id).lease) == State.WAITING
    assert len(children(database)) == 4


def test_a_part_that_fails_ends_the_parent(database: Database, parent: str) -> None:
    first, _ = children(database)
    lease = jobs.claim(database, first.id).lease
    with database.write() as session:
        leases.fail(session, lease, DIVERGED, retry_after_seconds=None)
    failed = jobs.get(database, parent)
    assert failed.state == State.FAILED
    assert failed.error is not None
    assert failed.error["code"] == "evaluation_failed"
    assert first.id in failed.error["message"]


def test_a_cancel_ends_what_only_the_parent_wants(database: Database, parent: str) -> None:
    running, queued = children(database)
    lease = jobs.claim(database, running.id).lease
    with database.write() as session:
        Jobs(session, DEFAULT_TENANT).cancel(parent, "")
    assert [state(database, job) for job in (parent, running.id, queued.id)] == ["cancelled", "cancelling", "cancelled"]
    with database.write() as session:
        leases.cancelled(session, lease)
    assert state(database, running.id) == State.CANCELLED


def test_a_deleted_job_takes_with_it_what_evaluated_its_set(database: Database, parent: str) -> None:
    other = jobs.create(database).id
    lease = jobs.claim(database, other, "wkr_c").lease
    assert delegate(database, lease) == State.WAITING
    its, others = ([job for job in children(database) if job.parent_id == owner] for owner in (parent, other))
    succeed(database, its[0])
    running = jobs.claim(database, its[1].id, "wkr_b").lease
    with database.write() as session:
        Jobs(session, DEFAULT_TENANT).cancel(parent, "")
    with database.write() as session:
        job = Jobs(session, DEFAULT_TENANT).locked(parent)
        deletion.delete(session, job, now(session))
    assert hidden(database) == {parent, its[0].id}

    with database.write() as session:
        deletion.hide_evaluations(session, now(session))  # one is still being cancelled
    assert hidden(database) == {parent, its[0].id}
    with database.write() as session:
        leases.cancelled(session, running)
    with database.write() as session:
        deletion.hide_evaluations(session, now(session))
    assert hidden(database) == {parent, its[0].id, its[1].id}
    assert [state(database, job.id) for job in others] == [State.QUEUED] * 2


def hidden(database: Database) -> set[str]:
    with database.read() as session:
        return set(session.scalars(sa.select(Job.id).where(Job.deleted_at.is_not(None))))


def test_what_goes_on_without_its_parent_is_found(database: Database, parent: str) -> None:
    first, second = children(database)
    with database.read() as session:
        assert dependencies.unneeded_evaluations(session) == []
    lease = jobs.claim(database, first.id).lease
    with database.write() as session:
        leases.fail(session, lease, DIVERGED, retry_after_seconds=None)
    with database.read() as session:
        assert dependencies.unneeded_evaluations(session) == [(DEFAULT_TENANT, second.id)]
    with database.write() as session:
        Jobs(session, DEFAULT_TENANT).cancel(second.id, "")
    with database.read() as session:
        assert dependencies.unneeded_evaluations(session) == []
