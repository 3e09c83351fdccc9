"""Row A6, its second half: a worker or its child dies, or a server fails, while an upload is read into a data set."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest

from tests.faults.sending import (
    Json,
    archive,
    digest_in_this_process,
    ends_well,
    is_ready,
    job_of,
    objects,
    register,
    rows,
)
from tests.faults.stand import SLACK_SECONDS, Node, Stand
from tests.faults.test_worker import gone
from tests.fixtures.uploads import begin

pytestmark = pytest.mark.faults

CONTENT = archive(1500)
"""Its child needs some seconds."""


@pytest.fixture
def upload(stand: Stand) -> Json:
    """A complete one."""
    made = begin(stand.http, CONTENT)
    ends_well(stand, made, CONTENT)
    return made


@pytest.fixture(scope="module")
def digest(tmp_path_factory: pytest.TempPathFactory) -> str:
    """What the data set must be."""
    return digest_in_this_process(tmp_path_factory.mktemp("reference"), CONTENT)


def reading(stand: Stand, node: Node) -> int:
    """Wait until a host's child has opened the upload; its process id."""
    begun = "the child reads the upload"
    stand.wait_until(lambda: list(node.home.glob("jobs/*/*/.ingest-*")), 60 + SLACK_SECONDS, begun)
    (pid,) = node.children()
    return pid


def job_dirs(node: Node) -> list[Path]:
    """What lies in a host's job directories."""
    return sorted(path for path in node.home.glob("jobs/*/*") if path.name != "lock")


def test_a6_killed_while_it_fetches_the_upload(stand: Stand, upload: Json, digest: str) -> None:
    first = stand.serving_worker()
    fetch = first.store.catch(b"/uploads/", answer=True)
    dataset = register(stand, upload).json()
    fetch.wait()
    first.kill()
    fetch.drop()
    stand.worker()
    assert is_ready(stand, dataset, digest, attempts=2)["failures"] == 1


def test_a6_killed_while_its_child_reads(stand: Stand, upload: Json, digest: str) -> None:
    first = stand.serving_worker()
    dataset = register(stand, upload).json()
    reading(stand, first)
    first.kill()
    gone(stand, first)
    assert objects(stand, upload) == set(rows(stand, upload).values()), "the bytes stay for the next attempt"
    stand.worker()
    is_ready(stand, dataset, digest, attempts=2)
    assert job_dirs(first), "nobody could clean up"
    first.start("worker", "--queues", "cpu")
    stand.wait_until(lambda: not job_dirs(first), 60 + SLACK_SECONDS, "the next worker of the host cleans up")


def test_a6_killed_before_the_data_set_is_committed(stand: Stand, upload: Json, digest: str) -> None:
    """As W10: all its files are in the store, and no row names them."""
    first = stand.serving_worker()
    commit = first.db.catch(b"COMMIT", after=b"INSERT INTO artifacts")
    dataset = register(stand, upload).json()
    commit.wait()
    first.kill()
    commit.drop()
    stand.worker()
    is_ready(stand, dataset, digest, attempts=2)


def test_a6_connection_lost_while_the_data_set_is_committed(stand: Stand, upload: Json, digest: str) -> None:
    """As W11: it is committed, and nobody has told the worker."""
    first = stand.serving_worker()
    commit = first.db.catch(b"COMMIT", after=b"INSERT INTO artifacts", answer=True)
    dataset = register(stand, upload).json()
    commit.wait()
    stand.in_state(job_of(dataset), "succeeded")
    commit.drop()
    is_ready(stand, dataset, digest, attempts=1)


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSEGV])
def test_a6_the_child_dies(stand: Stand, upload: Json, digest: str, number: signal.Signals) -> None:
    worker = stand.serving_worker()
    dataset = register(stand, upload).json()
    os.kill(reading(stand, worker), number)
    is_ready(stand, dataset, digest, attempts=2)
    assert worker.running
    stand.wait_until(lambda: not job_dirs(worker), 10 + SLACK_SECONDS, "nothing is left in job directories")


def test_a6_drained_while_its_child_reads(stand: Stand, upload: Json, digest: str) -> None:
    first = stand.serving_worker()
    dataset = register(stand, upload).json()
    reading(stand, first)
    first.signal(signal.SIGTERM)
    assert first.wait(30 + SLACK_SECONDS) == 0
    assert job_dirs(first) == []
    stand.worker()
    assert is_ready(stand, dataset, digest, attempts=2)["failures"] == 0


