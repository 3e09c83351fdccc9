"""POST /v1/jobs/{id}/retry: a job that is over is repeated as a new one, with changes and without."""

from __future__ import annotations

from typing import Any

import pytest
import sqlalchemy as sa

from core.catalogue import dataset_info
from core.jobs import leases
from core.jobs.ids import new_id
from core.jobs.models import Job
from core.specs.job import parse_job_spec
from core.specs.requirements import required_experts
from tests.fixtures import jobs
from tests.fixtures.api import Api, problem

pytestmark = pytest.mark.integration

METHOD = {"models": {"kind": "pretrained_pool", "num_networks": 1, "training": {"num_epochs": 1}}}


def over(api: Api, **changes: Any) -> dict[str, Any]:
    """A job that has failed."""
    job = api.submit(**changes)
    api.fail(api.claim(job["id"]))
    return api.job(job["id"])


def retry(api: Api, job_id: str, body: Any = None, **headers: str) -> Any:
    return api.http.post(f"/v1/jobs/{job_id}/retry", json=body, headers=headers)


def count(api: Api) -> int:
    with api.database.read() as session:
        return session.scalar(sa.select(sa.func.count()).select_from(Job)) or 0


class TestRefusals:
    def test_an_unknown_job_and_another_tenants_are_404(self, api: Api) -> None:
        for job_id in (new_id("job"), "nope", jobs.create(api.database, tenant="other").id):
            problem(retry(api, job_id), 404, "not_found")

    def test_a_job_that_is_not_over_is_409(self, api: Api) -> None:
        job_id = api.submit()["id"]
        assert "queued" in problem(retry(api, job_id), 409, "invalid_state")["detail"]
        api.claim(job_id)
        assert "running" in problem(retry(api, job_id), 409, "invalid_state")["detail"]
        assert count(api) == 1

    def test_networks_are_repeated_through_the_job_that_needs_them(self, api: Api) -> None:
        claim = jobs.claim(api.database, api.submit(method=METHOD)["id"])
        needed = required_experts(parse_job_spec(claim.spec), dataset_info("digits").identity)
        with api.database.write() as session:
            leases.wait(session, claim.lease, needed)
        (pool,) = api.job(claim.lease.job_id)["waiting_for"]
        api.fail(api.claim(pool))
        assert "experts" in problem(retry(api, pool), 409, "invalid_state")["detail"]
        assert retry(api, claim.lease.job_id).status_code == 202

    def test_a_specification_of_another_version_is_409(self, api: Api) -> None:
        job_id = over(api)["id"]
        with api.database.write() as session:
            job = session.get_one(Job, job_id)
            job.spec = job.spec | {"spec_version": 99}
        assert "another version" in problem(retry(api, job_id), 409, "invalid_state")["detail"]

    def test_no_bad_change_creates_anything(self, api: Api) -> None:
        job_id = over(api)["id"]
        for body, pointer in (
            ({"sead": 1}, "/sead"), ({"ipc": 2}, "/ipc"), ({"dataset": {"name": "mnist"}}, "/dataset"), ({"seed": -1}, "/seed"),
            ({"seed": "1"}, "/seed"), ({"method": {"num_iteration": 1}}, "/method/num_iteration"), ({"method": 1}, "/method"),
            ({"method": {"network": {"depth": 5}}}, "/method/network/depth"), ({"resources": {"gpus": 2}}, "/resources/gpus"),
            ({"evaluation": {"protocol": "x"}}, "/evaluation/protocol"), ({"priority": "urgent"}, "/priority"), ([], ""),
            ({"tags": {"a b": "c"}}, "/tags/a b"), ({"max_attempts": 0}, "/max_attempts"),
        ):
            found = problem(retry(api, job_id, body), 422, "validation_failed")
            assert pointer in {error["pointer"] for error in found["errors"]}, (body, found)
        for content, kind, status, code in (
            (b"{", "application/json", 400, "invalid_json"), (b"{}", "text/plain", 415, "unsupported_media_type"),
        ):
            answer = api.http.post(f"/v1/jobs/{job_id}/retry", content=content, headers={"Content-Type": kind})
            problem(answer, status, code)
        assert count(api) == 1


