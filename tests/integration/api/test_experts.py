"""Jobs that wait for networks that other jobs train, as a client sees them."""

from __future__ import annotations

from typing import Any

import pytest

from core.catalogue import dataset_info
from core.jobs import leases
from core.jobs.states import State
from core.specs.job import parse_job_spec
from core.specs.requirements import required_experts
from tests.fixtures import jobs
from tests.fixtures.api import BODY, Api, problem

pytestmark = pytest.mark.integration

POOLS: dict[str, Any] = {
    "models": {"kind": "pretrained_pool", "num_networks": 2, "training": {"num_epochs": 1}},
    "init": {"kind": "herding", "training": {"num_epochs": 1}},
}


def waiting_job(api: Api) -> dict[str, Any]:
    """A job that waits for two trainings."""
    made = api.submit(method=POOLS)
    claim = jobs.claim(api.database, made["id"])
    needed = required_experts(parse_job_spec(claim.spec), dataset_info("digits").identity)
    with api.database.write() as session:
        assert leases.wait(session, claim.lease, needed) == State.WAITING
    return api.job(made["id"])


def test_a_client_cannot_submit_a_training(api: Api) -> None:
    training = {"kind": "experts", "dataset": {"name": "digits"}, "pool": {"num_networks": 1, "training": {"num_epochs": 1}}}
    for body in (training, BODY | {"kind": "experts"}):
        refused = problem(api.http.post("/v1/jobs", json=body), 422, "validation_failed")
        assert "/kind" in {error["pointer"] for error in refused["errors"]}


def test_the_job_shows_what_it_waits_for(api: Api) -> None:
    job = waiting_job(api)
    assert job["state"] == "waiting"
    assert job["state_reason"]["code"] == "waiting_for_experts"
    first, second = job["waiting_for"]
    for child_id in (first, second):
        child = api.job(child_id)
        assert (child["kind"], child["state"], child["parent_id"]) == ("experts", "queued", job["id"])
        assert (child["ipc"], child["recipe"], child["waiting_for"]) == (None, "", [])
        assert child["spec"]["pool"]["training"]["num_epochs"] == 1
    listed = {item["id"]: item for item in api.http.get("/v1/jobs").json()["data"]}
    assert listed[job["id"]]["waiting_for"] == [first, second]
    assert {item["id"] for item in api.http.get("/v1/jobs", params={"kind": "experts"}).json()["data"]} == {first, second}
    assert [item["id"] for item in api.http.get("/v1/jobs", params={"kind": "distillation"}).json()["data"]] == [job["id"]]
    assert [a["outcome"] for a in api.http.get(f"/v1/jobs/{job['id']}/attempts").json()["data"]] == ["waiting"]
    page = api.http.get("/").text
    assert "networks trained on digits" in page
    assert f"waits for {first}, {second}" in page


def test_a_cached_answer_is_stale_as_soon_as_one_training_ends(api: Api) -> None:
    job = waiting_job(api)
    first, second = job["waiting_for"]
    url = f"/v1/jobs/{job['id']}"
    tag = api.http.get(url).headers["etag"]
    assert api.http.get(url, headers={"If-None-Match": tag}).status_code == 304
    api.succeed(api.claim(first))
    answer = api.http.get(url, headers={"If-None-Match": tag})
    assert answer.status_code == 200
    assert answer.json()["waiting_for"] == [second]
    api.succeed(api.claim(second))
    woken = api.job(job["id"])
    assert (woken["state"], woken["waiting_for"], woken["state_reason"]) == ("queued", [], None)


def test_a_failed_training_is_the_error_of_the_job(api: Api) -> None:
    job = waiting_job(api)
    api.fail(api.claim(job["waiting_for"][0]))
    failed = api.job(job["id"])
    assert (failed["state"], failed["error"]["code"]) == ("failed", "experts_failed")
    assert failed["error"]["detail"]["job_id"] == job["waiting_for"][0]
    assert failed["error"]["message"] in api.http.get("/").text


def test_cancelling_a_waiting_job_cancels_what_only_it_needs(api: Api) -> None:
    job = waiting_job(api)
    first, second = job["waiting_for"]
    api.claim(first)
    answer = api.http.post(f"/v1/jobs/{job['id']}/cancel")
    assert (answer.status_code, answer.json()["state"]) == (200, "cancelled")
    assert (api.job(first)["state"], api.job(second)["state"]) == ("running", "cancelled")
    assert api.job(second)["state_reason"]["code"] == "not_needed"
