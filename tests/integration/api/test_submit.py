"""POST /v1/jobs: what is refused creates nothing, what is accepted is there, and a key never makes two jobs."""

from __future__ import annotations

import json
import threading
import time
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from core.jobs.models import Event, IdempotencyKey, Job
from core.settings import Settings
from tests.fixtures.api import BODY, Api, problem, serving

JSON = {"Content-Type": "application/json"}


def rows(api: Api) -> tuple[int, int, int]:
    with api.database.read() as session:
        counts = [session.scalar(sa.select(sa.func.count()).select_from(table)) for table in (Job, Event, IdempotencyKey)]
    return counts[0] or 0, counts[1] or 0, counts[2] or 0


HALF = {"dataset": {"name": "digits"}, "ipc": 1, "method": {"num_iterations": 1}}
REFUSED: list[tuple[str, Any, int, str, str]] = [
    ("unknown recipe", BODY | {"recipe": "nope"}, 422, "unknown_method", "/recipe"),
    ("unknown data set", BODY | {"dataset": {"name": "imagenet-22k"}}, 404, "dataset_not_found", "/dataset/name"),
    ("name that no set can have", BODY | {"dataset": {"name": "../etc"}}, 422, "validation_failed", "/dataset/name"),
    ("no data set", {"ipc": 1, "recipe": "dm"}, 422, "validation_failed", "/dataset"),
    ("no ipc", {"dataset": {"name": "digits"}, "recipe": "dm"}, 422, "validation_failed", "/ipc"),
    ("ipc larger than the smallest class", BODY | {"ipc": 132}, 422, "validation_failed", "/ipc"),
    ("ipc zero", BODY | {"ipc": 0}, 422, "validation_failed", "/ipc"),
    ("ipc negative", BODY | {"ipc": -1}, 422, "validation_failed", "/ipc"),
    ("ipc as text", BODY | {"ipc": "1"}, 422, "validation_failed", "/ipc"),
    ("ipc as a fraction", BODY | {"ipc": 1.5}, 422, "validation_failed", "/ipc"),
    ("ipc true", BODY | {"ipc": True}, 422, "validation_failed", "/ipc"),
    ("ipc null", BODY | {"ipc": None}, 422, "validation_failed", "/ipc"),
    ("ipc beyond 64 bits", BODY | {"ipc": 10**40}, 422, "validation_failed", "/ipc"),
    ("seed negative", BODY | {"seed": -1}, 422, "validation_failed", "/seed"),
    ("seed beyond 64 bits", BODY | {"seed": 2**63}, 422, "validation_failed", "/seed"),
    ("misspelled field", BODY | {"sead": 1}, 422, "validation_failed", "/sead"),
    ("state set by a client", BODY | {"state": "succeeded"}, 422, "validation_failed", "/state"),
    ("tenant set by a client", BODY | {"tenant_id": "other"}, 422, "validation_failed", "/tenant_id"),
    ("misspelled in the method", BODY | {"method": {"num_iteration": 1}}, 422, "validation_failed", "/method/num_iteration"),
    ("iterations negative", BODY | {"method": {"num_iterations": -1}}, 422, "validation_failed", "/method/num_iterations"),
    ("rate zero", BODY | {"method": {"optimizer": {"lr_img": 0}}}, 422, "validation_failed", "/method/optimizer/lr_img"),
    ("unknown kind", BODY | {"method": {"init": {"kind": "magic"}}}, 422, "validation_failed", "/method/init"),
    ("network too deep", BODY | {"method": {"network": {"depth": 5}}}, 422, "validation_failed", "/method/network/depth"),
    ("unknown protocol", BODY | {"evaluation": {"protocol": "x"}}, 422, "validation_failed", "/evaluation/protocol"),
    ("neither recipe nor method", {"dataset": {"name": "digits"}, "ipc": 1}, 422, "validation_failed", "/recipe"),
    ("half a method", HALF, 422, "validation_failed", "/method/network"),
    ("too many GPUs", BODY | {"resources": {"gpus": 2}}, 422, "validation_failed", "/resources/gpus"),
    ("tag with a bad name", BODY | {"tags": {"a b": "c"}}, 422, "validation_failed", "/tags/a b"),
    ("seventeen tags", BODY | {"tags": {f"t{i}": "" for i in range(17)}}, 422, "validation_failed", "/tags"),
    ("attempts zero", BODY | {"max_attempts": 0}, 422, "validation_failed", "/max_attempts"),
    ("unknown priority", BODY | {"priority": "urgent"}, 422, "validation_failed", "/priority"),
    ("a list", [BODY], 422, "validation_failed", ""),
    ("a string", "dm", 422, "validation_failed", ""),
    ("null", None, 422, "validation_failed", ""),
]

