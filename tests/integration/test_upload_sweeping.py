"""The sweeper and uploads: what nobody can need goes, in whatever order things happen, and nothing else does."""

from __future__ import annotations

import hashlib
import threading
from datetime import timedelta
from pathlib import Path

import pytest
import sqlalchemy as sa

from core.errors import StoreUnavailableError, UploadNotCompleteError
from core.jobs.database import Database, now
from core.jobs.datasets import Datasets
from core.jobs.ids import new_id
from core.jobs.models import DEFAULT_TENANT, Job
from core.jobs.states import State
from core.settings import Settings
from core.specs.ingest import IngestSpec
from core.store.keys import artifact_key, part_key, upload_prefix
from core.store.objects import Objects, open_store
from core.uploads.collecting import collect
from core.uploads.models import Upload, UploadPart
from core.uploads.repository import NewUpload, StoredPart, Uploads, parts_of
from tests.fixtures import jobs
from worker.sweeper import Sweeper

pytestmark = pytest.mark.integration

DAY = 86_400.0


class Site:
    """A database, a store, and what clients send."""

    def __init__(self, database: Database, store: Objects, folder: Path) -> None:
        self.database, self.store, self.folder = database, store, folder

    def begin(self, size_bytes: int = 1) -> str:
        with self.database.write() as session:
            new = NewUpload("pictures.zip", "application/zip", size_bytes, hashlib.sha256(b"x").hexdigest())
            return Uploads(session, DEFAULT_TENANT).create(new, Settings(max_open_uploads=100)).id

    def put(self, key: str) -> str:
        path = self.folder / "bytes"
        path.write_bytes(b"x")
        self.store.put(key, path)
        return key

    def send(self, upload_id: str) -> str:
        """The only part of an upload; its key."""
        key = self.put(part_key(upload_id, 1))
        with self.database.write() as session:
            Uploads(session, DEFAULT_TENANT).add_part(upload_id, StoredPart(1, 1, hashlib.sha256(b"x").hexdigest(), key), DAY)
        return key

    def complete(self) -> tuple[str, str]:
        """A complete upload; its id and its only key."""
        upload_id = self.begin()
        key = self.send(upload_id)
        with self.database.write() as session:
            Uploads(session, DEFAULT_TENANT).complete(upload_id, {}, DAY)
        return upload_id, key

    def cancel(self, upload_id: str) -> None:
        with self.database.write() as session:
            Uploads(session, DEFAULT_TENANT).cancel(upload_id)

    def overdue(self, upload_id: str) -> None:
        with self.database.write() as session:
            past = now(session) - timedelta(seconds=1)
            session.execute(sa.update(Upload).where(Upload.id == upload_id).values(expires_at=past))

    def register(self, upload_id: str) -> str:
        """Make a data set of an upload; its job."""
        with self.database.write() as session:
            upload = Uploads(session, DEFAULT_TENANT).completed(upload_id)
            spec = IngestSpec(
                dataset_id=new_id("ds"), title=new_id("ds"), upload_id=upload.id, filename=upload.filename,
                size_bytes=upload.size_bytes, sha256=upload.sha256, format="imagefolder_zip",
            )
            return Datasets(session, DEFAULT_TENANT).create(spec)[0].id

    def over(self, job_id: str, state: State) -> None:
        with self.database.write() as session:
            session.get_one(Job, job_id).state = state

    def sweep(self, **settings: float) -> None:
        """By default, objects count as orphans at once; rows are as old as the settings say."""
        Sweeper(self.database, self.store, Settings(**({"orphan_seconds": 1e-6} | settings))).sweep()

    def listed(self) -> list[str]:
        return self.store.keys("uploads")

    def states(self) -> dict[str, str]:
        with self.database.read() as session:
            return {upload.id: upload.state for upload in session.scalars(sa.select(Upload))}

    def count(self, table: type) -> int:
        with self.database.read() as session:
            return session.scalar(sa.select(sa.func.count()).select_from(table)) or 0


@pytest.fixture
def site(database: Database, tmp_path: Path) -> Site:
    return Site(database, open_store(Settings(store_url=(tmp_path / "objects").as_uri())), tmp_path)


class TestEnding:
    def test_open_ones_expire_and_give_their_bytes_back(self, site: Site, tmp_path: Path) -> None:
        old, young = site.begin(), site.begin()
        site.send(old)
        kept = site.send(young)
        site.overdue(old)
        site.sweep()
        assert site.states() == {old: "expired", young: "open"}
        assert site.listed() == [kept]
        assert site.count(UploadPart) == 1
        assert not (tmp_path / "objects" / upload_prefix(old)).exists(), "the folder goes as well"

    def test_cancelled_ones_give_their_bytes_back(self, site: Site) -> None:
        upload_id = site.begin()
        site.send(upload_id)
        site.put(part_key(upload_id, 1))
        site.cancel(upload_id)
        site.sweep(orphan_seconds=DAY)
        assert (site.listed(), site.count(UploadPart), site.states()) == ([], 0, {upload_id: "cancelled"})

    def test_complete_ones_stay_until_nothing_was_made_of_them_in_time(self, site: Site) -> None:
        (old, _), (_, kept) = site.complete(), site.complete()
        site.sweep()
        assert len(site.listed()) == 2
        site.overdue(old)
        site.sweep()
        assert site.listed() == [kept]
        with site.database.write() as session, pytest.raises(UploadNotCompleteError, match="upload the file again"):
            Uploads(session, DEFAULT_TENANT).completed(old)
        with site.database.read() as session:
            assert list(parts_of(session, DEFAULT_TENANT, old)) == []

    @pytest.mark.parametrize("state", [state for state in State if state.terminal])
    def test_complete_ones_stay_until_every_job_that_reads_them_is_over(self, site: Site, state: State) -> None:
        upload_id, key = site.complete()
        first, second = site.register(upload_id), site.register(upload_id)
        site.over(first, state)
        site.overdue(upload_id)
        site.sweep()
        assert site.listed() == [key]
        with site.database.read() as session:
            assert [part.key for part in parts_of(session, DEFAULT_TENANT, upload_id)] == [key]
        site.over(second, state)
        site.sweep()
        assert (site.listed(), site.states()) == ([], {upload_id: "complete"})

    def test_one_whose_files_were_refused_can_be_read_in_another_way(self, site: Site) -> None:
        upload_id, key = site.complete()
        site.over(site.register(upload_id), State.FAILED)
        site.sweep()
        assert site.listed() == [key]
        site.over(site.register(upload_id), State.SUCCEEDED)
        site.sweep()
        assert site.listed() == []

    def test_a_registration_and_the_sweeper_never_both_have_it(self, site: Site) -> None:
        """Whoever locks the row first: a job whose bytes are gone, or an upload that ends under a job, must not come out."""
        for _ in range(5):
            upload_id, key = site.complete()
            site.overdue(upload_id)
            start, registered = threading.Barrier(2), []

            def register(upload_id: str = upload_id, start: threading.Barrier = start, done: list[str] = registered) -> None:
                start.wait()
                try:
                    done.append(site.register(upload_id))
                except UploadNotCompleteError:
                    return

            thread = threading.Thread(target=register)
            thread.start()
            start.wait()
            site.sweep(orphan_seconds=DAY)
            thread.join(60)
            assert (key in site.listed()) == bool(registered)


