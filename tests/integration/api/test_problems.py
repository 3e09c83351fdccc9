"""Whatever goes wrong, the answer is a problem document with the request's id and says nothing about our insides."""

from __future__ import annotations

import socket
import threading
from typing import Any

import httpx
import pytest

from core.settings import Settings
from tests.fixtures.api import BODY, Api, problem, serving
from tests.fixtures.uploads import begin


@pytest.fixture
def database_url(sqlite_url: str) -> str:
    """Nothing here depends on the database."""
    return sqlite_url


def test_unknown_paths_and_methods(api: Api) -> None:
    for path in ("/v1", "/v2/jobs", "/v1/jobs/", "/v1/jobs/x/nothing", "/favicon.ico", "/%00", "/v1/../etc/passwd"):
        problem(api.http.get(path), 404, "not_found")
    for method, path, allowed in (
        ("DELETE", "/v1/jobs", "GET, POST"), ("PUT", "/v1/jobs", "GET, POST"), ("GET", "/v1/jobs/x/cancel", "POST"),
        ("POST", "/v1/artifacts/x/content", "GET, HEAD"), ("PATCH", "/healthz", "GET"), ("TRACE", "/v1/jobs", "GET, POST"),
    ):
        answer = api.http.request(method, path)
        problem(answer, 405, "method_not_allowed")
        assert answer.headers["allow"] == allowed


def test_unknown_query_parameters_are_named(api: Api) -> None:
    job_id = api.submit()["id"]
    for path, known in (
        ("/v1/jobs", "after, before, dataset, kind, limit, recipe, state"), (f"/v1/jobs/{job_id}", "none"),
        (f"/v1/jobs/{job_id}/events/stream", "after"), ("/v1/workers", "none"), ("/v1/datasets/digits", "none"),
        ("/v1/methods/dm", "dataset, ipc, scale"), ("/healthz", "none"), ("/v1/artifacts/x/content", "none"),
    ):
        found = problem(api.http.get(f"{path}?sate=done&b%00=1&sate=2"), 422, "validation_failed")
        rule = f"unknown parameter; known: {known}"
        assert found["errors"] == [
            {"pointer": f"/query/{name}", "code": "extra_forbidden", "message": rule} for name in ("sate", "b\0")
        ]
        assert found["detail"] == f"/query/sate: {rule}"
    for method, path in (("POST", "/v1/jobs"), ("POST", f"/v1/jobs/{job_id}/cancel"), ("DELETE", f"/v1/jobs/{job_id}")):
        problem(api.http.request(method, f"{path}?validate=true"), 422, "validation_failed")
    assert api.job(job_id)["state"] == "queued"
    many = "&".join(f"p{i}=1" for i in range(500))
    assert len(problem(api.http.get(f"/v1/jobs?{many}"), 422, "validation_failed")["errors"]) == 20


def test_a_page_under_another_name_is_refused(api: Api) -> None:
    for foreign in ("evil.example", "evil.example:8000", "127.0.0.1.evil.example", "127.0.0.1@evil.example", "[::1", ""):
        problem(api.http.get("/v1/jobs", headers={"Host": foreign}), 400, "unknown_host")
    for own in ("localhost", "LOCALHOST:8000", "127.0.0.1:1", "[::1]:8000"):
        assert api.http.get("/v1/jobs", headers={"Host": own}).status_code == 200


def test_request_ids(api: Api) -> None:
    assert api.http.get("/healthz", headers={"X-Request-Id": "abc 123"}).headers["x-request-id"] == "abc 123"
    for bad in (b"", b"x" * 129, b"caf\xe9", b"a\tb"):
        given = api.http.get("/v1/nope", headers={b"X-Request-Id": bad})
        assert problem(given, 404, "not_found")["instance"].startswith("req_")
    assert problem(api.http.get("/v1/nope", headers={"X-Request-Id": "mine"}), 404, "not_found")["instance"] == "mine"
    assert len({api.http.get("/healthz").headers["x-request-id"] for _ in range(5)}) == 5