class TestAccepted:
    def test_without_changes_the_specification_is_the_same(self, api: Api) -> None:
        before = over(api, seed=7, tags={"team": "a"}, priority="high", evaluation={"num_eval": 1})
        answer = retry(api, before["id"])
        assert answer.status_code == 202
        job = answer.json()
        assert answer.headers["location"] == f"/v1/jobs/{job['id']}" == job["links"]["self"]
        assert job["id"] != before["id"]
        assert (job["state"], job["retried_from"], before["retried_from"]) == ("queued", before["id"], None)
        assert (job["spec"], job["attempt"], job["failures"], job["error"]) == (before["spec"], 0, 0, None)
        assert api.job(before["id"]) == before, "terminal states never change"
        events = api.http.get(f"/v1/jobs/{job['id']}/events").json()["data"]
        assert [event["message"] for event in events] == [f"the job was accepted; it repeats {before['id']}"]
        assert api.claim(job["id"]).attempt == 1

    def test_changes_are_merged_and_the_rest_stays(self, api: Api) -> None:
        before = over(api, seed=7, tags={"team": "a"}, method={"network": {"kind": "convnet", "width": 16}})
        assert before["spec"]["evaluation"]["network"]["width"] == 16
        body = {
            "seed": 8, "method": {"num_iterations": 1000, "network": {"width": 32}}, "resources": {"gpus": 1},
            "max_attempts": 5, "priority": "low", "timeout_seconds": 60, "tags": {"try": "2"}, "evaluation": {"num_epochs": 3},
        }
        job = retry(api, before["id"], body).json()
        spec = job["spec"]
        assert (job["seed"], job["priority"], job["tags"], job["max_attempts"]) == (8, "low", {"try": "2"}, 5)
        assert (spec["timeout_seconds"], spec["resources"]) == (60, {"gpus": 1, "deterministic": False})
        assert (spec["method"]["num_iterations"], spec["method"]["network"]["width"]) == (1000, 32)
        assert (spec["evaluation"]["num_epochs"], spec["evaluation"]["network"]["width"]) == (3, 32), "it follows the method's"
        assert spec["method"]["objective"] == before["spec"]["method"]["objective"]
        assert "method.num_iterations: 20000 -> 300" in before["spec"]["capped"]
        assert not any(note.startswith("method.num_iterations") for note in spec["capped"])
        with api.database.read() as session:
            assert session.get_one(Job, job["id"]).queue == "gpu"

    def test_a_network_of_the_evaluations_own_stays(self, api: Api) -> None:
        before = over(api, evaluation={"network": {"kind": "convnet", "width": 8}})
        job = retry(api, before["id"], {"method": {"network": {"width": 24}}}).json()
        assert (job["spec"]["method"]["network"]["width"], job["spec"]["evaluation"]["network"]["width"]) == (24, 8)

    def test_a_key_makes_one_job_of_repeated_requests(self, api: Api) -> None:
        first, second = over(api)["id"], over(api)["id"]
        headers = {"Idempotency-Key": "again"}
        made = retry(api, first, {"seed": 1}, **headers).json()
        replay = retry(api, first, {"seed": 1}, **headers)
        assert (replay.status_code, replay.headers["idempotent-replayed"], replay.json()["id"]) == (202, "true", made["id"])
        problem(retry(api, first, {"seed": 2}, **headers), 422, "idempotency_key_reused")
        assert retry(api, second, {"seed": 1}, **headers).json()["id"] != made["id"], "the key belongs to the path"
        assert count(api) == 4

    def test_a_retry_can_be_retried(self, api: Api) -> None:
        first = over(api)["id"]
        second = retry(api, first).json()["id"]
        api.http.post(f"/v1/jobs/{second}/cancel")
        assert retry(api, second).json()["retried_from"] == second
