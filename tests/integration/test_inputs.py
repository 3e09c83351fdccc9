"""What a worker fetches before a child starts, from a real database and a real store."""

from __future__ import annotations

from pathlib import Path

import pytest

from core.catalogue import dataset_info
from core.errors import ArtifactCorruptError, InvalidInputError
from core.jobs import dependencies, leases
from core.jobs.database import Database
from core.jobs.leases import StoredFile
from core.jobs.models import DEFAULT_TENANT, Artifact
from core.settings import Settings
from core.specs.ingest import IngestSpec
from core.specs.job import parse_job_spec
from core.specs.report import EXPERTS_DIR
from core.specs.requirements import required_experts
from core.store.objects import Objects, open_store, sha256_of
from core.uploads.models import UploadPart
from tests.fixtures import jobs
from worker.inputs import fetch_dataset, fetch_pools, fetch_upload

pytestmark = pytest.mark.integration
METHOD = {"models": {"kind": "pretrained_pool", "num_networks": 1, "training": {"num_epochs": 1}}}


def finished_pool(database: Database, store: Objects, tmp_path: Path) -> dict[str, Artifact]:
    """A pool that was trained because a job needed it."""
    parent = jobs.claim(database, jobs.create(database, method=METHOD).id)
    needed = required_experts(parse_job_spec(parent.spec), dataset_info("digits").identity)
    with database.write() as session:
        leases.wait(session, parent.lease, needed)
        ((child,),) = dependencies.waiting_for(session, DEFAULT_TENANT, [parent.lease.job_id]).values()
    made = tmp_path / "made"
    made.write_bytes(b"networks")
    store.put("jobs/x/experts.safetensors", made)
    file = StoredFile("experts", "experts.safetensors", "a/b", 8, sha256_of(made), "jobs/x/experts.safetensors")
    lease = jobs.claim(database, child).lease
    with database.write() as session:
        leases.succeed(session, lease, {}, [file], [])
    with database.read() as session:
        return dependencies.finished_pools(session, DEFAULT_TENANT, needed)


def test_pools_lie_under_their_content_key(sqlite_url: str, tmp_path: Path) -> None:
    database, store = Database(sqlite_url), open_store(Settings(store_url=(tmp_path / "objects").as_uri()))
    pools = finished_pool(database, store, tmp_path)
    (key,) = pools
    assert fetch_pools(database, store, pools, tmp_path)
    assert (tmp_path / EXPERTS_DIR / f"{key}.safetensors").read_bytes() == b"networks"
    database.dispose()


def test_a_pool_whose_bytes_are_lost_is_forgotten(sqlite_url: str, tmp_path: Path) -> None:
    database, store = Database(sqlite_url), open_store(Settings(store_url=(tmp_path / "objects").as_uri()))
    pools = finished_pool(database, store, tmp_path)
    store.delete("jobs/x/experts.safetensors")
    assert not fetch_pools(database, store, pools, tmp_path)
    with database.read() as session:
        assert dependencies.finished_pools(session, DEFAULT_TENANT, pools) == {}
    database.dispose()


def stored(store: Objects, folder: Path, name: str, body: bytes) -> Artifact:
    """A file of a data set, as a row names it."""
    made = folder / f"made-{name}"
    made.write_bytes(body)
    store.put(f"jobs/x/{name}", made)
    return Artifact(name=name, size_bytes=len(body), sha256=sha256_of(made), key=f"jobs/x/{name}")


class TestDataset:
    def test_a_folder_appears_complete(self, tmp_path: Path) -> None:
        store = open_store(Settings(store_url=(tmp_path / "objects").as_uri()))
        files = [stored(store, tmp_path, name, name.encode()) for name in ("manifest.json", "train_images.npy")]
        cache = tmp_path / "cache"
        cache.mkdir()
        fetch_dataset(store, files, cache / "ds")
        assert {path.name: path.read_text() for path in (cache / "ds").iterdir()} == {file.name: file.name for file in files}
        fetch_dataset(store, files, cache / "ds")  # another process of this host was first
        assert [path.name for path in cache.iterdir()] == ["ds"]

    def test_a_lost_file_leaves_nothing(self, tmp_path: Path) -> None:
        store = open_store(Settings(store_url=(tmp_path / "objects").as_uri()))
        files = [stored(store, tmp_path, name, b"x") for name in ("a", "b")]
        store.delete("jobs/x/b")
        cache = tmp_path / "cache"
        cache.mkdir()
        with pytest.raises(ArtifactCorruptError):
            fetch_dataset(store, files, cache / "ds")
        assert list(cache.iterdir()) == []


class TestUpload:
    def parts(self, store: Objects, folder: Path) -> list[UploadPart]:
        found = [stored(store, folder, str(number), bytes([number]) * number) for number in (1, 2, 3)]
        return [
            UploadPart(number=int(file.name), size_bytes=file.size_bytes, sha256=file.sha256, key=file.key) for file in found
        ]

    def spec(self, size_bytes: int) -> IngestSpec:
        return IngestSpec(
            dataset_id="ds_1", title="x", upload_id="up_1", filename="x.zip", size_bytes=size_bytes, sha256="", format="npz"
        )

    def test_parts_are_put_together_in_order(self, tmp_path: Path) -> None:
        store = open_store(Settings(store_url=(tmp_path / "objects").as_uri()))
        parts = self.parts(store, tmp_path)
        work = tmp_path / "work"
        work.mkdir()
        fetch_upload(store, self.spec(6), parts, work / "upload")
        assert (work / "upload").read_bytes() == bytes([1, 2, 2, 3, 3, 3])
        assert [path.name for path in work.iterdir()] == ["upload"]

    def test_an_upload_that_has_gone_is_told_from_a_lost_part(self, tmp_path: Path) -> None:
        store = open_store(Settings(store_url=(tmp_path / "objects").as_uri()))
        parts = self.parts(store, tmp_path)
        with pytest.raises(InvalidInputError, match="up_1 is not there any more"):
            fetch_upload(store, self.spec(6), [], tmp_path / "upload")
        store.delete("jobs/x/2")
        with pytest.raises(InvalidInputError, match="part 2"):
            fetch_upload(store, self.spec(6), parts, tmp_path / "upload")
