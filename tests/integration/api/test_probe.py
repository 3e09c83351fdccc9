"""POST /v1/jobs with `kind: probe`: accepted as every job is, and misbehaving only where the installation allows it."""

from __future__ import annotations

from typing import Any

import pytest

from core.jobs.models import Job
from core.settings import Settings
from core.specs.job import ProbeSpec, parse_job_spec
from tests.fixtures.api import Api, problem, serving

EXIT = {"kind": "exit", "code": 72}


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({"kind": "experts"}, "kind"),
        ({"kind": ["probe"]}, "kind"),
        ({"kind": "probe", "ipc": 1}, "ipc"),
        ({"kind": "probe", "dataset": {"name": "digits"}}, "dataset"),
        ({"kind": "probe", "work": {"steps": 0}}, "work.steps"),
        ({"kind": "probe", "fault": {"kind": "explode"}}, "fault"),
        ({"kind": "probe", "fault": EXIT}, "fault.kind"),
        ({"kind": "probe", "fault": {"kind": "exit"}}, "fault.code"),
    ],
)
def test_what_is_refused_names_its_field_and_creates_nothing(api: Api, body: dict[str, Any], field: str) -> None:
    found = problem(api.http.post("/v1/jobs", json=body), 422, "validation_failed")
    pointer = "/" + field.replace(".", "/")
    assert pointer in {error["pointer"] for error in found["errors"]}, found
    with api.database.read() as session:
        assert session.query(Job).count() == 0


def test_a_probe_is_resolved_shown_and_listed(api: Api) -> None:
    body = {"kind": "probe", "work": {"steps": 3}, "seed": 5, "tags": {"why": "smoke"}}
    only = api.http.post("/v1/jobs?validate_only=true", json=body)
    assert only.status_code == 200
    assert (only.json()["budget"], only.json()["estimate"]) == (None, None)
    answer = api.http.post("/v1/jobs", json=body)
    assert answer.status_code == 202
    job = answer.json()
    assert (job["kind"], job["dataset"], job["recipe"], job["ipc"]) == ("probe", "", "", None)
    spec = parse_job_spec(job["spec"])
    assert isinstance(spec, ProbeSpec)
    assert only.json()["spec"] == job["spec"]
    assert (spec.work.steps, spec.seed, spec.fault.kind) == (3, 5, "none")
    assert [item["id"] for item in api.http.get("/v1/jobs?kind=probe").json()["data"]] == [job["id"]]


def test_an_installation_may_allow_probes_that_misbehave(settings: Settings) -> None:
    with serving(settings.model_copy(update={"probe_faults": True})) as api:
        answer = api.http.post("/v1/jobs", json={"kind": "probe", "fault": EXIT})
        assert answer.status_code == 202
        assert answer.json()["spec"]["fault"] == {"kind": "exit", "code": 72, "step": 0, "attempts": 1}
