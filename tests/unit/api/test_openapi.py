"""The checked-in OpenAPI document. Refresh it with `python -m api.openapi > tests/openapi.json` and review the difference."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from api.main import create_app
from api.openapi import document
from core.settings import Settings

pytestmark = pytest.mark.unit

COPY = Path(__file__).resolve().parents[2] / "openapi.json"


@pytest.fixture(scope="module")
def made() -> dict[str, Any]:
    return document(create_app(Settings()))


def test_the_copy_is_current(made: dict[str, Any]) -> None:
    copy = json.loads(COPY.read_text())
    made["info"]["version"] = copy["info"]["version"]  # an installed package and a source tree may say different things
    assert json.loads(json.dumps(made)) == copy, "run: python -m api.openapi > tests/openapi.json"


def test_every_reference_leads_somewhere(made: dict[str, Any]) -> None:
    names = set(re.findall(r'"#/components/schemas/([^"]+)"', json.dumps(made)))
    assert names <= set(made["components"]["schemas"])
    assert {"JobRequest", "JobView", "Problem", "DistillationSpec"} <= names


def test_every_route_documents_its_refusals(made: dict[str, Any]) -> None:
    ids: list[str] = []
    for path, operations in made["paths"].items():
        for method, operation in operations.items():
            ids.append(operation["operationId"])
            assert operation["tags"], (method, path)
            assert operation["summary"], (method, path)
            assert operation["description"], (method, path)
            for status, response in operation["responses"].items():
                assert response["description"], (method, path, status)
                if status[0] in "45" and path != "/readyz":
                    assert list(response["content"]) == ["application/problem+json"], (method, path, status)
            if "{" in path:
                assert "404" in operation["responses"] or method == "head", (method, path)
    assert len(ids) == len(set(ids))


def test_the_request_is_documented(made: dict[str, Any]) -> None:
    body = made["paths"]["/v1/jobs"]["post"]["requestBody"]
    assert body["content"]["application/json"]["schema"] == {
        "anyOf": [{"$ref": f"#/components/schemas/{name}"} for name in ("JobRequest", "ProbeRequest")]
    }
    assert made["components"]["schemas"]["JobRequest"]["required"] == ["dataset", "ipc"]
