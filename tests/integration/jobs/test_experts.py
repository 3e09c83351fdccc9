"""Jobs that need pools of trained networks: one training for all who need it, and nobody waits for ever. On both databases."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable
from typing import Any

import pytest
import sqlalchemy as sa

from core.catalogue import dataset_info
from core.errors import JobAlreadyTerminalError
from core.jobs import dependencies, leases, recovery
from core.jobs.database import Database
from core.jobs.leases import Claim, Lease, LostLeaseError, StoredFile
from core.jobs.models import DEFAULT_TENANT, Job, JobDependency
from core.jobs.repository import Jobs
from core.jobs.states import State
from core.specs.job import ExpertsSpec, parse_job_spec
from core.specs.requirements import required_experts
from tests.fixtures import jobs

POOL = StoredFile("experts", "experts.safetensors", "application/octet-stream", 10, "ab" * 32, "jobs/x/experts.safetensors")
DIVERGED = {"code": "diverged", "message": "the loss is not finite", "retryable": False, "attempt": 1, "detail": {}}
LOST = {"code": "worker_lost", "message": "gone", "retryable": True, "attempt": 1, "detail": {}}


def parent(database: Database, *pool_seeds: int, tenant: str = DEFAULT_TENANT, **changes: Any) -> Job:
    """A queued job that needs one pool for each seed: the first as matching networks, the second for its start."""
    training = {"num_epochs": 1}
    method: dict[str, Any] = {"models": {"kind": "pretrained_pool", "num_networks": 2, "training": training}}
    method["models"]["pool_seed"] = pool_seeds[0] if pool_seeds else 0
    if len(pool_seeds) > 1:
        method["init"] = {"kind": "herding", "training": training, "pool_seed": pool_seeds[1]}
    return jobs.create(database, tenant=tenant, method=method, **changes)


def needed_by(claim: Claim) -> dict[str, ExpertsSpec]:
    spec = parse_job_spec(claim.spec)
    return required_experts(spec, dataset_info(spec.dataset.name).identity)


def wait(database: Database, job_id: str, boot_id: str = "wkr_a") -> State:
    """What a worker does with a job whose pools are not there: claim it and let it wait."""
    claim = jobs.claim(database, job_id, boot_id)
    with database.write() as session:
        return leases.wait(session, claim.lease, needed_by(claim))


def experts(database: Database) -> list[Job]:
    with database.read() as session:
        return list(session.scalars(sa.select(Job).where(Job.kind == "experts").order_by(Job.id)))


def succeed(database: Database, job_id: str) -> None:
    lease = jobs.claim(database, job_id, "wkr_b").lease
    with database.write() as session:
        leases.succeed(session, lease, {"summary": {}}, [POOL], [])


def fail(database: Database, job_id: str) -> State:
    lease = jobs.claim(database, job_id, "wkr_b").lease
    with database.write() as session:
        return leases.fail(session, lease, DIVERGED, retry_after_seconds=None)


def cancel(database: Database, job_id: str) -> State:
    with database.write() as session:
        return State(Jobs(session, DEFAULT_TENANT).cancel(job_id, "").state)


def state(database: Database, job_id: str) -> State:
    return State(jobs.get(database, job_id).state)


def at_once(*actions: Callable[[], Any]) -> None:
    """Run all, begun together; an error in one is the test's."""
    start, errors = threading.Barrier(len(actions)), []

    def run(action: Callable[[], Any]) -> None:
        start.wait()
        try:
            action()
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=run, args=(action,)) for action in actions]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert not errors, errors