def test_an_unexpected_exception_says_nothing(
    api: Api, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    def explode(*_: Any, **__: Any) -> Any:
        raise RuntimeError("SELECT secret FROM /etc/passwd")

    monkeypatch.setattr("api.jobs.service.read_specification", explode)
    monkeypatch.setattr("api.jobs.stream.read_news", explode)
    for answer in (
        api.http.post("/v1/jobs", json=BODY), api.http.get("/v1/jobs/job_" + "0" * 32 + "/events/stream"),
    ):
        found = problem(answer, 500, "internal")
        assert "secret" not in answer.text
        assert "Traceback" not in answer.text
        assert found["retryable"] is False
    monkeypatch.undo()
    assert api.http.get("/healthz").status_code == 200


def test_a_number_that_is_not_finite_never_becomes_json(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("api.jobs.schemas._seconds", lambda *_: float("nan"))
    problem(api.http.post("/v1/jobs", json=BODY), 500, "internal")


def test_raw_nonsense_on_the_wire(api: Api) -> None:
    """The server's own refusals are plain, but they are refusals, and the next client is served."""
    port = int(api.url.rpartition(":")[2])
    for sent in (
        b"GARBAGE\r\n\r\n", b"POST /v1/jobs HTTP/1.1\r\nHost: x\r\nContent-Length: -5\r\n\r\n",
        b"POST /v1/jobs HTTP/1.1\r\nHost: x\r\nContent-Length: abc\r\n\r\n", b"\x16\x03\x01\x00\xa5" + b"\x00" * 40,
    ):
        with socket.create_connection(("127.0.0.1", port), timeout=10) as raw:
            raw.sendall(sent)
            assert raw.recv(4096).startswith((b"HTTP/1.1 400", b"HTTP/1.0 400"))
    with socket.create_connection(("127.0.0.1", port), timeout=10) as raw:  # a client that goes away inside its body
        raw.sendall(b"POST /v1/jobs HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: 50\r\n\r\n{")
    assert api.http.get("/v1/jobs").json()["data"] == []


def test_everything_in_the_documentation_answers_without_crashing(api: Api) -> None:
    """Each GET route with plausible and implausible values: never a 5xx, and every refusal is a problem document."""
    job = api.submit()
    values = {"job_id": job["id"], "artifact_id": "art_" + "0" * 32, "worker_id": "wkr_" + "0" * 32, "name": "dm",
              "upload_id": begin(api.http, b"x")["id"], "dataset_id": "ds_" + "0" * 32}
    document = api.http.get("/openapi.json").json()
    for path, operations in document["paths"].items():
        operation = operations.get("get")
        if operation is None or path.endswith("/stream"):
            continue
        url = path.format(**values)
        for query in ("", *(f"{p['name']}={value}" for p in operation.get("parameters", ()) if p["in"] == "query"
                            for value in ("", "0", "-1", "1e9", "%00", "%F0%9F%98%80", "a" * 3000, "9" * 40))):
            answer = api.http.get(f"{url}?{query}")
            assert answer.status_code < 500, (url, query, answer.text)
            assert str(answer.status_code) in operation["responses"], (url, query, answer.status_code)
            if answer.status_code >= 400:
                assert answer.headers["content-type"] == "application/problem+json", (url, query)


def test_a_full_queue_of_slow_requests_leaves_liveness_alone(
    sqlite_url: str, broker_url: str, tmp_path: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every thread is stuck in the database, and the process still says that it lives."""
    stuck = threading.Event()

    def wait(*_: Any) -> Any:
        stuck.wait(20)
        raise RuntimeError("over")

    monkeypatch.setattr("api.jobs.service.read_specification", wait)
    settings = Settings(home=tmp_path / "home", database_url=sqlite_url, broker_url=broker_url)
    with serving(settings) as api:
        clients = [
            threading.Thread(target=lambda: httpx.post(f"{api.url}/v1/jobs", json=BODY, timeout=30)) for _ in range(60)
        ]
        for client in clients:
            client.start()
        try:
            assert api.http.get("/healthz", timeout=5).status_code == 200
            assert api.http.get("/readyz", timeout=5).status_code == 200
        finally:
            stuck.set()
            for client in clients:
                client.join()
