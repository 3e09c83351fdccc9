"""The sweeper: everything that nobody needs goes, and nothing else, however often and by however many it is done."""

from __future__ import annotations

import threading
from datetime import timedelta
from pathlib import Path

import pytest
import sqlalchemy as sa

from core.jobs import deletion, leases, recovery, reports, workers
from core.jobs.database import Database, now
from core.jobs.leases import Lease, StoredFile
from core.jobs.metrics import MetricPoint
from core.jobs.models import DEFAULT_TENANT, Artifact, Checkpoint, Event, IdempotencyKey, Job, Metric, Worker
from core.jobs.repository import Idempotency, Jobs
from core.settings import Settings
from core.store.keys import artifact_key, checkpoint_key
from core.store.objects import Objects, open_store, sha256_of
from tests.fixtures import jobs
from worker.sweeper import Sweeper

pytestmark = pytest.mark.integration

DAY = 86_400.0


class Site:
    """A database, a store, and what a worker does with them."""

    def __init__(self, database: Database, store: Objects, folder: Path) -> None:
        self.database, self.store, self.folder = database, store, folder

    def put(self, key: str) -> StoredFile:
        path = self.folder / "bytes"
        path.write_bytes(key.encode())
        self.store.put(key, path)
        return StoredFile("dataset", key.rpartition("/")[2], "a/b", path.stat().st_size, sha256_of(path), key)

    def claim(self, job_id: str) -> Lease:
        return jobs.claim(self.database, job_id).lease

    def checkpoint(self, lease: Lease, number: int = 1) -> str:
        file = self.put(checkpoint_key(lease.job_id, lease.attempt, number))
        with self.database.write() as session:
            self.store.delete(*reports.add_checkpoint(session, lease, number, file))
        return file.key

    def succeed(self, lease: Lease, *names: str) -> list[str]:
        files = [self.put(artifact_key(lease.job_id, lease.attempt, name)) for name in names]
        with self.database.write() as session:
            leases.succeed(session, lease, {}, files, [MetricPoint("loss", 1, 1.0)])
        return [file.key for file in files]

    def cancel(self, job_id: str) -> None:
        with self.database.write() as session:
            Jobs(session, DEFAULT_TENANT).cancel(job_id, "")

    def delete(self, job_id: str) -> None:
        with self.database.write() as session:
            deletion.delete(session, Jobs(session, DEFAULT_TENANT).locked(job_id), now(session))

    def sweep(self, **settings: float) -> None:
        """By default, objects count as orphans at once; rows are as old as the settings say."""
        Sweeper(self.database, self.store, Settings(**({"orphan_seconds": 1e-6} | settings))).sweep()

    def listed(self) -> list[str]:
        return self.store.keys("jobs")

    def count(self, table: type) -> int:
        with self.database.read() as session:
            return session.scalar(sa.select(sa.func.count()).select_from(table)) or 0


@pytest.fixture
def site(database: Database, tmp_path: Path) -> Site:
    return Site(database, open_store(Settings(store_url=(tmp_path / "objects").as_uri())), tmp_path)


class TestDeletedJobs:
    def test_bytes_and_rows_go_and_those_of_others_stay(self, site: Site) -> None:
        gone, stays = jobs.create(site.database).id, jobs.create(site.database).id
        site.succeed(site.claim(gone), "data.safetensors", "preview.png")
        kept = site.succeed(site.claim(stays), "data.safetensors")
        site.put(artifact_key(gone, 7, "left-behind"))
        site.delete(gone)
        site.sweep(orphan_seconds=DAY)
        assert site.listed() == kept
        with site.database.read() as session:
            for table in (Artifact, Event, Metric):
                assert set(session.scalars(sa.select(table.job_id))) == {stays}
        assert site.count(Job) == 2, "the tombstone stays while a key may name it"
        site.sweep()
        assert site.listed() == kept

    def test_the_tombstone_goes_with_the_last_key_that_names_it(self, site: Site) -> None:
        job = jobs.create(site.database, Idempotency("POST /v1/jobs", "k", "f"))
        child = jobs.create(site.database)
        with site.database.write() as session:
            session.get_one(Job, child.id).parent_id = job.id
        site.cancel(job.id)
        site.delete(job.id)
        site.sweep()
        assert (site.count(Job), site.count(IdempotencyKey)) == (2, 1)
        site.sweep(idempotency_seconds=1e-6)
        assert (site.count(Job), site.count(IdempotencyKey)) == (1, 0)
        assert jobs.get(site.database, child.id).parent_id is None

    def test_a_zombie_that_writes_after_the_sweep_is_swept_later(self, site: Site) -> None:
        job = jobs.create(site.database)
        lease = site.claim(job.id)
        site.succeed(lease, "data.safetensors")
        site.delete(job.id)
        site.sweep()
        site.put(artifact_key(job.id, lease.attempt, "late"))
        site.sweep(orphan_seconds=DAY)
        assert len(site.listed()) == 1, "it is young"
        site.sweep()
        assert site.listed() == []