UNREADABLE: list[tuple[str, bytes]] = [
    ("nothing", b""),
    ("not JSON", b"{"),
    ("a trailing comma", b'{"ipc": 1,}'),
    ("two values", b"{} {}"),
    ("NaN", b'{"dataset": {"name": "digits"}, "ipc": NaN, "recipe": "dm"}'),
    ("NaN inside the method", b'{"dataset": {"name": "digits"}, "ipc": 1, "recipe": "dm", "method": {"x": {"lr_img": NaN}}}'),
    ("infinity", b'{"dataset": {"name": "digits"}, "ipc": 1, "recipe": "dm", "seed": -Infinity}'),
    ("a float that overflows", b'{"dataset": {"name": "digits"}, "ipc": 1, "recipe": "dm", "method": {"x": 1e999}}'),
    ("five thousand digits", b'{"ipc": ' + b"9" * 5000 + b"}"),
    ("a key twice", b'{"ipc": 1, "ipc": 2}'),
    ("not UTF-8", b'{"recipe": "\xff"}'),
    ("UTF-16", json.dumps(BODY).encode("utf-16")),
    ("NUL in text", b'{"dataset": {"name": "digits"}, "ipc": 1, "recipe": "dm", "tags": {"a": "x\\u0000y"}}'),
    ("half a surrogate pair", b'{"dataset": {"name": "digits"}, "ipc": 1, "recipe": "dm", "tags": {"a": "\\ud800"}}'),
    ("nested beyond reason", b'{"method":' * 100_000),
    ("arrays nested beyond reason", b"[" * 100_000 + b"]" * 100_000),
    ("nested a little too deep", b'{"method":' * 60 + b"1" + b"}" * 60),
]


class TestRefusals:
    def test_no_bad_specification_creates_anything(self, api: Api) -> None:
        for what, body, status, code, pointer in REFUSED:
            for query in ("", "?validate_only=true"):
                answer = api.http.post(f"/v1/jobs{query}", content=json.dumps(body), headers=JSON | {"Idempotency-Key": "k"})
                found = problem(answer, status, code)
                assert pointer in {error["pointer"] for error in found["errors"]}, (what, found)
                assert all(error["code"] and error["message"] for error in found["errors"]), what
        assert rows(api) == (0, 0, 0)

    def test_no_unreadable_body_creates_anything(self, api: Api) -> None:
        for what, body in UNREADABLE:
            answer = api.http.post("/v1/jobs", content=body, headers=JSON)
            assert answer.status_code == 400, (what, answer.text)
            assert problem(answer, 400, "invalid_json")["detail"], what
        assert rows(api) == (0, 0, 0)

    def test_another_media_type_is_415(self, api: Api) -> None:
        for declared in ("text/plain", "application/x-www-form-urlencoded", "application/jsonx", None):
            headers = {} if declared is None else {"Content-Type": declared}
            answer = api.http.post("/v1/jobs", content=json.dumps(BODY).encode(), headers=headers)
            problem(answer, 415, "unsupported_media_type")
        assert rows(api) == (0, 0, 0)
        headers = {"Content-Type": "Application/JSON; charset=utf-8"}
        assert api.http.post("/v1/jobs", content=json.dumps(BODY), headers=headers).status_code == 202

    def test_a_body_over_the_limit_is_413_declared_or_chunked(self, api: Api) -> None:
        limit = api.settings.max_body_bytes
        body = json.dumps(BODY).encode().ljust(limit + 1)

        def chunks() -> Any:
            for at in range(0, 2 * len(body), 1 << 16):
                yield body[at : at + (1 << 16)].ljust(1 << 16)

        problem(api.http.post("/v1/jobs", content=body, headers=JSON), 413, "body_too_large")
        problem(api.http.post("/v1/jobs", content=chunks(), headers=JSON), 413, "body_too_large")
        problem(api.http.post("/v1/nowhere", content=body, headers=JSON), 413, "body_too_large")
        assert rows(api) == (0, 0, 0)
        assert api.http.post("/v1/jobs", content=body[:limit], headers=JSON).status_code == 202

    def test_a_malformed_key_is_400(self, api: Api) -> None:
        for key in (b"", b"x" * 256, b"tab\tinside", b"caf\xe9"):
            problem(api.http.post("/v1/jobs", json=BODY, headers={b"Idempotency-Key": key}), 400, "invalid_header")
        assert rows(api) == (0, 0, 0)
        assert api.http.post("/v1/jobs", json=BODY, headers={"Idempotency-Key": "x" * 255}).status_code == 202


