"""What a worker fetches before a child starts, from a real database and a real store."""

from __future__ import annotations

from pathlib import Path

import pytest

from core.catalogue import dataset_info
from core.jobs import dependencies, leases
from core.jobs.database import Database
from core.jobs.leases import StoredFile
from core.jobs.models import DEFAULT_TENANT, Artifact
from core.settings import Settings
from core.specs.job import parse_job_spec
from core.specs.report import EXPERTS_DIR
from core.specs.requirements import required_experts
from core.store.objects import Objects, open_store, sha256_of
from tests.fixtures import jobs
from worker.inputs import fetch_pools

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
