"""An evaluation that is given to jobs of its own, with one worker and with several, one of which dies."""

from __future__ import annotations

import time
from typing import Any

import pytest

from tests.faults.stand import SLACK_SECONDS, Node, Stand
from tests.fixtures.service import QUICK

pytestmark = pytest.mark.faults

JOB: dict[str, Any] = QUICK | {
    "seed": 3, "evaluation": {"num_eval": 3, "num_epochs": 40, "random_draws": 1, "check_8bit": False},
}
UNITS = 4


def parts(stand: Stand, job_id: str) -> list[dict[str, Any]]:
    found = stand.http.get("/v1/jobs", params={"kind": "evaluation", "limit": 100}).json()["data"]
    return [job for job in found if job["parent_id"] == job_id]


def scores(job: dict[str, Any]) -> list[tuple[str, float, int]]:
    return [(score["name"], score["mean"], score["n"]) for score in job["result"]["summary"]["scores"]]


def test_one_worker_does_all_parts_and_the_scores_are_those_of_one_job(stand: Stand) -> None:
    worker = stand.serving_worker(evaluation_units=0)
    whole = stand.succeeded(stand.submit(**JOB)["id"], attempts=1, seconds=120)
    worker.kill()
    stand.serving_worker(evaluation_units=3)
    job = stand.succeeded(stand.submit(**JOB)["id"], attempts=2, seconds=240)
    assert job["failures"] == 0
    assert [part["state"] for part in parts(stand, job["id"])] == ["succeeded"] * 2
    assert scores(job) == scores(whole)
    for part in parts(stand, job["id"]):
        stand.succeeded(part["id"], attempts=1)
        assert stand.swept(part["id"]) == {1}
    assert stand.swept(job["id"]) == {2}

    assert stand.http.delete(f"/v1/jobs/{job['id']}").status_code == 204
    assert parts(stand, job["id"]) == []
    assert [left["id"] for left in stand.http.get("/v1/jobs").json()["data"]] == [whole["id"]]


def test_two_workers_share_the_parts_and_one_dies(stand: Stand) -> None:
    workers = [stand.serving_worker(evaluation_units=1) for _ in range(2)]
    long = JOB | {"evaluation": JOB["evaluation"] | {"num_epochs": 1500}}
    job = stand.submit(**long)
    stand.wait_until(lambda: stand.state(job["id"]) == "waiting", 120 + SLACK_SECONDS, "the set is finished")
    dies = busy(stand, workers)
    dies.kill()
    done = stand.succeeded(job["id"], seconds=400)
    assert done["failures"] == 0
    found = parts(stand, job["id"])
    assert len(found) == UNITS
    assert sorted(part["failures"] for part in found) == [0, 0, 0, 1]
    assert len({attempt["worker"] for part in found for attempt in stand.attempts(part["id"])}) == 2
    assert sum(n for _, _, n in scores(done)) == UNITS


def test_a_cancelled_job_takes_its_evaluation_with_it(stand: Stand) -> None:
    workers = [stand.serving_worker(evaluation_units=1)]
    job = stand.submit(**(JOB | {"evaluation": JOB["evaluation"] | {"num_epochs": 20_000}}))
    stand.wait_until(lambda: stand.state(job["id"]) == "waiting", 120 + SLACK_SECONDS, "the set is finished")
    busy(stand, workers)
    asked = time.monotonic()
    assert stand.http.post(f"/v1/jobs/{job['id']}/cancel").json()["state"] == "cancelled"
    for part in parts(stand, job["id"]):
        stand.in_state(part["id"], "cancelled", 5)
    assert time.monotonic() - asked < 5 + SLACK_SECONDS
    stand.wait_until(lambda: not workers[0].children(), 5 + SLACK_SECONDS, "no child is left")
    stand.succeeded(stand.probe(steps=2)["id"], attempts=1)


def busy(stand: Stand, workers: list[Node]) -> Node:
    """A worker whose child is training networks of a part."""
    found: list[Node] = []

    def running() -> bool:
        found[:] = [worker for worker in workers if worker.children()]
        return len(found) == len(workers) and any(part["progress"] for part in parts(stand, job_of(stand)))

    stand.wait_until(running, 120 + SLACK_SECONDS, "every worker trains")
    return found[0]


def job_of(stand: Stand) -> str:
    """The one distillation of the test."""
    (job,) = stand.http.get("/v1/jobs", params={"kind": "distillation"}).json()["data"]
    return str(job["id"])