class TestAccepted:
    def test_the_answer_is_the_resolved_job_and_the_row_is_there(self, api: Api) -> None:
        answer = api.http.post("/v1/jobs", json=BODY | {"tags": {"team": "a"}, "seed": 7, "priority": "high"})
        assert answer.status_code == 202
        job = answer.json()
        assert answer.headers["location"] == f"/v1/jobs/{job['id']}"
        assert 2 <= int(answer.headers["retry-after"]) <= 30
        assert "idempotent-replayed" not in answer.headers
        assert job["object"] == "job"
        assert job["state"] == "queued"
        assert (job["recipe"], job["dataset"], job["ipc"], job["seed"]) == ("dm", "digits", 1, 7)
        assert (job["tags"], job["priority"]) == ({"team": "a"}, "high")
        assert job["spec"]["method"]["num_iterations"] == 300
        assert "method.num_iterations: 20000 -> 300" in job["spec"]["capped"]
        assert (job["attempt"], job["failures"], job["max_attempts"]) == (0, 0, 3)
        for key in ("state_reason", "progress", "started_at", "finished_at", "result", "error", "parent_id"):
            assert job[key] is None, key
        assert job["created_at"].endswith("Z")
        assert set(job["durations"]) == {"queued", "running", "total"}
        assert set(job["links"]) == {"self", "events", "stream", "artifacts", "cancel", "retry"}
        again = api.job(job["id"])
        assert {k: v for k, v in again.items() if k != "durations"} == {k: v for k, v in job.items() if k != "durations"}
        assert rows(api) == (1, 1, 0)

    def test_validate_only_resolves_and_keeps_nothing(self, api: Api) -> None:
        body = BODY | {"ipc": 10, "dataset": {"name": "digits", "held_out_fraction": 0.5}}
        answer = api.http.post("/v1/jobs?validate_only=true", json=body, headers={"Idempotency-Key": "k"})
        assert answer.status_code == 200
        found = answer.json()
        assert found["object"] == "job_validation"
        assert found["spec"]["evaluation"]["num_eval"] == 3
        real = sum(n - n // 2 for n in (134, 137, 133, 138, 136, 137, 136, 135, 131, 135))
        budget = found["budget"]
        assert budget["stored_scalars"] == 10 * 10 * 64
        assert budget["bytes_float32"] == 10 * 10 * 64 * 4
        assert budget["real_images"] == real
        assert budget["ratio"] == pytest.approx(100 / real)
        assert rows(api) == (0, 0, 0)

    def test_the_message_reaches_the_queue_of_its_resources_and_priority(self, api: Api) -> None:
        import redis

        path = api.settings.broker.removeprefix("redis+socket://").partition("?")[0]
        client = redis.Redis(unix_socket_path=path)
        client.flushdb()
        job = api.submit(priority="low")
        deadline = time.monotonic() + 10
        while not (found := client.lrange("distill:cpu\x06\x166", 0, -1)) and time.monotonic() < deadline:
            time.sleep(0.01)
        assert len(found) == 1, client.keys()
        assert job["id"] in json.loads(found[0])["headers"]["argsrepr"]
        client.close()


class TestIdempotency:
    def test_the_same_key_and_body_replay_the_current_job(self, api: Api) -> None:
        headers = {"Idempotency-Key": "a key"}
        first = api.http.post("/v1/jobs", json=BODY, headers=headers)
        api.claim(first.json()["id"])
        reordered = json.dumps(dict(reversed(BODY.items())), indent=4)
        second = api.http.post("/v1/jobs", content=reordered, headers=headers | JSON)
        assert (first.status_code, second.status_code) == (202, 202)
        assert second.headers["idempotent-replayed"] == "true"
        assert second.json()["id"] == first.json()["id"]
        assert second.json()["state"] == "running"
        assert rows(api)[0] == 1

    def test_the_same_key_with_another_body_is_refused(self, api: Api) -> None:
        headers = {"Idempotency-Key": "a key"}
        api.submit(headers)
        problem(api.http.post("/v1/jobs", json=BODY | {"seed": 1}, headers=headers), 422, "idempotency_key_reused")
        assert rows(api)[0] == 1

    def test_a_refused_request_does_not_use_the_key_up(self, api: Api) -> None:
        headers = {"Idempotency-Key": "a key"}
        assert api.http.post("/v1/jobs", json=BODY | {"ipc": 0}, headers=headers).status_code == 422
        assert "idempotent-replayed" not in api.http.post("/v1/jobs", json=BODY, headers=headers).headers

    def test_without_a_key_every_call_is_a_new_job(self, api: Api) -> None:
        assert api.submit()["id"] != api.submit()["id"]

    def test_twenty_at_once_over_two_servers_make_one_job(self, api: Api) -> None:
        answers: list[tuple[int, str, bool]] = []
        start = threading.Barrier(20)
        with serving(api.settings) as other:

            def post(i: int) -> None:
                import httpx

                with httpx.Client(base_url=(api.url, other.url)[i % 2], timeout=30) as http:
                    start.wait()
                    answer = http.post("/v1/jobs", json=BODY, headers={"Idempotency-Key": "race"})
                    document = answer.json()
                    replayed = answer.headers.get("idempotent-replayed") == "true"
                    answers.append((answer.status_code, document.get("id") or document["code"], replayed))

            threads = [threading.Thread(target=post, args=(i,)) for i in range(20)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
        accepted = [answer for answer in answers if answer[0] == 202]
        assert len({job_id for _, job_id, _ in accepted}) == 1
        assert sum(not replayed for _, _, replayed in accepted) == 1
        assert {answer[:2] for answer in answers if answer[0] != 202} <= {(409, "idempotency_in_progress")}
        assert rows(api) == (1, 1, 1)


class TestTrajectoriesTooLarge:
    """Expert files count against a limit before anything is trained."""

    def test_a_job_that_asks_for_too_much_is_refused_and_a_smaller_one_is_not(self, settings: Settings) -> None:
        small = BODY | {"recipe": "mtt"}
        with serving(settings.model_copy(update={"max_trajectory_bytes": 2_000_000})) as api:
            for path in ("/v1/jobs", "/v1/jobs?validate_only=true"):
                found = problem(api.http.post(path, json=small | {"scale": "paper"}), 422, "validation_failed")
                assert found["errors"][0]["code"] == "trajectories_too_large"
                assert "2,000,000" in found["detail"]
            shown = api.http.post("/v1/jobs?validate_only=true", json=small).json()["estimate"]
            assert 0 < shown["trajectory_bytes"] <= 2_000_000
            assert api.http.post("/v1/jobs", json=small).status_code == 202


class TestServersAway:
    def test_a_frozen_broker_does_not_slow_submission(self, database_url: str, tmp_path: Path) -> None:
        import socket

        with socket.create_server(("127.0.0.1", 0), backlog=64) as frozen:  # accepts, and never answers
            url = f"redis://127.0.0.1:{frozen.getsockname()[1]}/0"
            settings = Settings(
                home=tmp_path / "home", database_url=database_url, broker_url=url, publish_timeout_seconds=0.5
            )
            with serving(settings) as api:
                for _ in range(10):
                    started = time.monotonic()
                    api.submit()
                    assert time.monotonic() - started < 2.0
                started = time.monotonic()
                ready = api.http.get("/readyz")
                assert time.monotonic() - started < 3.0
                assert ready.status_code == 200
                assert ready.json()["degraded"] == ["broker"]
                assert api.http.get("/healthz").status_code == 200

    def test_a_database_that_is_away_is_503_and_leaves_no_half_job(self, broker_url: str, tmp_path: Path) -> None:
        url = "postgresql+psycopg://nobody:secret@127.0.0.1:9/none"
        with serving(Settings(home=tmp_path / "home", database_url=url, broker_url=broker_url)) as api:
            for answer in (api.http.post("/v1/jobs", json=BODY), api.http.get("/v1/jobs")):
                found = problem(answer, 503, "database_unavailable")
                assert found["retryable"] is True
                assert int(answer.headers["retry-after"]) > 0
                assert "secret" not in answer.text
                assert "psycopg" not in answer.text
            ready = api.http.get("/readyz")
            assert (ready.status_code, ready.json()["unavailable"]) == (503, ["database"])

    def test_a_database_without_tables_is_not_ready(self, broker_url: str, tmp_path: Path) -> None:
        url = f"sqlite:///{tmp_path / 'empty.db'}"
        with serving(Settings(home=tmp_path / "home", database_url=url, broker_url=broker_url)) as api:
            assert api.http.get("/readyz").status_code == 503
            assert api.http.get("/healthz").status_code == 200
            answer = api.http.get("/v1/jobs")
            problem(answer, 503, "database_unavailable")
            assert "jobs" not in answer.json()["detail"]