def test_a6_cancelled_while_its_child_reads(stand: Stand, upload: Json) -> None:
    """The upload stays: it can be registered again."""
    worker = stand.serving_worker()
    dataset = register(stand, upload).json()
    reading(stand, worker)
    assert stand.http.post(f"/v1/jobs/{job_of(dataset)}/cancel").status_code == 202
    stand.in_state(job_of(dataset), "cancelled", 10)
    gone(stand, worker)
    assert stand.http.get(f"/v1/datasets/{dataset['id']}").json()["state"] == "cancelled"
    stand.sweep()
    assert stand.swept(job_of(dataset)) == set()
    assert objects(stand, upload) == set(rows(stand, upload).values())
    stand.succeeded(job_of(register(stand, upload, "again").json()), attempts=1)
    stand.wait_until(lambda: not job_dirs(worker), 10 + SLACK_SECONDS, "nothing is left in job directories")


def test_a6_store_away_when_the_upload_is_needed(stand: Stand, upload: Json, digest: str) -> None:
    """As O1: the outage does not count."""
    worker = stand.serving_worker()
    worker.store.cut()
    dataset = register(stand, upload).json()
    stand.wait_until(
        lambda: sum(attempt["outcome"] == "given_back" for attempt in stand.attempts(job_of(dataset))) >= 2, 90 + SLACK_SECONDS,
        "two attempts were given back",
    )
    assert stand.http.get(f"/v1/datasets/{dataset['id']}").json()["state"] == "validating"
    worker.store.heal()
    assert is_ready(stand, dataset, digest)["failures"] == 0


def test_a6_store_away_when_the_data_set_is_stored(stand: Stand, upload: Json, digest: str) -> None:
    """As O3: it waits on the worker's disk."""
    worker = stand.serving_worker()
    dataset = register(stand, upload).json()
    reading(stand, worker)
    worker.store.cut()
    waits = "a warning says so"
    stand.wait_until(
        lambda: "object_store_unavailable" in stand.warnings(job_of(dataset)), 60 + SLACK_SECONDS, waits
    )
    worker.store.heal()
    is_ready(stand, dataset, digest, attempts=1)


def test_a6_a_part_deleted_behind_our_back(stand: Stand, upload: Json) -> None:
    """As O5: the data set says why it cannot be made."""
    stand.worker()
    stand.objects.delete(*objects(stand, upload))
    dataset = register(stand, upload).json()
    stand.failed(job_of(dataset), "invalid_input", attempts=1)
    found = stand.http.get(f"/v1/datasets/{dataset['id']}").json()
    assert found["state"] == "failed", "nothing is wrong with the files"
    assert [problem["code"] for problem in found["problems"]] == ["invalid_input"]
    assert "part 1 of the upload is lost" in found["problems"][0]["message"]


def test_a6_the_used_upload_goes_and_the_data_set_stays(stand: Stand, upload: Json, digest: str) -> None:
    """Swept again and again while the data set is made, the bytes go when it is there, and not before."""
    stand.worker()
    dataset = register(stand, upload).json()

    def ready() -> bool:
        stand.sweep()
        over = stand.state(job_of(dataset)) == "succeeded"
        assert over or objects(stand, upload)
        return over

    stand.wait_until(ready, 60 + SLACK_SECONDS, "the data set is ready")
    is_ready(stand, dataset, digest, attempts=1)
    assert objects(stand, upload) == set()
    assert rows(stand, upload) == {}
    samples = stand.http.get(f"/v1/datasets/{dataset['id']}/inspect", params={"n": 4})
    assert len(samples.json()["data"]) == 4
    again = register(stand, upload)
    assert (again.status_code, again.json()["id"]) == (202, dataset["id"])
    assert register(stand, upload, "another name").json()["code"] == "upload_not_complete"
    second = begin(stand.http, CONTENT)
    ends_well(stand, second, CONTENT)
    again = register(stand, second)
    assert (again.status_code, again.json()["id"]) == (202, dataset["id"]), "the file is known, however it comes"
    is_ready(stand, dataset, digest, attempts=1)
