"""What can be asked for: data sets, methods, schemas; and the page for a person."""

from __future__ import annotations

import json
import re

import pytest
import sqlalchemy as sa
from pydantic import TypeAdapter

from core.catalogue import CATALOGUE
from core.jobs.models import Job
from core.specs.job import DistillationSpec
from core.specs.recipes import RECIPES
from core.specs.resolve import SCHEMAS
from tests.fixtures.api import Api, problem


@pytest.fixture
def database_url(sqlite_url: str) -> str:
    """Nothing here depends on the database."""
    return sqlite_url


def test_data_sets(api: Api) -> None:
    listed = api.http.get("/v1/datasets").json()
    assert [item["name"] for item in listed["data"]] == list(CATALOGUE)
    assert listed["has_more"] is False
    one = api.http.get("/v1/datasets/cifar10").json()
    assert one in listed["data"]
    assert (one["channels"], one["height"], one["width"], one["num_classes"]) == (3, 32, 32, 10)
    assert (one["num_train"], one["num_test"], one["mirrored"]) == (50_000, 10_000, True)
    assert (one["classes"][0], len(one["digest"]), one["links"]["self"]) == ("airplane", 64, "/v1/datasets/cifar10")
    assert one["verified"] is True
    unverified = api.http.get("/v1/datasets/tiny-imagenet").json()
    assert (unverified["verified"], unverified["digest"]) == (False, None)
    problem(api.http.get("/v1/datasets/imagenet"), 404, "dataset_not_found")


def test_methods_show_what_they_resolve_to(api: Api) -> None:
    listed = api.http.get("/v1/methods").json()["data"]
    assert [item["name"] for item in listed] == list(RECIPES)
    for item in listed:
        for dataset in CATALOGUE:
            detail = api.http.get(item["links"]["self"], params={"dataset": dataset, "ipc": 2}).json()
            assert item.items() <= detail.items()
            DistillationSpec.model_validate_json(json.dumps(detail["spec"]))
            assert detail["spec"]["dataset"]["name"] == dataset
            assert detail["spec"]["ipc"] == 2
    dm = api.http.get("/v1/methods/dm").json()
    assert dm["spec"]["method"]["num_iterations"] == 20_000
    assert {"dataset": "cifar10", "ipc": 10, "mean": 0.489, "std": 0.006}.items() <= next(
        row for row in dm["published"] if (row["dataset"], row["ipc"]) == ("cifar10", 10)
    ).items()
    assert dm["budget"] == {"stored_scalars": 307_200, "bytes_float32": 1_228_800, "real_images": 50_000, "ratio": 0.002}
    small = api.http.get("/v1/methods/dm?scale=small&dataset=digits&ipc=1").json()
    assert small["spec"]["method"]["num_iterations"] == 300

    problem(api.http.get("/v1/methods/nope"), 404, "not_found")
    problem(api.http.get("/v1/methods/dm?dataset=nope"), 404, "dataset_not_found")
    problem(api.http.get("/v1/methods/dm?dataset=digits&ipc=1000"), 422, "validation_failed")
    for query in ("ipc=0", "ipc=x", "scale=huge", "dataset=%00"):
        problem(api.http.get(f"/v1/methods/dm?{query}"), 422, "validation_failed")


def test_schemas_describe_what_is_accepted(api: Api) -> None:
    listed = api.http.get("/v1/schemas").json()["data"]
    assert [item["name"] for item in listed] == list(SCHEMAS)
    for item in listed:
        schema = api.http.get(item["links"]["self"]).json()
        assert schema["$schema"] == "https://json-schema.org/draft/2020-12/schema"
    schema = api.http.get("/v1/schemas/job-request").json()
    assert schema["properties"]["ipc"]["minimum"] == 1
    assert schema == {"$schema": schema["$schema"], **TypeAdapter(SCHEMAS["job-request"]).json_schema()}
    problem(api.http.get("/v1/schemas/nope"), 404, "not_found")


def test_version(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("DISTILL_CODE_REVISION", raising=False)
    found = api.http.get("/v1/version").json()
    assert (found["spec_version"], found["revision"]) == (1, "unknown")
    assert found["service"]
    monkeypatch.setenv("DISTILL_CODE_REVISION", "abc123")
    assert api.http.get("/v1/version").json()["revision"] == "abc123"


class TestPage:
    def test_shows_jobs_and_their_state(self, api: Api) -> None:
        assert "No job yet" in api.http.get("/").text
        job_id = api.submit()["id"]
        lease = api.claim(job_id)
        progress = {"phase": "distilling", "step": 75, "total_steps": 300, "fraction": 0.25, "eta_seconds": 9.0}
        api.report(lease, progress=progress)
        answer = api.http.get("/")
        assert answer.headers["content-type"].startswith("text/html")
        assert "default-src 'none'" in answer.headers["content-security-policy"]
        for text in (job_id, "dm on digits, ipc 1", "running", "distilling: 75 of 300, 9 s left", "width:25.0%"):
            assert text in answer.text
        assert "<script" not in answer.text
        api.fail(lease)
        assert "the loss is not finite" in api.http.get("/").text

    def test_older_jobs_are_a_page_further(self, api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("api.home.JOBS", 2)
        ids = [api.submit()["id"] for _ in range(3)]

        def shown(path: str) -> tuple[list[str], list[str]]:
            text = api.http.get(path).text
            return [each for each in ids if f"<code>{each}" in text], re.findall('"([^"]*)">(?:newest|older)<', text)

        assert shown("/") == (ids[1:], [f"/?after={ids[1]}"])
        assert shown(f"/?after={ids[1]}") == (ids[:1], ["/"])
        assert shown(f"/?after={ids[0]}") == ([], ["/"])

    @pytest.mark.parametrize("after", ["x", "job_" + "0" * 32])
    def test_a_page_after_no_job_is_refused(self, api: Api, after: str) -> None:
        problem(api.http.get("/", params={"after": after}), 400, "invalid_cursor")

    def test_shows_accuracies_where_there_are_some(self, api: Api) -> None:
        scores = [{"name": "distilled_8bit", "mean": 0.6234}, {"name": 1}, {"mean": 1}]
        api.succeed(api.claim(api.submit()["id"]), scores=scores)
        assert "distilled 8bit 62.3 %" in api.http.get("/").text

    def test_escapes_everything_that_comes_from_outside(self, api: Api) -> None:
        job_id = api.submit()["id"]
        attack = "<script>alert(1)</script>$rows&\"'"
        with api.database.write() as session:
            values = {
                "recipe": attack[:64], "dataset": attack[:64], "state": "failed",
                "error": {"code": "x", "message": attack}, "reason": {"code": "x", "message": attack},
            }
            session.execute(sa.update(Job).where(Job.id == job_id).values(**values))
        text = api.http.get("/").text
        assert "<script" not in text
        assert "&lt;script&gt;alert(1)&lt;/script&gt;$rows&amp;" in text