class TestOrphans:
    def test_only_what_no_row_names_and_no_running_attempt_may_have_written(self, site: Site) -> None:
        done, running, queued = (jobs.create(site.database).id for _ in range(3))
        lost = site.claim(done)
        zombie = [site.put(artifact_key(done, lost.attempt, "data.safetensors")).key]
        with site.database.write() as session:
            leases.give_back(session, lost, "drain")
        kept = site.succeed(site.claim(done), "data.safetensors")
        lease = site.claim(running)
        kept += [site.put(artifact_key(running, lease.attempt, "half-an-upload")).key]
        drained = site.claim(queued)
        kept += [site.checkpoint(drained)]
        zombie += [site.put(checkpoint_key(queued, drained.attempt, 99)).key]
        with site.database.write() as session:
            leases.give_back(session, drained, "drain")
        site.sweep(orphan_seconds=DAY)
        assert site.listed() == sorted(kept + zombie), "they are young"
        site.sweep()
        assert site.listed() == sorted(kept)
        assert jobs.claim(site.database, queued).checkpoint is not None

    def test_what_no_attempt_of_this_database_wrote_is_left_alone(self, site: Site) -> None:
        strange = ["jobs/notes.txt", "jobs/job_" + "0" * 32 + "/attempts/1/artifacts/data.safetensors"]
        for key in (*strange, "probe"):
            site.put(key)
        site.sweep()
        assert site.listed() == sorted(strange)
        assert site.store.size("probe") is not None

    def test_more_objects_than_one_page(self, site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("core.store.objects.PAGE_ENTRIES", 3)
        job = jobs.create(site.database).id
        lease = site.claim(job)
        for number in range(10):
            site.put(artifact_key(job, 90 + number, "stray"))
        kept = site.succeed(lease, *(f"file{i}" for i in range(10)))
        site.sweep()
        assert site.listed() == sorted(kept)


class TestCheckpoints:
    def test_those_of_jobs_that_ended_outside_an_attempt_go(self, site: Site) -> None:
        cancelled, reaped, alive = (jobs.create(site.database, max_attempts=1).id for _ in range(3))
        lease = site.claim(cancelled)
        site.checkpoint(lease)
        with site.database.write() as session:
            leases.give_back(session, lease, "drain")
        site.cancel(cancelled)
        lost = site.claim(reaped)
        site.checkpoint(lost)
        with site.database.write() as session:
            session.execute(sa.update(Job).where(Job.id == reaped).values(lease_until=now(session) - timedelta(seconds=60)))
        with site.database.write() as session:
            assert recovery.reap(session, lost, 0.0, 1.0) == "failed"
        kept = site.checkpoint(site.claim(alive))
        assert len(site.listed()) == 3
        site.sweep(orphan_seconds=DAY)
        assert site.listed() == [kept]
        with site.database.read() as session:
            assert session.scalars(sa.select(Checkpoint.job_id)).all() == [alive]


class TestRows:
    def test_old_keys_and_dead_workers_go(self, site: Site) -> None:
        jobs.create(site.database, Idempotency("POST /v1/jobs", "old", "f"))
        jobs.create(site.database, Idempotency("POST /v1/jobs", "new", "f"))
        with site.database.write() as session:
            for name in ("wkr_old", "wkr_new"):
                workers.register(session, name, "host-a", 1, "cpu")
            past = now(session) - timedelta(days=8)
            session.execute(sa.update(IdempotencyKey).where(IdempotencyKey.key == "old").values(created_at=past))
            session.execute(sa.update(Worker).where(Worker.boot_id == "wkr_old").values(seen_at=past))
        site.sweep()
        with site.database.read() as session:
            assert session.scalars(sa.select(IdempotencyKey.key)).all() == ["new"]
            assert session.scalars(sa.select(Worker.boot_id)).all() == ["wkr_new"]
        assert site.count(Job) == 2


class TestRepetition:
    def test_side_by_side_gives_the_same_as_once(self, site: Site) -> None:
        gone = [jobs.create(site.database).id for _ in range(4)]
        kept: list[str] = []
        for job_id in gone:
            site.succeed(site.claim(job_id), "data.safetensors")
            site.put(artifact_key(job_id, 9, "stray"))
        for job_id in gone[:3]:
            site.delete(job_id)
        kept = [key for key in site.listed() if gone[3] in key and "stray" not in key]
        errors: list[BaseException] = []

        def sweep() -> None:
            try:
                site.sweep()
            except BaseException as error:
                errors.append(error)

        threads = [threading.Thread(target=sweep) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(120)
        assert errors == []
        assert site.listed() == kept
        assert site.count(Artifact) == 1

    def test_one_of_many_has_the_turn(self, site: Site) -> None:
        turns: list[bool] = []

        def look() -> None:
            with site.database.write() as session:
                turns.append(recovery.due(session, "sweeper", 3600.0))

        threads = [threading.Thread(target=look) for _ in range(6)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60)
        assert sorted(turns) == [False] * 5 + [True]
        with site.database.write() as session:
            assert recovery.due(session, "sweeper", 0.0)

    def test_it_runs_when_due_until_told_to_stop(self, site: Site) -> None:
        job = jobs.create(site.database).id
        site.succeed(site.claim(job), "data.safetensors")
        site.delete(job)
        stop = threading.Event()
        settings = Settings(orphan_seconds=DAY, sweep_seconds=0.05)
        thread = threading.Thread(target=Sweeper(site.database, site.store, settings).run, args=(stop,))
        thread.start()
        for _ in range(600):
            if site.listed() == [] and site.count(Event) == 0:
                break
            stop.wait(0.05)
        stop.set()
        thread.join(60)
        assert not thread.is_alive()
        assert (site.listed(), site.count(Event)) == ([], 0)


def test_on_a_real_s3_server(s3_server: dict[str, str], sqlite_url: str, tmp_path: Path) -> None:
    settings = Settings(**{name.removeprefix("DISTILL_").lower(): value for name, value in s3_server.items()})
    database = Database(sqlite_url)
    site = Site(database, open_store(settings), tmp_path)
    gone, stays = jobs.create(database).id, jobs.create(database).id
    site.succeed(site.claim(gone), "data.safetensors")
    kept = site.succeed(site.claim(stays), "data.safetensors")
    site.put(artifact_key(stays, 9, "stray"))
    site.delete(gone)
    site.sweep()
    assert [key for key in site.listed() if key.split("/")[1] in {gone, stays}] == kept  # other tests use the server too
    database.dispose()
