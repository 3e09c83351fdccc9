"""DELETE /v1/jobs/{id}: what is over disappears at once, from every read; what others need stays."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from core.catalogue import dataset_info
from core.jobs import leases
from core.jobs.ids import new_id
from core.jobs.metrics import MetricPoint
from core.specs.job import parse_job_spec
from core.specs.requirements import required_experts
from tests.fixtures import jobs
from tests.fixtures.api import BODY, Api, problem

pytestmark = pytest.mark.integration

METHOD = {"models": {"kind": "pretrained_pool", "num_networks": 1, "training": {"num_epochs": 1}}}
ROUTES = ("", "/attempts", "/events", "/events/stream", "/metrics", "/metrics/series", "/artifacts", "/preview")


def finished(api: Api, tmp_path: Path) -> dict[str, Any]:
    job_id = api.submit()["id"]
    lease = api.claim(job_id)
    api.report(lease, metrics=[MetricPoint("loss", 1, 1.0)])
    api.succeed(lease, [api.store(lease, "preview.png", "preview", "image/png", b"x", tmp_path)])
    return api.job(job_id)


def delete(api: Api, job_id: str, **headers: str) -> Any:
    return api.http.delete(f"/v1/jobs/{job_id}", headers=headers)


def waiting(api: Api) -> tuple[str, str]:
    """A job that waits, and the pool that it waits for."""
    claim = jobs.claim(api.database, api.submit(method=METHOD)["id"])
    needed = required_experts(parse_job_spec(claim.spec), dataset_info("digits").identity)
    with api.database.write() as session:
        leases.wait(session, claim.lease, needed)
    (pool,) = api.job(claim.lease.job_id)["waiting_for"]
    return claim.lease.job_id, pool


def test_a_job_that_is_not_over_stays(api: Api) -> None:
    job_id = api.submit()["id"]
    problem(delete(api, job_id), 409, "job_not_terminal")
    api.claim(job_id)
    assert "cancel" in problem(delete(api, job_id), 409, "job_not_terminal")["detail"]
    assert api.job(job_id)["state"] == "running"


def test_unknown_jobs_and_another_tenants_are_404(api: Api) -> None:
    other = jobs.create(api.database, tenant="other").id
    for job_id in (new_id("job"), "nope", other):
        problem(delete(api, job_id), 404, "not_found")


def test_it_is_hidden_from_every_read(api: Api, tmp_path: Path) -> None:
    job, other = finished(api, tmp_path), finished(api, tmp_path)
    (artifact,) = api.http.get(f"/v1/jobs/{job['id']}/artifacts").json()["data"]
    answer = delete(api, job["id"])
    assert (answer.status_code, answer.content) == (204, b"")
    for route in ROUTES:
        problem(api.http.get(f"/v1/jobs/{job['id']}{route}"), 404, "not_found")
    for path in ("", "/content", "/preview"):
        problem(api.http.get(f"/v1/artifacts/{artifact['id']}{path}"), 404, "not_found")
    assert api.http.head(f"/v1/artifacts/{artifact['id']}/content").status_code == 404
    for verb in ("cancel", "retry"):
        problem(api.http.post(f"/v1/jobs/{job['id']}/{verb}"), 404, "not_found")
    problem(delete(api, job["id"]), 404, "not_found")
    assert [item["id"] for item in api.http.get("/v1/jobs").json()["data"]] == [other["id"]]
    assert job["id"] not in api.http.get("/").text


def test_a_page_may_begin_at_a_job_that_was_deleted(api: Api, tmp_path: Path) -> None:
    oldest, middle, newest = (finished(api, tmp_path)["id"] for _ in range(3))
    delete(api, middle)
    assert [j["id"] for j in api.http.get("/v1/jobs", params={"after": middle}).json()["data"]] == [oldest]
    assert [j["id"] for j in api.http.get("/v1/jobs", params={"before": middle}).json()["data"]] == [newest]


def test_if_match_names_the_version(api: Api) -> None:
    job_id = api.submit()["id"]
    before = api.http.get(f"/v1/jobs/{job_id}").headers["etag"]
    api.http.post(f"/v1/jobs/{job_id}/cancel")
    problem(delete(api, job_id, **{"If-Match": before}), 412, "precondition_failed")
    now = api.http.get(f"/v1/jobs/{job_id}").headers["etag"]
    assert now != before
    assert delete(api, job_id, **{"If-Match": f'"x", {now}'}).status_code == 204
    problem(delete(api, job_id, **{"If-Match": "*"}), 404, "not_found")


def test_a_key_whose_job_was_deleted_makes_no_second_one(api: Api) -> None:
    headers = {"Idempotency-Key": "k"}
    job_id = api.submit(headers=headers)["id"]
    api.http.post(f"/v1/jobs/{job_id}/cancel")
    delete(api, job_id)
    assert job_id in problem(api.http.post("/v1/jobs", json=BODY, headers=headers), 404, "not_found")["detail"]
    assert api.http.get("/v1/jobs").json()["data"] == []


def test_networks_stay_while_a_job_that_is_not_over_needs_them(api: Api) -> None:
    waiter, pool = waiting(api)
    lease = api.claim(pool)
    file = leases.StoredFile("experts", "experts.safetensors", "a/b", 1, "ab" * 32, "jobs/x/experts")
    api.succeed(lease, [file])
    assert api.job(waiter)["state"] == "queued"
    assert waiter in problem(delete(api, pool), 409, "job_has_dependants")["detail"]
    api.http.post(f"/v1/jobs/{waiter}/cancel")
    assert delete(api, pool).status_code == 204

    again, other_pool = waiting(api)
    assert other_pool != pool, "deleted networks are trained anew"
    assert api.job(again)["state"] == "waiting"


def test_a_job_that_asks_for_networks_while_they_are_deleted_gets_them(api: Api) -> None:
    """The delete comes between the look for the pool and the wait for it."""
    waiter, pool = waiting(api)
    api.succeed(api.claim(pool), [leases.StoredFile("experts", "e", "a/b", 1, "ab" * 32, "jobs/x/e")])
    api.http.post(f"/v1/jobs/{waiter}/cancel")
    claim = jobs.claim(api.database, api.submit(method=METHOD)["id"])
    delete(api, pool)
    needed = required_experts(parse_job_spec(claim.spec), dataset_info("digits").identity)
    with api.database.write() as session:
        assert leases.wait(session, claim.lease, needed) == "waiting"
    (made,) = api.job(claim.lease.job_id)["waiting_for"]
    assert made != pool