class TestOrphans:
    def test_objects_that_no_row_names_go_when_they_are_old(self, site: Site) -> None:
        upload_id = site.begin()
        kept = site.send(upload_id)
        complete_id, complete_key = site.complete()
        lost = [site.put(part_key(upload_id, 1)), site.put(part_key(complete_id, 1))]
        site.sweep(orphan_seconds=DAY)
        assert site.listed() == sorted([kept, complete_key, *lost])
        site.sweep()
        assert site.listed() == sorted([kept, complete_key])

    def test_what_is_not_ours_stays(self, site: Site) -> None:
        strange = [site.put(part_key(new_id("up"), 1)), site.put("uploads/readme.txt"), site.put("uploads/up_x/parts/1-a")]
        job = jobs.create(site.database)
        other = site.put(artifact_key(job.id, 1, "data.bin"))
        site.sweep(orphan_seconds=DAY)
        assert site.listed() == sorted(strange)
        assert site.store.keys("jobs") == [other]
        site.sweep()
        assert site.listed() == sorted(strange)


class TestRepetition:
    def test_it_goes_on_where_it_was_cut_off(self, site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
        ids = [site.begin() for _ in range(3)]
        for upload_id in ids:
            site.send(upload_id)
            site.cancel(upload_id)
        inner = Objects.delete_below

        def refuse(self: Objects, prefix: str) -> None:
            if prefix == upload_prefix(ids[0]):
                raise StoreUnavailableError("away")
            inner(self, prefix)

        monkeypatch.setattr(Objects, "delete_below", refuse)
        site.sweep(orphan_seconds=DAY)
        assert len(site.listed()) == 1
        monkeypatch.undo()
        site.store.delete_below(upload_prefix(ids[0]))  # its bytes went, and then the process died
        assert site.count(UploadPart) == 1
        site.sweep(orphan_seconds=DAY)
        assert (site.listed(), site.count(UploadPart)) == ([], 0)

    def test_side_by_side_gives_the_same_as_once(self, site: Site) -> None:
        gone = [site.begin() for _ in range(6)]
        for number, upload_id in enumerate(gone):
            site.send(upload_id)
            site.overdue(upload_id) if number % 2 else site.cancel(upload_id)
        kept = [site.complete()[1], site.send(site.begin())]
        used, _ = site.complete()
        site.over(site.register(used), State.SUCCEEDED)
        errors: list[BaseException] = []

        def sweep() -> None:
            try:
                site.sweep(orphan_seconds=DAY)
            except BaseException as error:
                errors.append(error)

        threads = [threading.Thread(target=sweep) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(120)
        assert errors == []
        assert (site.listed(), site.count(UploadPart)) == (sorted(kept), 2)

    def test_rows_are_forgotten_with_what_came_late(self, site: Site, tmp_path: Path) -> None:
        upload_id, alive = site.begin(), site.begin()
        site.send(upload_id)
        site.cancel(upload_id)
        collect(site.database, site.store, upload_id)
        late = tmp_path / "objects" / part_key(upload_id, 1)
        late.parent.mkdir(parents=True)
        late.with_name(late.name + "#1").write_bytes(b"of a process that was killed; no listing shows it")
        site.sweep(orphan_seconds=DAY)
        assert site.states() == {upload_id: "cancelled", alive: "open"}
        site.sweep(orphan_seconds=DAY, idempotency_seconds=1e-6)
        assert site.states() == {alive: "open"}
        assert not (tmp_path / "objects" / upload_prefix(upload_id)).exists()


def test_on_a_real_s3_server(s3_server: dict[str, str], sqlite_url: str, tmp_path: Path) -> None:
    settings = Settings(**{name.removeprefix("DISTILL_").lower(): value for name, value in s3_server.items()})
    database = Database(sqlite_url)
    site = Site(database, open_store(settings), tmp_path)
    gone, stays = site.begin(), site.begin()
    site.send(gone)
    kept = site.send(stays)
    site.put(part_key(stays, 1))
    site.cancel(gone)
    site.sweep()
    assert [key for key in site.listed() if key.split("/")[1] in {gone, stays}] == [kept]  # other tests use the server too
    database.dispose()
