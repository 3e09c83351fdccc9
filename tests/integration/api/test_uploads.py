"""Uploads over HTTP: parts in any order and from anywhere, and nothing is kept that was not sent whole."""

from __future__ import annotations

import contextlib
import hashlib
import socket
import threading
import time
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Annotated, Any

import httpx
import pytest
import sqlalchemy as sa
from fastapi import Header

from api import deps
from api.client.http import DistillClient
from api.main import create_app
from core.jobs.database import Database, now
from core.jobs.models import DEFAULT_TENANT
from core.settings import Settings
from core.store.keys import part_key, upload_prefix
from core.store.objects import Objects, open_store
from core.uploads import quota, sweeping
from core.uploads.collecting import collect
from core.uploads.models import Upload, UploadPart
from core.uploads.parts import MAX_PART_BYTES, MAX_PARTS, PART_BYTES, part_bytes_for
from core.uploads.repository import StoredPart, Uploads, parts_of
from tests.fixtures import jobs
from tests.fixtures.api import Api, problem, serving
from tests.fixtures.servers import free_port, on_s3
from tests.fixtures.uploads import begin, complete, digest_header, octets, part_of, put, request_of, send
from tests.integration.api.test_processes import process

Json = dict[str, Any]
SMALL = 1000


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Parts of 1000 bytes."""
    monkeypatch.setattr("core.uploads.parts.PART_BYTES", SMALL)


def stored(api: Api, upload: Json) -> list[str]:
    """Keys in the store, where every write has ended: a write that is under way has a file that is not listed."""
    folder = api.settings.home_dir / "objects" / upload_prefix(upload["id"])
    return sorted(str(path.relative_to(api.settings.home_dir / "objects")) for path in folder.rglob("*") if path.is_file())


def soon(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def expire(api: Api, upload: Json) -> None:
    with api.database.write() as session:
        past = now(session) - timedelta(seconds=1)
        session.execute(sa.update(Upload).where(Upload.id == upload["id"]).values(expires_at=past))


class TestSizes:
    @pytest.mark.parametrize(
        ("size", "part"),
        [(1, PART_BYTES), (PART_BYTES * MAX_PARTS, PART_BYTES), (PART_BYTES * MAX_PARTS + 1, 9 << 20),
         (20 << 30, 11 << 20), (MAX_PART_BYTES * MAX_PARTS, MAX_PART_BYTES)],
    )
    def test_parts_are_as_small_as_their_number_allows(self, size: int, part: int) -> None:
        assert part_bytes_for(size) == part
        upload = Upload(size_bytes=size, part_bytes=part)
        assert upload.num_parts <= MAX_PARTS
        assert sum(upload.size_of(n) for n in range(1, upload.num_parts + 1)) == size

    def test_the_settings_allow_no_more_than_the_largest_parts_hold(self) -> None:
        with pytest.raises(ValueError, match="max_upload_bytes"):
            Settings(max_upload_bytes=MAX_PART_BYTES * MAX_PARTS + 1)


class TestCreate:
    def test_the_answer_says_how_to_send(self, api: Api) -> None:
        body = octets(SMALL)
        upload = begin(api.http, body, filename="Bilder \u202f vom Urlaub.zip", media_type="application/zip")
        url = f"/v1/uploads/{upload['id']}"
        assert upload == {
            "id": upload["id"], "object": "upload", "state": "open", "filename": "Bilder \u202f vom Urlaub.zip",
            "media_type": "application/zip", "size_bytes": SMALL, "sha256": hashlib.sha256(body).hexdigest(),
            "part_bytes": PART_BYTES, "num_parts": 1, "received_bytes": 0, "created_at": upload["created_at"],
            "touched_at": upload["created_at"], "expires_at": upload["expires_at"], "ended_at": None,
            "links": {
                "self": url, "part": f"{url}/parts/{{n}}", "content": f"{url}/content", "complete": f"{url}/complete",
                "cancel": f"{url}/cancel",
            },
            "parts": [],
        }
        answer = api.http.get(url)
        assert answer.json() == upload
        assert api.http.get(url, headers={"If-None-Match": answer.headers["etag"]}).status_code == 304

    @pytest.mark.parametrize(
        ("change", "pointer"),
        [({"filename": "a/b"}, "/filename"), ({"filename": "a\nb"}, "/filename"), ({"filename": "x" * 256}, "/filename"),
         ({"size_bytes": 0}, "/size_bytes"), ({"size_bytes": "5"}, "/size_bytes"), ({"sha256": "A" * 64}, "/sha256"),
         ({"media_type": "zip"}, "/media_type"), ({"state": "complete"}, "/state"), ({"part_bytes": 1}, "/part_bytes")],
    )
    def test_what_breaks_a_rule_is_named(self, api: Api, change: Json, pointer: str) -> None:
        found = problem(api.http.post("/v1/uploads", json=request_of(b"x", **change)), 422, "validation_failed")
        assert [error["pointer"] for error in found["errors"]] == [pointer]

    def test_limits(self, settings: Settings) -> None:
        limited = settings.model_copy(
            update={"max_upload_bytes": 5 * SMALL, "max_open_uploads": 2, "max_stored_bytes": 9 * SMALL}
        )
        with serving(limited) as api:
            large = problem(api.http.post("/v1/uploads", json=request_of(octets(5 * SMALL + 1))), 422, "too_large")
            assert large["errors"][0]["pointer"] == "/size_bytes"
            first = begin(api.http, octets(5 * SMALL))
            full = problem(api.http.post("/v1/uploads", json=request_of(octets(4 * SMALL + 1))), 429, "quota_exceeded")
            assert (full["retryable"], f"of {9 * SMALL} bytes" in full["detail"]) == (False, True)
            second = begin(api.http, octets(4 * SMALL))
            many = problem(api.http.post("/v1/uploads", json=request_of(b"x")), 429, "quota_exceeded")
            assert "2 uploads are open" in many["detail"]
            api.http.post(second["links"]["cancel"])
            begin(api.http, octets(4 * SMALL))
            expire(api, first)
            begin(api.http, octets(5 * SMALL))

    def test_finished_files_and_bytes_that_are_not_gone_yet_count(self, settings: Settings, tmp_path: Path) -> None:
        with serving(settings.model_copy(update={"max_stored_bytes": 4 * SMALL})) as api:
            lease = api.claim(api.submit()["id"])
            api.succeed(lease, [api.store(lease, "data.bin", "dataset", "a/b", octets(SMALL), tmp_path)])
            upload = begin(api.http, octets(3 * SMALL))
            send(api.http, upload, octets(3 * SMALL))
            expire(api, upload)
            with api.database.write() as session:
                assert sweeping.expire(session) == 1
            problem(api.http.post("/v1/uploads", json=request_of(b"x")), 429, "quota_exceeded")
            with api.database.write() as session:
                sweeping.forget_parts(session, upload["id"])
            begin(api.http, octets(3 * SMALL))

    def test_many_at_one_instant_do_not_pass_the_limit_together(self, settings: Settings) -> None:
        with serving(settings) as api:
            start, answers = threading.Barrier(12), []

            def create() -> None:
                with httpx.Client(base_url=api.url, timeout=60) as http:
                    start.wait()
                    answers.append(http.post("/v1/uploads", json=request_of(b"x")).status_code)

            threads = [threading.Thread(target=create) for _ in range(12)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
            assert sorted(answers) == [201] * 5 + [429] * 7


class TestParts:
    def test_in_any_order_and_again_until_complete(self, api: Api, small: None) -> None:
        body = octets(3 * SMALL + 7)
        upload = begin(api.http, body)
        assert (upload["part_bytes"], upload["num_parts"]) == (SMALL, 4)
        send(api.http, upload, body, 4, 2)
        found = api.http.get(upload["links"]["self"]).json()
        assert [(part["n"], part["size_bytes"]) for part in found["parts"]] == [(2, SMALL), (4, 7)]
        assert (found["received_bytes"], found["touched_at"] > upload["touched_at"]) == (SMALL + 7, True)
        missing = problem(complete(api.http, upload, body), 409, "parts_missing")
        assert missing["detail"] == "2 of 4 parts are missing: 1, 3"
        send(api.http, upload, body, 1, 3, 2)
        assert len(stored(api, upload)) == 4, "the bytes that were replaced are gone"
        made = complete(api.http, upload, body)
        assert made.status_code == 200
        assert (made.json()["state"], made.json()["received_bytes"]) == ("complete", len(body))
        again = complete(api.http, upload)
        assert (again.status_code, again.json()) == (200, made.json())
        with api.database.read() as session:
            parts = parts_of(session, DEFAULT_TENANT, upload["id"])
            assert Uploads(session, DEFAULT_TENANT).completed(upload["id"]).sha256 == hashlib.sha256(body).hexdigest()
        assert b"".join(b"".join(api.objects.chunks(part.key, 0, part.size_bytes)) for part in parts) == body

    def test_a_part_of_full_size(self, api: Api) -> None:
        body = octets(PART_BYTES + 1)
        upload = begin(api.http, body)
        send(api.http, upload, body)
        assert complete(api.http, upload, body).json()["state"] == "complete"

    def test_of_the_same_part_in_parallel_one_wins_and_one_object_stays(self, api: Api, small: None) -> None:
        bodies = [octets(SMALL, seed) for seed in range(8)]
        upload = begin(api.http, octets(2 * SMALL))
        start, answers = threading.Barrier(8), []

        def race(body: bytes) -> None:
            with httpx.Client(base_url=api.url, timeout=60) as http:
                start.wait()
                answers.append(put(http, upload, 1, body).status_code)

        threads = [threading.Thread(target=race, args=(body,)) for body in bodies]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert answers == [200] * 8
        (part,) = api.http.get(upload["links"]["self"]).json()["parts"]
        (key,) = stored(api, upload)
        assert hashlib.sha256(b"".join(api.objects.chunks(key, 0, SMALL))).hexdigest() == part["sha256"]
        assert part["sha256"] in {hashlib.sha256(body).hexdigest() for body in bodies}

    def test_other_bytes_than_announced_leave_nothing(self, api: Api, small: None) -> None:
        upload = begin(api.http, octets(2 * SMALL))
        wrong = put(api.http, upload, 1, octets(SMALL), Content_Digest=digest_header(b"other")["Content-Digest"])
        assert problem(wrong, 422, "digest_mismatch")["retryable"]
        assert (stored(api, upload), api.http.get(upload["links"]["self"]).json()["parts"]) == ([], [])
        assert put(api.http, upload, 1, octets(SMALL)).status_code == 200, "the connection is as good as new"

    def test_the_digests_at_the_end_must_be_those_of_the_parts(self, api: Api, small: None) -> None:
        body = octets(2 * SMALL)
        upload = begin(api.http, body)
        send(api.http, upload, body)
        url = upload["links"]["complete"]
        found = problem(complete(api.http, upload, octets(2 * SMALL, seed=1)), 422, "digest_mismatch")
        assert "1, 2" in found["detail"]
        one = {"n": 1, "sha256": hashlib.sha256(body[:SMALL]).hexdigest()}
        for parts in ([one], [one, one], [one, {**one, "n": 3}], [{**one, "n": 0}], [{**one, "sha256": "x"}], "all"):
            problem(api.http.post(url, json={"parts": parts}), 422, "validation_failed")
        assert api.http.get(upload["links"]["self"]).json()["state"] == "open"
        assert api.http.post(url).json()["state"] == "complete"

    def test_refusals(self, api: Api, small: None) -> None:
        body = octets(2 * SMALL + 1)
        upload = begin(api.http, body)
        part, digest = body[:SMALL], digest_header(body[:SMALL])
        url = f"/v1/uploads/{upload['id']}/parts"
        problem(api.http.put(f"{url}/1", content=part), 422, "validation_failed")
        for value in ("sha-256=abc", "sha-256=:abc:", f"sha-512=:{'A' * 44}:", "md5=:x:", "sha-256=:", ":"):
            problem(put(api.http, upload, 1, part, Content_Digest=value), 400, "invalid_header")
        problem(put(api.http, upload, 1, part, Content_Type="multipart/form-data"), 415, "unsupported_media_type")
        problem(put(api.http, upload, 1, part, Content_Encoding="gzip"), 415, "unsupported_media_type")
        assert put(api.http, upload, 1, part, Content_Type="application/octet-stream").status_code == 200
        assert put(api.http, upload, 1, part, Content_Digest=f"sha-512=:AA==:, {digest['Content-Digest']}").status_code == 200
        for wrong in (part[:-1], part + b"x", b""):
            problem(put(api.http, upload, 2, wrong), 422, "size_mismatch")
        assert put(api.http, upload, 3, body[-1:]).status_code == 200
        problem(put(api.http, upload, 4, part), 404, "not_found")
        for number in ("0", str(MAX_PARTS + 1), "x", "1.5"):
            problem(api.http.put(f"{url}/{number}", content=part, headers=digest), 422, "validation_failed")
        problem(api.http.put(f"/v1/uploads/up_{'0' * 32}/parts/1", content=part, headers=digest), 404, "not_found")
        problem(api.http.put("/v1/uploads/x/parts/1", content=part, headers=digest), 404, "not_found")
        chunked = api.http.put(f"{url}/2", content=iter([part]), headers=digest)
        problem(chunked, 411, "length_required")
        assert len(stored(api, upload)) == 2

    def test_a_body_beyond_every_limit(self, api: Api) -> None:
        """Refused by what is declared, or, without that, before it is read."""
        upload = begin(api.http, octets(SMALL))
        url = f"/v1/uploads/{upload['id']}/parts/1"
        huge = (b"x" * (1 << 20) for _ in range(2 + (MAX_PART_BYTES >> 20)))
        with contextlib.closing(_connected(api)) as raw:
            length = f"Content-Length: {MAX_PART_BYTES + 1}\r\nExpect: 100-continue"
            raw.sendall(f"PUT {url} HTTP/1.1\r\nHost: localhost\r\n{length}\r\n\r\n".encode())
            answer = raw.recv(65536)
            assert answer.startswith(b"HTTP/1.1 413")
            assert b"application/problem+json" in answer
        too_large = api.http.put(url, content=b"x" * (MAX_PART_BYTES + 1), headers=digest_header(b""))
        assert problem(too_large, 413, "body_too_large")["detail"] == f"the body may have at most {MAX_PART_BYTES} bytes"
        with contextlib.suppress(httpx.TransportError):  # it may end before the client has sent all
            problem(api.http.put(url, content=huge, headers=digest_header(b"")), 411, "length_required")
        json_limit = api.http.post(f"/v1/uploads/{upload['id']}/complete", json={"parts": "x" * (2 << 20)})
        problem(json_limit, 413, "body_too_large")
        assert stored(api, upload) == []

    def test_a_body_that_is_shorter_or_longer_than_its_length(self, api: Api, small: None) -> None:
        body = octets(2 * SMALL)
        upload = begin(api.http, body)
        head = (
            f"PUT /v1/uploads/{upload['id']}/parts/1 HTTP/1.1\r\nHost: localhost\r\nContent-Length: {SMALL}\r\n"
            f"Content-Digest: {digest_header(body[:SMALL])['Content-Digest']}\r\n\r\n"
        ).encode()
        with contextlib.closing(_connected(api)) as raw:
            raw.sendall(head + body[: SMALL - 1])
        with contextlib.closing(_connected(api)) as raw:  # longer: what follows is no request
            raw.sendall(head + body[:SMALL] + b"and more\r\n\r\n")
            received = _rest(raw)
            assert received.startswith(b"HTTP/1.1 200")
            assert b"HTTP/1.1 400" in received
        (part,) = api.http.get(upload["links"]["self"]).json()["parts"]
        assert part["sha256"] == hashlib.sha256(body[:SMALL]).hexdigest()
        soon(lambda: len(stored(api, upload)) == 1)

    def test_a_client_that_goes_away_leaves_nothing(self, api: Api) -> None:
        upload = begin(api.http, octets(PART_BYTES))
        with contextlib.closing(_connected(api)) as raw:
            raw.sendall((
                f"PUT /v1/uploads/{upload['id']}/parts/1 HTTP/1.1\r\nHost: localhost\r\nContent-Length: {PART_BYTES}\r\n"
                f"Content-Digest: {digest_header(b'')['Content-Digest']}\r\n\r\n"
            ).encode() + octets(PART_BYTES // 2))
            soon(lambda: stored(api, upload) != [])  # the file that is being written
        soon(lambda: stored(api, upload) == [])
        assert api.http.get(upload["links"]["self"]).json()["parts"] == []

    def test_a_client_that_falls_silent_is_sent_away(self, api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("api.uploads.body.SILENCE_SECONDS", 0.2)
        monkeypatch.setattr("api.middleware.DRAIN_SECONDS", 0.2)
        upload = begin(api.http, octets(SMALL))
        with contextlib.closing(_connected(api)) as raw:
            raw.sendall((
                f"PUT /v1/uploads/{upload['id']}/parts/1 HTTP/1.1\r\nHost: localhost\r\nContent-Length: {SMALL}\r\n"
                f"Content-Digest: {digest_header(b'')['Content-Digest']}\r\nConnection: close\r\n\r\nabc"
            ).encode())
            answer = _rest(raw)
        assert answer.startswith(b"HTTP/1.1 408")
        assert b'"code":"body_timeout"' in answer

    def test_the_store_is_away(self, settings: Settings, small: None) -> None:
        away = settings.model_copy(update={
            "store_url": "s3://distill", "s3_endpoint": "http://127.0.0.1:1", "s3_access_key_id": "a",
            "s3_secret_access_key": "b",
        })
        with serving(away) as api:
            upload = begin(api.http, octets(SMALL))
            problem(put(api.http, upload, 1, octets(SMALL)), 503, "object_store_unavailable")


def _connected(api: Api) -> socket.socket:
    return socket.create_connection(("127.0.0.1", int(api.url.rpartition(":")[2])), timeout=20)


def _rest(raw: socket.socket) -> bytes:
    """Everything until the server closes the connection."""
    return b"".join(iter(lambda: raw.recv(65536), b""))


class TestEnds:
    def test_a_complete_upload_is_closed(self, api: Api, small: None) -> None:
        body = octets(2 * SMALL)
        upload = begin(api.http, body)
        send(api.http, upload, body)
        complete(api.http, upload)
        before = stored(api, upload)
        problem(put(api.http, upload, 1, octets(SMALL, seed=1)), 409, "upload_closed")
        assert stored(api, upload) == before

    def test_a_complete_upload_is_given_up_unless_it_is_being_read(self, api: Api, small: None) -> None:
        body = octets(2 * SMALL)
        upload = begin(api.http, body)
        send(api.http, upload, body)
        complete(api.http, upload)
        request = {"name": "a", "format": "npz", "source": {"upload_id": upload["id"]}}
        dataset = api.http.post("/v1/datasets", json=request).json()
        found = problem(api.http.post(upload["links"]["cancel"]), 409, "upload_closed")
        assert "cancel the job" in found["detail"]
        api.http.post(f"{dataset['links']['job']}/cancel")
        assert api.http.post(upload["links"]["cancel"]).json()["state"] == "cancelled"
        soon(lambda: stored(api, upload) == [])
        problem(api.http.post("/v1/datasets", json=request), 409, "upload_not_complete")

    def test_a_cancelled_upload_gives_its_bytes_back(self, api: Api, small: None) -> None:
        body = octets(2 * SMALL)
        upload = begin(api.http, body)
        send(api.http, upload, body, 1)
        answers = [api.http.post(upload["links"]["cancel"]) for _ in range(2)]
        assert [answer.json()["state"] for answer in answers] == ["cancelled"] * 2
        soon(lambda: api.http.get(upload["links"]["self"]).json()["parts"] == [])
        assert stored(api, upload) == []
        problem(put(api.http, upload, 2, body[SMALL:]), 409, "upload_closed")
        problem(complete(api.http, upload), 409, "upload_closed")

    def test_an_upload_expires_with_or_without_the_sweeper(self, api: Api, small: None) -> None:
        body = octets(2 * SMALL)
        upload = begin(api.http, body)
        send(api.http, upload, body)
        expire(api, upload)
        for swept in (False, True):
            if swept:
                with api.database.write() as session:
                    assert sweeping.expire(session) == 1
            problem(put(api.http, upload, 1, body[:SMALL]), 410, "upload_expired")
            problem(api.http.get(upload["links"]["self"]), 410, "upload_expired")
            problem(api.http.post(upload["links"]["cancel"]), 410, "upload_expired")
            problem(complete(api.http, upload), 410, "upload_expired")
            assert api.http.get("/v1/uploads?state=open").json()["data"] == []
            (listed,) = api.http.get("/v1/uploads?state=expired").json()["data"]
            assert (listed["id"], listed["state"]) == (upload["id"], "expired")

    def test_each_part_gives_more_time(self, settings: Settings, small: None) -> None:
        body = octets(2 * SMALL)
        with serving(settings.model_copy(update={"upload_expiry_seconds": 100.0})) as api:
            upload = begin(api.http, body)
            with api.database.write() as session:
                soon_over = now(session) + timedelta(seconds=10)
                session.execute(sa.update(Upload).values(expires_at=soon_over))
            send(api.http, upload, body, 1)
            with api.database.read() as session:
                left = Uploads(session, DEFAULT_TENANT).get(upload["id"]).expires_at - now(session)
            assert timedelta(seconds=90) < left <= timedelta(seconds=100)

    def test_a_part_that_comes_too_late_is_deleted(self, api: Api, small: None, monkeypatch: pytest.MonkeyPatch) -> None:
        """The upload is cancelled between the look before the body and the commit after it."""
        upload = begin(api.http, octets(2 * SMALL))
        inner = Objects.put_stream

        async def cancel_meanwhile(self: Objects, *arguments: Any) -> None:
            await inner(self, *arguments)
            with api.database.write() as session:
                Uploads(session, DEFAULT_TENANT).cancel(upload["id"])

        monkeypatch.setattr(Objects, "put_stream", cancel_meanwhile)
        problem(put(api.http, upload, 1, octets(SMALL)), 409, "upload_closed")
        assert stored(api, upload) == []


class TestList:
    def test_pages_newest_first(self, settings: Settings) -> None:
        with serving(settings.model_copy(update={"max_open_uploads": 10})) as api:
            made = [begin(api.http, octets(n + 1))["id"] for n in range(5)]
            send(api.http, api.http.get(f"/v1/uploads/{made[0]}").json(), octets(1))
            complete(api.http, api.http.get(f"/v1/uploads/{made[0]}").json())

            def page(query: str) -> tuple[list[str], bool]:
                found = api.http.get(f"/v1/uploads?{query}").json()
                assert (found["first_id"], found["last_id"]) == (
                    (found["data"][0]["id"], found["data"][-1]["id"]) if found["data"] else (None, None)
                )
                return [item["id"] for item in found["data"]], found["has_more"]

            assert page("") == (made[::-1], False)
            assert page("limit=2") == (made[:2:-1], True)
            assert page(f"limit=2&after={made[3]}") == ([made[2], made[1]], True)
            assert page(f"limit=2&after={made[1]}") == ([made[0]], False)
            assert page(f"limit=2&before={made[1]}") == ([made[3], made[2]], True)
            assert page("state=complete") == ([made[0]], False)
            assert page("state=open&state=complete") == (made[::-1], False)
            assert api.http.get("/v1/uploads?state=complete").json()["data"][0]["received_bytes"] == 1
            problem(api.http.get("/v1/uploads?state=nice"), 422, "validation_failed")
            for cursor in ("x", f"up_{'0' * 32}"):
                problem(api.http.get(f"/v1/uploads?after={cursor}"), 400, "invalid_cursor")


class TestTenants:
    @pytest.fixture
    def api(self, settings: Settings) -> Iterator[Api]:
        """An API that believes a header about whose request it is."""
        app = create_app(settings)

        async def tenant(x_tenant: Annotated[str, Header()] = "a") -> str:
            return x_tenant

        app.dependency_overrides[deps._tenant] = tenant
        with serving(settings, app) as made:
            yield made

    def test_another_tenants_upload_does_not_exist(self, api: Api, small: None) -> None:
        body = octets(2 * SMALL)
        upload = begin(api.http, body)
        send(api.http, upload, body)
        with httpx.Client(base_url=api.url, timeout=30, headers={"X-Tenant": "b"}) as other:
            url = f"/v1/uploads/{upload['id']}"
            routes = [
                (method.upper(), path) for path, methods in other.get("/openapi.json").json()["paths"].items()
                for method in methods if "{upload_id}" in path
            ]
            assert len(routes) == 5
            for method, path in routes:
                where = path.format(upload_id=upload["id"], n=1)
                part = {"content": body[:SMALL], "headers": digest_header(body[:SMALL])} if method == "PUT" else {}
                problem(other.request(method, where, **part), 404, "not_found")
            assert other.get("/v1/uploads").json()["data"] == []
            problem(other.get(f"/v1/uploads?after={upload['id']}"), 400, "invalid_cursor")
            mine = [begin(other, body)["id"] for _ in range(5)]
            assert [item["id"] for item in other.get("/v1/uploads").json()["data"]] == mine[::-1]
        assert [item["id"] for item in api.http.get("/v1/uploads").json()["data"]] == [upload["id"]]
        begin(api.http, body)  # nor do another tenant's uploads count
        assert complete(api.http, upload, body).json()["state"] == "complete"
        assert api.http.get(url).json()["received_bytes"] == len(body)

    def test_the_repository_finds_nothing_of_another_tenant(self, api: Api, small: None) -> None:
        body = octets(2 * SMALL)
        upload = begin(api.http, body)
        send(api.http, upload, body)
        complete(api.http, upload)
        part = StoredPart(1, SMALL, hashlib.sha256(b"").hexdigest(), part_key(upload["id"], 1))
        calls: list[Callable[[Uploads], Any]] = [
            lambda uploads: uploads.get(upload["id"]), lambda uploads: uploads.completed(upload["id"]),
            lambda uploads: uploads.cancel(upload["id"]), lambda uploads: uploads.complete(upload["id"], {}, 1.0),
            lambda uploads: uploads.add_part(upload["id"], part, 1.0), lambda uploads: uploads.open(upload["id"]),
        ]
        for call in calls:
            with pytest.raises(Exception, match="there is no upload"), api.database.write() as session:
                call(Uploads(session, "b"))
        with api.database.read() as session:
            other = Uploads(session, "b")
            assert (list(other.parts(upload["id"])), other.received_bytes([upload["id"]])) == ([], {})
            assert (quota.stored_bytes(session, "a"), quota.stored_bytes(session, "b")) == (2 * SMALL, 0)
            assert list(parts_of(session, "b", upload["id"])) == []
            assert len(parts_of(session, "a", upload["id"])) == 2
            assert session.scalar(sa.select(sa.func.count()).select_from(UploadPart)) == 2


def test_an_api_that_is_killed_in_a_part(sqlite_url: str, broker_url: str, tmp_path: Path) -> None:
    """What it had acknowledged is there, the client goes on with the next process, and nothing is left of the rest."""
    home = tmp_path / "home"
    home.mkdir()
    environment = {"DISTILL_HOME": str(home), "DISTILL_DATABASE_URL": sqlite_url, "DISTILL_BROKER_URL": broker_url}
    path = tmp_path / "pictures.zip"
    body = octets(3 * PART_BYTES + 5)
    path.write_bytes(body)
    port, made, folder = free_port(), [], home / "objects" / "uploads"

    def upload() -> None:
        with DistillClient(f"http://127.0.0.1:{port}", max_tries=60, backoff_seconds=0.1) as client:
            made.append(client.upload(path, parallel=1))

    thread = threading.Thread(target=upload)
    with process(environment, port=port) as (url, running), httpx.Client(base_url=url, timeout=60) as http:
        begun = begin(http, body)
        send(http, begun, body, 1)
        second = part_of(begun, body, 2)
        head = [f"PUT /v1/uploads/{begun['id']}/parts/2 HTTP/1.1", "Host: 127.0.0.1", f"Content-Length: {len(second)}"]
        head += [f"{name}: {value}" for name, value in digest_header(second).items()]
        with socket.create_connection(("127.0.0.1", port)) as raw:
            raw.sendall("\r\n".join([*head, "", ""]).encode() + second[: len(second) // 2])
            soon(lambda: any("#" in file.name for file in folder.rglob("*")))
            running.kill()
            running.wait()
        thread.start()
    with process(environment, port=port):
        thread.join(60)
    database, store = Database(sqlite_url), open_store(Settings(home=home))
    with database.read() as session:
        parts = parts_of(session, DEFAULT_TENANT, made[0]["id"])
    assert b"".join(b"".join(store.chunks(part.key, 0, part.size_bytes)) for part in parts) == body
    assert made[0]["id"] == begun["id"]
    assert store.keys("uploads") == sorted(part.key for part in parts)
    with database.write() as session:
        session.execute(sa.update(Upload).values(expires_at=now(session) - timedelta(seconds=1)))
        assert sweeping.end_unneeded(session) == 1
    collect(database, store, made[0]["id"])
    assert list(folder.iterdir()) == []
    database.dispose()


class TestOnS3:
    @pytest.fixture
    def settings(self, settings: Settings, s3_server: dict[str, str]) -> Settings:
        return on_s3(settings, s3_server)

    def test_parts_arrive_whole_or_not_at_all(self, api: Api) -> None:
        body = octets(PART_BYTES + SMALL)
        upload = begin(api.http, body)
        prefix = upload_prefix(upload["id"])
        wrong = put(api.http, upload, 1, body[:PART_BYTES], Content_Digest=digest_header(b"other")["Content-Digest"])
        problem(wrong, 422, "digest_mismatch")
        assert api.objects.keys(prefix) == []
        send(api.http, upload, body, 1, 2, 1)
        assert complete(api.http, upload, body).json()["state"] == "complete"
        with api.database.read() as session:
            parts = parts_of(session, DEFAULT_TENANT, upload["id"])
        assert b"".join(b"".join(api.objects.chunks(part.key, 0, part.size_bytes)) for part in parts) == body
        assert api.objects.keys(prefix) == sorted(part.key for part in parts)


def test_jobs_of_others_do_not_count(api: Api, tmp_path: Path) -> None:
    job = jobs.create(api.database, tenant="other")
    lease = api.claim(job.id)
    api.succeed(lease, [api.store(lease, "data.bin", "dataset", "a/b", octets(SMALL), tmp_path)])
    with api.database.read() as session:
        assert quota.stored_bytes(session, DEFAULT_TENANT) == 0
        assert quota.stored_bytes(session, "other") == SMALL
