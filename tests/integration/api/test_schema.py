"""Schemathesis over the whole OpenAPI document: no 5xx, no undocumented answer, and what breaks the schema is refused.

Half of the requests name objects that exist, so that they get further than 404. The document's `default` answer is taken out
first: with it, every status would count as documented.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from schemathesis import APIOperation, GenerationMode
from schemathesis.specs.openapi import checks

from api.main import create_app
from api.openapi import document
from core.jobs import workers
from core.jobs.ids import new_id
from core.settings import Settings
from tests.fixtures.api import Api, serving
from tests.fixtures.uploads import begin

pytestmark = pytest.mark.integration

EXAMPLES = 10
"""Requests for each operation and mode."""
CHECKS = [
    schemathesis.checks.not_a_server_error, checks.status_code_conformance, checks.content_type_conformance,
    checks.response_headers_conformance, checks.response_schema_conformance, checks.negative_data_rejection,
]


def documented() -> dict[str, Any]:
    made = document(create_app(Settings()))
    for operations in made["paths"].values():
        for operation in operations.values():
            del operation["responses"]["default"]
    return made


CONFIG = schemathesis.Config.from_dict({
    "checks": {"negative_data_rejection": {"expected-statuses": [400, 404, 405, 409, 412, 413, 415, 416, 422]}},
})
SCHEMA = schemathesis.openapi.from_dict(documented(), config=CONFIG)
OPERATIONS = [found.ok() for found in SCHEMA.get_all_operations()]


@pytest.fixture(scope="module")
def api(tmp_path_factory: pytest.TempPathFactory, _migrated_sqlite: Path, broker_url: str) -> Iterator[Api]:
    """One API for all operations: what one example leaves behind is there for the next."""
    folder = tmp_path_factory.mktemp("schema")
    database = folder / "distill.db"
    database.write_bytes(_migrated_sqlite.read_bytes())
    config = Settings(
        home=folder / "home", database_url=f"sqlite:///{database}", broker_url=broker_url, stream_seconds=0.03,
        max_open_uploads=10_000, max_stored_bytes=2**53,
    )
    with serving(config) as made:
        yield made


def existing(api: Api, tmp_path: Path) -> dict[str, list[str]]:
    """Values of path parameters that lead somewhere. Jobs are over, because a stream of one that runs would not end."""
    job_id = api.submit()["id"]
    lease = api.claim(job_id)
    api.succeed(lease, [api.store(lease, "preview.png", "preview", "image/png", b"png", tmp_path)])
    (artifact,) = api.http.get(f"/v1/jobs/{job_id}/artifacts").json()["data"]
    cancelled = api.submit()["id"]
    api.http.post(f"/v1/jobs/{cancelled}/cancel")
    worker = new_id("wkr")
    with api.database.write() as session:
        workers.register(session, worker, "host-a", 1, "cpu")
    uploads = [begin(api.http, b"x") for _ in range(2)]
    api.http.post(uploads[1]["links"]["cancel"])
    return {
        "job_id": [job_id, cancelled], "artifact_id": [artifact["id"]], "worker_id": [worker],
        "upload_id": [upload["id"] for upload in uploads],
    }


@pytest.mark.parametrize("operation", OPERATIONS, ids=lambda operation: operation.label)
def test_the_answers_are_what_the_document_says(api: Api, operation: APIOperation, tmp_path: Path) -> None:
    known = existing(api, tmp_path)
    named = [parameter.name for parameter in operation.path_parameters if parameter.name in known]
    cases = st.one_of(
        operation.as_strategy(generation_mode=mode, path_parameters=fixed)
        for mode in GenerationMode
        for fixed in ({}, {name: known[name][0] for name in named}, {name: known[name][-1] for name in named})
    )

    @settings(
        max_examples=2 * EXAMPLES, deadline=None, database=None, derandomize=True, suppress_health_check=list(HealthCheck),
        phases=[Phase.generate],
    )
    @given(case=cases)
    def run(case: schemathesis.Case) -> None:
        case.call_and_validate(base_url=api.url, checks=CHECKS, timeout=60)

    run()