class TestWait:
    def test_the_attempt_ends_and_the_missing_pool_is_asked_for(self, database: Database) -> None:
        job = parent(database, priority="high")
        assert wait(database, job.id) == State.WAITING
        row, (child,) = jobs.get(database, job.id), experts(database)
        assert (row.state, row.attempt, row.failures, row.boot_id, row.lease_until) == (State.WAITING, 1, 0, None, None)
        assert row.reason is not None
        assert row.reason["code"] == "waiting_for_experts"
        assert (child.state, child.parent_id, child.priority, child.queue) == (State.QUEUED, job.id, "high", "cpu")
        assert child.content_key is not None
        assert isinstance(parse_job_spec(child.spec), ExpertsSpec)
        assert child.spec["pool"]["num_networks"] == 2
        with database.read() as session:
            repository = Jobs(session, DEFAULT_TENANT)
            assert repository.waiting_for([job.id]) == {job.id: [child.id]}
            assert [a.outcome for a in repository.attempts(job.id)] == ["waiting"]
            assert [e.data.get("state") for e in repository.events_after(job.id, 0, 99)] == [
                "queued", None, "running", None, "waiting",
            ]
            assert [e.data["state"] for e in repository.events_after(child.id, 0, 99)] == ["queued"]
            assert [w.job_id for w in recovery.unsent_around(session, job.id)] == [child.id]

    def test_the_lease_is_gone_and_no_reaper_looks_for_it(self, database: Database) -> None:
        job = parent(database)
        lease = jobs.claim(database, job.id, lease_seconds=-5.0).lease
        with database.write() as session:
            leases.wait(session, lease, required_experts(parse_job_spec(job.spec), "digest"))
        with database.read() as session:
            assert recovery.expired(session, 0.0) == []
        with pytest.raises(LostLeaseError), database.write() as session:
            leases.renew(session, lease, 60.0)

    def test_a_lost_lease_leaves_nothing_behind(self, database: Database) -> None:
        job = parent(database)
        claim = jobs.claim(database, job.id)
        stale = Lease(job.id, claim.lease.attempt, "wkr_other")
        with pytest.raises(LostLeaseError), database.write() as session:
            leases.wait(session, stale, needed_by(claim))
        assert experts(database) == []
        assert state(database, job.id) == State.RUNNING

    def test_a_job_that_is_being_cancelled_does_not_wait(self, database: Database) -> None:
        job = parent(database)
        claim = jobs.claim(database, job.id)
        assert cancel(database, job.id) == State.CANCELLING
        with database.write() as session:
            assert leases.wait(session, claim.lease, needed_by(claim)) == State.CANCELLED
        assert experts(database) == []

    def test_pools_that_were_finished_meanwhile_send_it_back_at_once(self, database: Database) -> None:
        first, second = parent(database), parent(database)
        late = jobs.claim(database, second.id, "wkr_late")
        wait(database, first.id)
        succeed(database, experts(database)[0].id)
        with database.write() as session:
            assert leases.wait(session, late.lease, needed_by(late)) == State.QUEUED
        assert len(experts(database)) == 1

    def test_two_pools_are_two_jobs_and_both_are_waited_for(self, database: Database) -> None:
        job = parent(database, 1, 2)
        wait(database, job.id)
        first, second = experts(database)
        version = jobs.get(database, job.id).version
        succeed(database, first.id)
        row = jobs.get(database, job.id)
        assert row.state == State.WAITING
        assert row.version > version, "it waits for fewer jobs, so what a client has cached is stale"
        with database.read() as session:
            assert Jobs(session, DEFAULT_TENANT).waiting_for([job.id]) == {job.id: [second.id]}
        succeed(database, second.id)
        assert state(database, job.id) == State.QUEUED

    def test_another_tenant_trains_its_own(self, database: Database) -> None:
        mine, theirs = parent(database), parent(database, tenant="other")
        wait(database, mine.id)
        wait(database, theirs.id)
        assert {child.tenant_id for child in experts(database)} == {DEFAULT_TENANT, "other"}
        with database.read() as session:
            assert Jobs(session, DEFAULT_TENANT).waiting_for([theirs.id]) == {}


class TestSingleFlight:
    def test_jobs_that_need_the_same_pool_at_once_share_one_training(self, database: Database) -> None:
        parents = [parent(database, 1, 2).id for _ in range(6)]
        claims = [jobs.claim(database, job_id, f"wkr_{i}") for i, job_id in enumerate(parents)]

        def let_wait(claim: Claim) -> None:
            with database.write() as session:
                assert leases.wait(session, claim.lease, needed_by(claim)) == State.WAITING

        at_once(*(lambda claim=claim: let_wait(claim) for claim in claims))
        children = [child.id for child in experts(database)]
        assert len(children) == 2
        with database.read() as session:
            assert Jobs(session, DEFAULT_TENANT).waiting_for(parents) == dict.fromkeys(parents, children)
        at_once(*(lambda child=child: succeed(database, child) for child in children))
        assert {state(database, job_id) for job_id in parents} == {State.QUEUED}

    def test_a_finished_pool_is_found_by_its_key(self, database: Database) -> None:
        job = parent(database)
        wait(database, job.id)
        (child,) = experts(database)
        claim = jobs.claim(database, parent(database).id)
        with database.read() as session:
            assert dependencies.finished_pools(session, DEFAULT_TENANT, needed_by(claim)) == {}
        succeed(database, child.id)
        with database.read() as session:
            found = dependencies.finished_pools(session, DEFAULT_TENANT, needed_by(claim))
            assert dependencies.finished_pools(session, "other", needed_by(claim)) == {}
        assert {key: file.job_id for key, file in found.items()} == {child.content_key: child.id}

    def test_a_pool_whose_bytes_are_lost_is_trained_anew(self, database: Database) -> None:
        wait(database, parent(database).id)
        (lost,) = experts(database)
        succeed(database, lost.id)
        with database.write() as session:
            dependencies.forget(session, lost.id)
        again = parent(database)
        assert wait(database, again.id) == State.WAITING
        assert [child.state for child in experts(database)] == [State.SUCCEEDED, State.QUEUED]


