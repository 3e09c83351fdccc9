"""The OpenAPI document. `python -m api.openapi > tests/openapi.json` refreshes the copy that a test compares."""

from __future__ import annotations

import json
import sys
from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi
from fastapi.routing import APIRoute
from pydantic import BaseModel
from pydantic.json_schema import models_json_schema

from api.datasets.schemas import DatasetCheck, DatasetRequest
from api.errors import Problem, problems
from api.jobs.schemas import CancelRequest
from api.responses import PROBLEM_TYPE
from api.uploads.schemas import CompleteRequest, UploadRequest
from core.specs.job import JobRequest, ProbeRequest, RetryRequest

TITLE = "Distill Service"
DESCRIPTION = """Turns a training set into a tiny synthetic one.

Submit a job with `POST /v1/jobs`, follow it with `GET /v1/jobs/{id}` or its event stream, and download the distilled set from
its artifacts. Errors are `application/problem+json`. Send an `Idempotency-Key` with every submission: then repeating it after
a lost answer never makes a second job. Clients must ignore fields they do not know; requests with unknown fields are refused.
"""
TAGS = [
    {"name": "jobs", "description": "Submit, follow, cancel, repeat, delete."},
    {"name": "artifacts", "description": "Finished files and their bytes."},
    {"name": "uploads", "description": "Send a large file in parts, and go on after an interruption."},
    {"name": "data sets", "description": "What can be distilled: built-in sets, and your own from uploads."},
    {"name": "catalogue", "description": "Methods, and JSON Schemas of what a job may say."},
    {"name": "service", "description": "Health, version, workers, queues."},
]
UNREFERENCED: tuple[type[BaseModel], ...] = (
    Problem, JobRequest, ProbeRequest, RetryRequest, CancelRequest, DatasetRequest, DatasetCheck, UploadRequest,
    CompleteRequest,
)
"""Models that routes mention by name only."""


def operation_id(route: APIRoute) -> str:
    """The function's name: stable and readable in generated clients."""
    return route.name


def document(app: FastAPI) -> dict[str, Any]:
    """The document of an application."""
    made = get_openapi(
        title=app.title, version=app.version, description=app.description, tags=app.openapi_tags, routes=app.routes
    )
    schemas = made["components"]["schemas"]
    _, definitions = models_json_schema(
        [(model, "validation") for model in UNREFERENCED], ref_template="#/components/schemas/{model}"
    )
    for name, schema in definitions["$defs"].items():
        if _rounded(schemas.setdefault(name, schema)) != _rounded(schema):
            raise RuntimeError(f"two different schemas are called {name}")
    content = {PROBLEM_TYPE: {"schema": {"$ref": "#/components/schemas/Problem"}}}
    fallback = {"description": "Any other refusal", "content": content}
    for operations in made["paths"].values():
        for operation in operations.values():
            operation["responses"].setdefault("default", fallback)
            _drop_framework_errors(operation["responses"])
            operation["responses"].setdefault("422", problems(422)[422])  # for a query parameter that nobody knows
    for name in ("HTTPValidationError", "ValidationError"):
        schemas.pop(name, None)
    made["components"]["schemas"] = dict(sorted(schemas.items()))
    return made


def _rounded(schema: dict[str, Any]) -> Any:
    """The schema with floats for integers, as FastAPI makes of them: 2**63 - 1 does not survive that."""
    return json.loads(json.dumps(schema), parse_int=float)


def _drop_framework_errors(responses: dict[str, Any]) -> None:
    """FastAPI documents its own shape of 422 wherever a route has parameters; ours is a problem document."""
    if "HTTPValidationError" in json.dumps(responses.get("422", {})):
        del responses["422"]


def install(app: FastAPI) -> None:
    """Make `/openapi.json` serve this document."""

    def openapi() -> dict[str, Any]:
        if app.openapi_schema is None:
            app.openapi_schema = document(app)
        return app.openapi_schema

    app.openapi = openapi  # type: ignore[method-assign]


def main() -> None:
    """Print the document."""
    from api.main import create_app
    from core.settings import Settings

    sys.stdout.write(json.dumps(document(create_app(Settings())), indent=1, ensure_ascii=False) + "\n")


if __name__ == "__main__":
    main()
