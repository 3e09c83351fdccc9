"""Data sets on a host that has room for one alone, as real attempts use them."""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest
import sqlalchemy as sa

from core.catalogue import DatasetInfo, dataset_info
from core.data.prepare import prepare
from core.jobs import leases
from core.jobs.database import Database
from core.jobs.datasets import Datasets, summary_of
from core.jobs.ids import new_id
from core.jobs.leases import StoredFile
from core.jobs.models import DEFAULT_TENANT, Artifact
from core.jobs.queue import Sender, celery_app
from core.jobs.repository import Jobs
from core.settings import Settings
from core.specs.ingest import IngestSpec, IngestSummary
from core.specs.job import JobRequest
from core.specs.resolve import resolve
from core.store.objects import Objects, open_store, sha256_of
from tests.fixtures import jobs
from worker.dataset_cache import DatasetCache
from worker.host import Host
from worker.supervisor import Supervisor

pytestmark = pytest.mark.integration

JOB = {
    "ipc": 1, "recipe": "random", "scale": "small", "method": {"network": {"width": 8}},
    "evaluation": {"num_eval": 1, "num_epochs": 1, "random_draws": 0, "check_8bit": False},
}


OLD_BYTES = 1000
BOUND_BYTES = dataset_info("digits").canonical_bytes + 800  # the headers of its files have less


class Site:
    """A worker whose cache has room for digits, and for no other set beside it."""

    def __init__(self, database: Database, home: Path) -> None:
        self.database = database
        self.settings = Settings(home=home, child_threads=1, dataset_cache_bytes=BOUND_BYTES, renew_seconds=0.2)
        self.store = open_store(self.settings)
        self.host = Host(self.settings, "cpu", [])
        self.sender = Sender(celery_app(self.settings), database)
        self.supervisor = Supervisor(database, self.store, self.sender, self.settings, self.host)
        self.cached = self.settings.cache_dir / "datasets"

    def run(self, dataset: dict[str, str], meanwhile: Callable[[], None] = lambda: None) -> str:
        """Run a job to its end; the digest of the data that it has read.

        Args:
            dataset: which.
            meanwhile: what is done again and again.
        """
        info = dataset_info("digits") if "name" in dataset else self.info(dataset["id"])
        spec = resolve(JobRequest.model_validate_json(json.dumps(JOB | {"dataset": dataset})), info)
        with self.database.write() as session:
            job, _ = Jobs(session, DEFAULT_TENANT).create(spec, None)
        running = threading.Thread(target=self.supervisor.run, args=(job.id,))
        running.start()
        while running.is_alive():
            meanwhile()
            running.join(0.05)
        done = jobs.get(self.database, job.id)
        assert done.state == "succeeded", done.error
        with self.database.read() as session:
            query = sa.select(Artifact.key).where(Artifact.job_id == job.id, Artifact.name == "manifest.json")
            key = session.scalars(query).one()
        return str(json.loads((self.settings.home / "objects" / key).read_text())["dataset"]["digest"])

    def info(self, dataset_id: str) -> DatasetInfo:
        with self.database.read() as session:
            summary = summary_of(Datasets(session, DEFAULT_TENANT).get(dataset_id))
        assert summary is not None
        return summary.info

    def add_old(self) -> None:
        """A set that nobody has used for long, and what a killed process has left."""
        for name in ("old", f".old.{'0' * 32}"):
            (self.cached / name).mkdir(parents=True)
            (self.cached / name / "manifest.json").write_bytes(bytes(OLD_BYTES))
        os.utime(self.cached / "old" / "manifest.json", (1, 1))

    def sets(self) -> list[str]:
        """Names of the data sets that are here, whole or not."""
        return [path.name.partition("-")[0] for path in self.cached.iterdir() if path.is_dir() and path.name != ".locks"]

    def children(self) -> set[str]:
        """Modules of the children that hold a set, as the kernel sees it."""
        found = set()
        for child in " ".join(path.read_text() for path in Path("/proc/self/task").glob("*/children")).split():
            with suppress(OSError, ValueError):
                command = Path(f"/proc/{child}/cmdline").read_text().split("\0")
                if any(file.readlink().parent == self.cached / ".locks" for file in Path(f"/proc/{child}/fd").iterdir()):
                    found.add(command[command.index("-m") + 1])
        return found - {"pytest"}  # one that is just being started

    def close(self) -> None:
        self.sender.close()
        self.host.stop(self.database)


@pytest.fixture
def site(sqlite_url: str, tmp_path: Path) -> Iterator[Site]:
    database = Database(sqlite_url)
    made = Site(database, tmp_path)
    yield made
    made.close()
    database.dispose()


def register(database: Database, store: Objects, folder: Path) -> str:
    """A data set as an ingest job has left it: that of digits under another name."""
    prepare("digits", folder, folder / "made")
    spec = IngestSpec(dataset_id=new_id("ds"), title="mine", upload_id=new_id("up"), filename="mine.npz", format="npz")
    with database.write() as session:
        job, _ = Datasets(session, DEFAULT_TENANT).create(spec)
    lease = jobs.claim(database, job.id).lease
    files = []
    for path in (folder / "made").iterdir():
        store.put(f"jobs/{job.id}/{path.name}", path)
        files.append(
            StoredFile("dataset", path.name, "a/b", path.stat().st_size, sha256_of(path), f"jobs/{job.id}/{path.name}")
        )
    info = dataset_info("digits").model_copy(update={"name": spec.dataset_id})
    summary = IngestSummary(info=info, size_bytes=info.canonical_bytes)
    with database.write() as session:
        leases.succeed(session, lease, {"summary": summary.model_dump(mode="json")}, files, [])
    return spec.dataset_id


@pytest.fixture(params=["named", "registered"])
def dataset(request: pytest.FixtureRequest, site: Site, tmp_path: Path) -> dict[str, str]:
    """How a job names its data."""
    return {"name": "digits"} if request.param == "named" else {"id": register(site.database, site.store, tmp_path)}


def test_a_set_stays_while_a_job_reads_it_and_is_brought_again_by_the_next(site: Site, dataset: dict[str, str]) -> None:
    """Beside a worker that removes whatever it can, all the time."""
    other = DatasetCache(site.settings.model_copy(update={"dataset_cache_bytes": 0}))

    holders: set[str] = set()

    def remove() -> None:
        other.make_room()
        other.remove_leftovers()
        holders.update(site.children())

    (name,) = dataset.values()
    assert site.run(dataset, remove) == dataset_info("digits").digest
    assert holders == {"core.run"} | ({"core.data.prepare"} if "name" in dataset else set())
    remove()
    assert site.sets() == []
    site.add_old()
    assert site.run(dataset) == dataset_info("digits").digest
    assert site.sets() == [name]


def test_a_set_that_lost_a_file_is_brought_again(site: Site, dataset: dict[str, str]) -> None:
    site.run(dataset)
    next(site.cached.glob("*/train_images.npy")).unlink()
    assert site.run(dataset) == dataset_info("digits").digest
    assert site.sets() == list(dataset.values())


def test_an_attempt_makes_room_also_where_its_set_is_there(site: Site) -> None:
    site.run({"name": "digits"})
    site.add_old()
    before = next(site.cached.glob("digits-*")).stat().st_ino
    site.run({"name": "digits"})
    assert site.sets() == ["digits"]
    assert next(site.cached.glob("digits-*")).stat().st_ino == before