class TestWakeUp:
    def test_the_transaction_that_ends_the_training_queues_every_parent(self, database: Database) -> None:
        parents = [parent(database).id for _ in range(3)]
        for job_id in parents:
            wait(database, job_id)
        (child,) = experts(database)
        succeed(database, child.id)
        for job_id in parents:
            row = jobs.get(database, job_id)
            assert (row.state, row.failures, row.sent_at, row.reason) == (State.QUEUED, 0, None, None)
        with database.read() as session:
            assert [w.job_id for w in recovery.unsent_around(session, child.id)] == sorted(parents)
            assert {w.job_id for w in recovery.unsent(session, 30.0, 600.0)} == set(parents)
        assert jobs.claim(database, parents[0]).lease.attempt == 2

    def test_the_last_two_trainings_end_at_the_same_moment(self, database: Database) -> None:
        for seed in range(10):
            job = parent(database, 10 * seed, 10 * seed + 1)
            wait(database, job.id)
            pair = [child.id for child in experts(database) if child.state == State.QUEUED]
            at_once(*(lambda child=child: succeed(database, child) for child in pair))
            row = jobs.get(database, job.id)
            assert row.state == State.QUEUED
            kinds = [e for e in jobs.event_types(database, job.id) if e[1] == "job.state"]
            assert len(kinds) == 4, "queued, running, waiting, and queued once"

    def test_a_training_that_ends_while_a_job_begins_to_wait_is_never_missed(self, database: Database) -> None:
        for seed in range(15):
            wait(database, parent(database, seed).id)
            (child,) = [child for child in experts(database) if child.state == State.QUEUED]
            training = jobs.claim(database, child.id, "wkr_b").lease
            late = jobs.claim(database, parent(database, seed).id, "wkr_late")

            def end(lease: Lease = training) -> None:
                with database.write() as session:
                    leases.succeed(session, lease, {}, [POOL], [])

            def begin(claim: Claim = late) -> None:
                with database.write() as session:
                    leases.wait(session, claim.lease, needed_by(claim))

            at_once(end, begin)
            assert state(database, late.lease.job_id) == State.QUEUED

    def test_one_worker_is_enough(self, database: Database) -> None:
        """Every job is claimed by the same worker, in the order of its messages, and each gives its slot back."""
        parents = [parent(database, 1, 2).id for _ in range(3)]
        done: list[str] = []
        for _ in range(20):
            with database.read() as session:
                due = [w.job_id for w in recovery.unsent(session, 30.0, 600.0)]
            if not due:
                break
            claim = jobs.claim(database, due[0], "wkr_only")
            needed = needed_by(claim)
            with database.write() as session:
                found = dependencies.finished_pools(session, DEFAULT_TENANT, needed)
                if found.keys() == needed.keys():
                    leases.succeed(session, claim.lease, {}, [POOL], [])
                    done.append(due[0])
                else:
                    leases.wait(session, claim.lease, needed)
        children = [child.id for child in experts(database)]
        assert sorted(done) == sorted(parents + children)
        assert len(children) == 2
        assert [jobs.get(database, job_id).attempt for job_id in parents] == [2, 2, 2]


class TestFailure:
    def test_every_waiting_parent_fails_with_the_reason_and_the_key_is_free(self, database: Database) -> None:
        parents = [parent(database).id for _ in range(2)]
        for job_id in parents:
            wait(database, job_id)
        (child,) = experts(database)
        assert fail(database, child.id) == State.FAILED
        assert jobs.get(database, child.id).content_key is None
        for job_id in parents:
            row = jobs.get(database, job_id)
            assert (row.state, row.failures) == (State.FAILED, 0)
            assert row.error is not None
            assert row.error["code"] == "experts_failed"
            assert child.id in row.error["message"]
            assert "the loss is not finite" in row.error["message"]
            assert row.error["detail"]["error"]["code"] == "diverged"
            assert row.finished_at is not None
        again = parent(database)
        assert wait(database, again.id) == State.WAITING
        assert len(experts(database)) == 2

    def test_a_training_that_will_be_tried_again_ends_nothing(self, database: Database) -> None:
        job = parent(database)
        wait(database, job.id)
        (child,) = experts(database)
        lease = jobs.claim(database, child.id).lease
        with database.write() as session:
            assert leases.fail(session, lease, LOST, retry_after_seconds=0.0) == State.QUEUED
        assert state(database, job.id) == State.WAITING
        assert experts(database)[0].content_key is not None

    def test_a_training_whose_worker_is_lost_for_the_last_time(self, database: Database) -> None:
        job = parent(database)
        wait(database, job.id)
        (child,) = experts(database)
        for attempt in range(1, child.max_attempts + 1):
            with database.write() as session:  # skip the wait between attempts
                session.execute(sa.update(Job).where(Job.id == child.id).values(next_run_at=child.created_at))
            lease = jobs.claim(database, child.id, lease_seconds=-5.0).lease
            with database.write() as session:
                ended = recovery.reap(session, lease, 0.0, 30.0)
            assert ended == (State.FAILED if attempt == child.max_attempts else State.QUEUED)
            assert state(database, job.id) == ended if ended == State.FAILED else State.WAITING
        error = jobs.get(database, job.id).error
        assert error is not None
        assert "worker_lost" in error["message"]
        assert jobs.get(database, child.id).content_key is None

    def test_one_of_two_that_fails_is_enough(self, database: Database) -> None:
        job = parent(database, 1, 2)
        wait(database, job.id)
        first, second = experts(database)
        fail(database, first.id)
        assert state(database, job.id) == State.FAILED
        succeed(database, second.id)
        assert state(database, job.id) == State.FAILED


class TestCancel:
    def test_a_waiting_parent_takes_its_queued_training_with_it(self, database: Database) -> None:
        job = parent(database)
        wait(database, job.id)
        assert cancel(database, job.id) == State.CANCELLED
        (child,) = experts(database)
        assert (child.state, child.content_key) == (State.CANCELLED, None)
        assert child.finished_at is not None
        assert wait(database, parent(database).id) == State.WAITING

    def test_what_another_parent_waits_for_stays(self, database: Database) -> None:
        first, second = parent(database).id, parent(database).id
        wait(database, first)
        wait(database, second)
        cancel(database, first)
        (child,) = experts(database)
        assert child.state == State.QUEUED
        succeed(database, child.id)
        assert (state(database, first), state(database, second)) == (State.CANCELLED, State.QUEUED)

    def test_a_training_that_runs_goes_on(self, database: Database) -> None:
        job = parent(database)
        wait(database, job.id)
        (child,) = experts(database)
        jobs.claim(database, child.id)
        cancel(database, job.id)
        assert state(database, child.id) == State.RUNNING

    @pytest.mark.parametrize("running", [False, True])
    def test_a_cancelled_training_fails_who_waits_for_it(self, database: Database, running: bool) -> None:
        job = parent(database)
        wait(database, job.id)
        (child,) = experts(database)
        if running:
            lease = jobs.claim(database, child.id).lease
            assert cancel(database, child.id) == State.CANCELLING
            assert state(database, job.id) == State.WAITING
            assert jobs.get(database, child.id).content_key is None, "nobody joins a training that is about to end"
            with database.write() as session:
                leases.cancelled(session, lease)
        else:
            assert cancel(database, child.id) == State.CANCELLED
        row = jobs.get(database, job.id)
        assert row.state == State.FAILED
        assert row.error is not None
        assert row.error["message"] == f"{child.id}, which trains networks for this job, was cancelled"

    def test_a_job_begins_to_wait_while_the_only_other_parent_is_cancelled(self, database: Database) -> None:
        for seed in range(15):
            leaving = parent(database, seed)
            wait(database, leaving.id)
            late = jobs.claim(database, parent(database, seed).id, "wkr_late")

            def begin(claim: Claim = late) -> None:
                with database.write() as session:
                    leases.wait(session, claim.lease, needed_by(claim))

            at_once(begin, lambda job_id=leaving.id: cancel(database, job_id))
            assert state(database, late.lease.job_id) == State.WAITING
            with database.read() as session:
                ((child,),) = Jobs(session, DEFAULT_TENANT).waiting_for([late.lease.job_id]).values()
            assert state(database, child) == State.QUEUED

    def test_cancels_of_both_ends_of_an_edge_do_not_block_each_other(self, database: Database) -> None:
        for seed in range(15):
            job = parent(database, seed, 100 + seed)
            wait(database, job.id)
            with database.read() as session:
                (children,) = Jobs(session, DEFAULT_TENANT).waiting_for([job.id]).values()

            def cancel_quietly(job_id: str) -> None:
                with contextlib.suppress(JobAlreadyTerminalError):  # it failed: the other cancel came first
                    cancel(database, job_id)

            at_once(*(lambda job_id=job_id: cancel_quietly(job_id) for job_id in [job.id, *children]))
            assert state(database, job.id) in {State.CANCELLED, State.FAILED}
            assert {state(database, child) for child in children} == {State.CANCELLED}


def test_edges_carry_their_tenant(database: Database) -> None:
    wait(database, parent(database).id)
    with database.read() as session:
        assert set(session.scalars(sa.select(JobDependency.tenant_id))) == {DEFAULT_TENANT}
