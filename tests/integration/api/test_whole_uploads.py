"""A whole file in one request: cut into parts as it passes, and kept only when all of it is what was announced."""

from __future__ import annotations

import contextlib
import hashlib
import shutil
import socket
import subprocess
import threading
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
from api.uploads.body import CONTENT_SECONDS
from core.jobs.database import Database, now
from core.jobs.models import DEFAULT_TENANT
from core.settings import Settings
from core.store.keys import upload_prefix
from core.store.objects import Objects, open_store
from core.uploads.models import UploadPart
from core.uploads.parts import MAX_CONTENT_BYTES, PART_BYTES
from core.uploads.repository import StoredPart, Uploads, parts_of
from tests.fixtures import servers
from tests.fixtures.api import Api, problem, serving
from tests.fixtures.servers import free_port, on_s3
from tests.fixtures.uploads import begin, complete, digest_header, octets, put, send
from tests.integration.api.test_processes import process
from tests.integration.api.test_uploads import expire, soon, stored
from worker.sweeper import Sweeper

pytestmark = pytest.mark.integration

Json = dict[str, Any]
SMALL = 1000
WHOLE = octets(3 * SMALL + 7)


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Parts of 1000 bytes."""
    monkeypatch.setattr("core.uploads.parts.PART_BYTES", SMALL)


def put_whole(http: httpx.Client, upload: Json, body: Any, **headers: str) -> httpx.Response:
    sent = {name.replace("_", "-"): value for name, value in headers.items()}
    return http.put(f"/v1/uploads/{upload['id']}/content", content=body, headers=sent)


def content_of(api: Api, upload: Json) -> bytes:
    """What a worker would read: the parts that are noted, in order."""
    with api.database.read() as session:
        parts = parts_of(session, DEFAULT_TENANT, upload["id"])
    return b"".join(b"".join(api.objects.chunks(part.key, 0, part.size_bytes)) for part in parts)


def is_untouched(api: Api, upload: Json) -> None:
    """It is open, and nothing of the request is left anywhere."""
    found = api.http.get(f"/v1/uploads/{upload['id']}").json()
    assert (found["state"], found["parts"]) == ("open", [])
    soon(lambda: stored(api, upload) == [])


def head_of(upload: Json, length: int, *more: str) -> bytes:
    lines = [f"PUT /v1/uploads/{upload['id']}/content HTTP/1.1", "Host: localhost", f"Content-Length: {length}", *more]
    return "\r\n".join([*lines, "", ""]).encode()


def connected(api: Api) -> socket.socket:
    return socket.create_connection(("127.0.0.1", int(api.url.rpartition(":")[2])), timeout=20)


def rest(raw: socket.socket) -> bytes:
    """Everything until the server closes the connection."""
    return b"".join(iter(lambda: raw.recv(65536), b""))


class TestContent:
    @pytest.mark.parametrize("size", [1, SMALL - 1, SMALL, SMALL + 1, 3 * SMALL + 7])
    def test_it_is_cut_into_parts_and_the_upload_is_complete(self, api: Api, small: None, size: int) -> None:
        body = octets(size)
        upload = begin(api.http, body)
        answer = api.http.put(upload["links"]["content"], content=body)
        assert answer.status_code == 200, answer.text
        found = answer.json()
        assert (found["state"], found["received_bytes"], found["num_parts"]) == ("complete", size, -(-size // SMALL))
        assert [(part["n"], part["size_bytes"], part["sha256"]) for part in found["parts"]] == [
            (n, len(part), hashlib.sha256(part).hexdigest())
            for n, part in enumerate((body[at : at + SMALL] for at in range(0, size, SMALL)), 1)
        ]
        assert api.http.get(f"/v1/uploads/{upload['id']}").json() == found
        assert content_of(api, upload) == body
        assert len(stored(api, upload)) == found["num_parts"]
        again = complete(api.http, upload, body)
        assert (again.status_code, again.json()) == (200, found)

    def test_parts_that_were_sent_before_are_replaced(self, api: Api, small: None) -> None:
        upload = begin(api.http, WHOLE)
        assert put(api.http, upload, 2, octets(SMALL, seed=1)).status_code == 200
        send(api.http, upload, WHOLE, 1, 4)
        before = stored(api, upload)
        assert put_whole(api.http, upload, WHOLE).status_code == 200
        assert content_of(api, upload) == WHOLE
        assert (len(stored(api, upload)), set(stored(api, upload)) & set(before)) == (4, set())

    def test_a_digest_of_another_algorithm_is_not_looked_at(self, api: Api, small: None) -> None:
        assert put_whole(api.http, begin(api.http, WHOLE), WHOLE, Content_Digest="sha-512=:abc:").status_code == 200

    def test_a_data_set_can_be_made_of_it(self, api: Api, small: None) -> None:
        upload = begin(api.http, WHOLE)
        assert put_whole(api.http, upload, WHOLE, **digest_header(WHOLE)).status_code == 200
        request = {"name": "a", "format": "npz", "source": {"upload_id": upload["id"]}}
        assert api.http.post("/v1/datasets", json=request).status_code == 202

    def test_curl(self, api: Api, tmp_path: Path) -> None:
        """Larger than what curl sends without being asked for it."""
        if shutil.which("curl") is None:
            servers.missing("curl")
        body = octets(2 * PART_BYTES + 5)
        path = tmp_path / "shoes.zip"
        path.write_bytes(body)
        upload = begin(api.http, body)
        url = f"{api.url}{upload['links']['content']}"
        command = ["curl", "--silent", "--show-error", "--fail-with-body", "-T", str(path), url]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert (done.returncode, '"state":"complete"' in done.stdout) == (0, True), done
        assert content_of(api, upload) == body
        again = subprocess.run(command, capture_output=True, text=True, check=False)
        assert (again.returncode, again.stdout) == (0, done.stdout), "a repetition changes nothing"
        api.http.post(upload["links"]["cancel"])
        refused = subprocess.run(command, capture_output=True, text=True, check=False)
        assert (refused.returncode, '"code":"upload_closed"' in refused.stdout) == (22, True), refused

    def test_each_time_it_has_as_long_as_before(self, settings: Settings, small: None) -> None:
        with serving(settings.model_copy(update={"upload_expiry_seconds": 100.0})) as api:
            upload = begin(api.http, WHOLE)
            with api.database.write() as session:
                Uploads(session, DEFAULT_TENANT).get(upload["id"]).expires_at = now(session) + timedelta(seconds=10)
            assert put_whole(api.http, upload, WHOLE).status_code == 200
            with api.database.read() as session:
                left = Uploads(session, DEFAULT_TENANT).get(upload["id"]).expires_at - now(session)
            assert timedelta(seconds=90) < left <= timedelta(seconds=100)

    def test_of_many_at_one_instant_one_is_kept(self, api: Api, small: None) -> None:
        upload = begin(api.http, WHOLE)
        start, answers = threading.Barrier(6), []

        def race(number: int) -> None:
            with httpx.Client(base_url=api.url, timeout=60) as http:
                start.wait()
                answer = put_whole(http, upload, WHOLE) if number else put(http, upload, 1, octets(SMALL, seed=1))
                answers.append((number > 0, answer.status_code))

        threads = [threading.Thread(target=race, args=(number,)) for number in range(6)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert [status for whole, status in answers if whole] == [200] * 5
        assert content_of(api, upload) == WHOLE
        assert len(stored(api, upload)) == 4, "nothing is left of those that lost"


    def test_it_is_kept_for_as_long_as_it_may_take(self, settings: Settings, small: None) -> None:
        """An upload that would expire in a moment."""
        with serving(settings) as api:
            upload = begin(api.http, WHOLE)
            with api.database.write() as session:
                Uploads(session, DEFAULT_TENANT).get(upload["id"]).expires_at = now(session) + timedelta(seconds=5)
            with contextlib.closing(connected(api)) as raw:
                raw.sendall(head_of(upload, len(WHOLE), "Connection: close") + WHOLE[:-1])
                soon(lambda: stored(api, upload) != [])
                with api.database.read() as session:
                    left = Uploads(session, DEFAULT_TENANT).get(upload["id"]).expires_at - now(session)
                assert left > timedelta(seconds=CONTENT_SECONDS - 20)
                raw.sendall(WHOLE[-1:])
                assert rest(raw).startswith(b"HTTP/1.1 200")

    def test_a_repetition_changes_nothing(self, api: Api, small: None) -> None:
        """Also after the parts were sent one by one, if they are the same."""
        for at_first in (put_whole, send):
            upload = begin(api.http, WHOLE)
            at_first(api.http, upload, WHOLE)
            assert complete(api.http, upload).status_code == 200
            before, kept = api.http.get(f"/v1/uploads/{upload['id']}").json(), stored(api, upload)
            again = put_whole(api.http, upload, WHOLE, **digest_header(WHOLE))
            assert (again.status_code, again.json()["parts"], stored(api, upload)) == (200, before["parts"], kept)


class TestRefusals:
    def test_other_bytes_than_the_upload_was_begun_with(self, api: Api, small: None) -> None:
        upload, other = begin(api.http, WHOLE), octets(len(WHOLE), seed=1)
        send(api.http, upload, WHOLE, 2)
        before = stored(api, upload)
        for headers, retryable in (({}, False), (digest_header(WHOLE), True), (digest_header(other), False)):
            found = problem(put_whole(api.http, upload, other, **headers), 422, "digest_mismatch")
            assert found["retryable"] is retryable
            assert stored(api, upload) == before
        last_byte = WHOLE[:-1] + bytes([WHOLE[-1] ^ 1])
        problem(put_whole(api.http, upload, last_byte), 422, "digest_mismatch")
        found = api.http.get(f"/v1/uploads/{upload['id']}").json()
        assert (found["state"], [part["n"] for part in found["parts"]], stored(api, upload)) == ("open", [2], before)
        assert put_whole(api.http, upload, WHOLE).status_code == 200, "the connection and the upload are as good as new"

    def test_a_content_digest_of_another_file_is_refused_before_the_body(self, api: Api, small: None) -> None:
        upload = begin(api.http, WHOLE)
        with contextlib.closing(connected(api)) as raw:
            digest = digest_header(b"other")["Content-Digest"]
            raw.sendall(head_of(upload, len(WHOLE), f"Content-Digest: {digest}", "Expect: 100-continue"))
            assert raw.recv(65536).startswith(b"HTTP/1.1 422")

    def test_what_is_said_of_the_body(self, api: Api, small: None) -> None:
        upload = begin(api.http, WHOLE)
        for wrong in (WHOLE[:-1], WHOLE + b"x", b""):
            problem(put_whole(api.http, upload, wrong), 422, "size_mismatch")
        problem(put_whole(api.http, upload, iter([WHOLE])), 411, "length_required")
        problem(put_whole(api.http, upload, WHOLE, Content_Digest="sha-256=:abc:"), 400, "invalid_header")
        for headers in ({"Content_Type": "application/x-www-form-urlencoded"}, {"Content_Encoding": "gzip"}):
            problem(put_whole(api.http, upload, WHOLE, **headers), 415, "unsupported_media_type")
        problem(put_whole(api.http, {"id": f"up_{'0' * 32}"}, WHOLE), 404, "not_found")
        problem(put_whole(api.http, {"id": "x"}, WHOLE), 404, "not_found")
        is_untouched(api, upload)

    def test_a_body_beyond_the_limit(self, api: Api) -> None:
        """By what it declares; an upload that is too large for this way says so."""
        assert begin(api.http, b"x", size_bytes=MAX_CONTENT_BYTES)["links"]["content"] is not None
        large = begin(api.http, b"x", size_bytes=MAX_CONTENT_BYTES + 1)
        assert large["links"]["content"] is None
        for length, status, code in ((MAX_CONTENT_BYTES + 1, 413, "body_too_large"), (MAX_CONTENT_BYTES, 422, "size_mismatch")):
            with contextlib.closing(connected(api)) as raw:
                raw.sendall(head_of(large, length, "Expect: 100-continue", "Connection: close"))
                answer = rest(raw).decode()
            assert answer.startswith(f"HTTP/1.1 {status}")
            assert f'"code":"{code}"' in answer

    def test_one_that_takes_no_parts_any_more(self, api: Api, small: None) -> None:
        other, read, cancelled, expired = (begin(api.http, WHOLE) for _ in range(4))
        send(api.http, other, octets(len(WHOLE), seed=1))
        assert complete(api.http, other).status_code == 200
        before = stored(api, other)
        assert "other bytes" in problem(put_whole(api.http, other, WHOLE), 409, "upload_closed")["detail"]
        assert stored(api, other) == before
        assert put_whole(api.http, read, WHOLE).status_code == 200
        with api.database.write() as session:
            Uploads(session, DEFAULT_TENANT).get(read["id"]).ended_at = now(session)
        assert "not kept" in problem(put_whole(api.http, read, WHOLE), 409, "upload_closed")["detail"]
        api.http.post(cancelled["links"]["cancel"])
        problem(put_whole(api.http, cancelled, WHOLE), 409, "upload_closed")
        expire(api, expired)
        problem(put_whole(api.http, expired, WHOLE), 410, "upload_expired")

    @pytest.mark.parametrize("what", ["complete", "cancel"])
    def test_one_that_is_closed_meanwhile(self, api: Api, small: None, monkeypatch: pytest.MonkeyPatch, what: str) -> None:
        """Between the look before the body and the commit after it."""
        upload = begin(api.http, WHOLE)
        send(api.http, upload, octets(len(WHOLE), seed=1))
        before, inner, calls = stored(api, upload), Objects.put_stream, []

        async def end_meanwhile(self: Objects, *arguments: Any) -> None:
            await inner(self, *arguments)
            calls.append(arguments)
            if len(calls) == 4:
                with api.database.write() as session:
                    uploads = Uploads(session, DEFAULT_TENANT)
                    uploads.complete(upload["id"], {}, 1e6) if what == "complete" else uploads.cancel(upload["id"])

        monkeypatch.setattr(Objects, "put_stream", end_meanwhile)
        problem(put_whole(api.http, upload, WHOLE), 409, "upload_closed")
        assert stored(api, upload) == before

    def test_another_tenants_upload_does_not_exist(self, settings: Settings, small: None) -> None:
        app = create_app(settings)

        async def tenant(x_tenant: Annotated[str, Header()] = "a") -> str:
            return x_tenant

        app.dependency_overrides[deps._tenant] = tenant
        with serving(settings, app) as api:
            upload = begin(api.http, WHOLE)
            problem(put_whole(api.http, upload, WHOLE, X_Tenant="b"), 404, "not_found")
            part = StoredPart(1, SMALL, hashlib.sha256(b"").hexdigest(), "x")
            with pytest.raises(Exception, match="there is no upload"), api.database.write() as session:
                Uploads(session, "b").complete_with(upload["id"], [part], 1.0)
            is_untouched(api, upload)

    def test_the_store_is_away(self, settings: Settings, small: None) -> None:
        away = settings.model_copy(update={
            "store_url": "s3://distill", "s3_endpoint": "http://127.0.0.1:1", "s3_access_key_id": "a",
            "s3_secret_access_key": "b",
        })
        with serving(away) as api:
            upload = begin(api.http, WHOLE)
            problem(put_whole(api.http, upload, WHOLE), 503, "object_store_unavailable")

    def test_the_store_fails_in_the_middle(self, api: Api, small: None, monkeypatch: pytest.MonkeyPatch) -> None:
        upload, inner, calls = begin(api.http, WHOLE), Objects.put_stream, []

        async def lie_once(self: Objects, key: str, pieces: Any, size_bytes: int) -> None:
            calls.append(key)
            await inner(self, key, pieces, size_bytes + (len(calls) == 3))  # "the store kept another number of bytes"

        monkeypatch.setattr(Objects, "put_stream", lie_once)
        assert problem(put_whole(api.http, upload, WHOLE), 503, "object_store_unavailable")["retryable"]
        assert len(calls) == 3
        is_untouched(api, upload)
        assert put_whole(api.http, upload, WHOLE).status_code == 200


class TestClients:
    def test_one_that_goes_away_leaves_nothing(self, api: Api) -> None:
        body = octets(3 * PART_BYTES)
        upload = begin(api.http, body)
        with contextlib.closing(connected(api)) as raw:
            raw.sendall(head_of(upload, len(body)) + body[: 5 * PART_BYTES // 2])
            soon(lambda: len([key for key in stored(api, upload) if "#" not in key]) == 2)
        is_untouched(api, upload)

    def test_one_that_falls_silent_is_sent_away(self, api: Api, small: None, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("api.uploads.body.SILENCE_SECONDS", 0.2)
        monkeypatch.setattr("api.middleware.DRAIN_SECONDS", 0.2)
        upload = begin(api.http, WHOLE)
        with contextlib.closing(connected(api)) as raw:
            raw.sendall(head_of(upload, len(WHOLE), "Connection: close") + WHOLE[: 2 * SMALL + 1])
            answer = rest(raw)
        assert answer.startswith(b"HTTP/1.1 408")
        is_untouched(api, upload)

    @pytest.mark.parametrize(("seconds", "orphan_seconds"), [(0.3, 86_400.0), (60.0, 0.6)])
    def test_one_that_takes_too_long(
        self, settings: Settings, small: None, monkeypatch: pytest.MonkeyPatch, seconds: float, orphan_seconds: float
    ) -> None:
        """It never falls silent. The rows are there before the sweeper takes the first objects for lost."""
        monkeypatch.setattr("api.uploads.service.CONTENT_SECONDS", seconds)
        monkeypatch.setattr("api.middleware.DRAIN_SECONDS", 0.2)
        with serving(settings.model_copy(update={"orphan_seconds": orphan_seconds})) as api:
            upload, over = begin(api.http, WHOLE), threading.Event()
            with contextlib.closing(connected(api)) as raw:
                raw.sendall(head_of(upload, len(WHOLE), "Connection: close"))

                def trickle() -> None:
                    for byte in WHOLE:
                        if over.wait(0.01):
                            return
                        with contextlib.suppress(OSError):
                            raw.sendall(bytes([byte]))

                thread = threading.Thread(target=trickle)
                thread.start()
                answer = raw.recv(65536)
                over.set()
                thread.join()
            assert answer.startswith(b"HTTP/1.1 408")
            is_untouched(api, upload)

    def test_slow_ones_keep_neither_parts_nor_one_another_waiting(
        self, settings: Settings, small: None, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("api.main.FILES_AT_ONCE", 1)
        monkeypatch.setattr("api.uploads.service.PLACE_SECONDS", 0.3)
        with serving(settings) as api:
            upload, other = begin(api.http, WHOLE), begin(api.http, WHOLE)
            with contextlib.closing(connected(api)) as raw:
                raw.sendall(head_of(upload, len(WHOLE)) + WHOLE[: SMALL + 1])
                soon(lambda: stored(api, upload) != [])
                send(api.http, other, WHOLE)
                busy = put_whole(api.http, other, WHOLE)
                assert (problem(busy, 503, "service_busy")["retryable"], busy.headers["retry-after"]) == (True, "5")
                raw.sendall(WHOLE[SMALL + 1 :])
                assert raw.recv(65536).startswith(b"HTTP/1.1 200")
            assert put_whole(api.http, other, WHOLE).status_code == 200


def test_the_sweeper_finds_what_a_killed_api_leaves(sqlite_url: str, broker_url: str, tmp_path: Path) -> None:
    home = tmp_path / "home"
    home.mkdir()
    environment = {"DISTILL_HOME": str(home), "DISTILL_DATABASE_URL": sqlite_url, "DISTILL_BROKER_URL": broker_url}
    body, port = octets(3 * PART_BYTES), free_port()
    database, store = Database(sqlite_url), open_store(Settings(home=home))
    with process(environment, port=port) as (_, running), httpx.Client(base_url=f"http://127.0.0.1:{port}") as http:
        upload = begin(http, body)
        with socket.create_connection(("127.0.0.1", port), timeout=20) as raw:
            raw.sendall(head_of(upload, len(body)) + body[: 5 * PART_BYTES // 2])
            soon(lambda: len(store.keys(upload_prefix(upload["id"]))) == 2)
            running.kill()
            running.wait()
    with database.read() as session:
        assert Uploads(session, DEFAULT_TENANT).get(upload["id"]).state == "open"
        assert session.scalar(sa.select(sa.func.count()).select_from(UploadPart)) == 0
    Sweeper(database, store, Settings()).sweep()
    assert len(store.keys("uploads")) == 2, "it may still be coming"
    Sweeper(database, store, Settings(orphan_seconds=1e-6)).sweep()
    assert store.keys("uploads") == []
    database.dispose()


class TestOnS3:
    @pytest.fixture
    def settings(self, settings: Settings, s3_server: dict[str, str]) -> Settings:
        return on_s3(settings, s3_server)

    def test_it_arrives_whole_or_not_at_all(self, api: Api, tmp_path: Path) -> None:
        body = octets(PART_BYTES + SMALL)
        upload = begin(api.http, body)
        prefix = upload_prefix(upload["id"])
        problem(put_whole(api.http, upload, octets(len(body), seed=1)), 422, "digest_mismatch")
        assert api.objects.keys(prefix) == []
        assert put_whole(api.http, upload, body).status_code == 200
        assert content_of(api, upload) == body
        assert len(api.objects.keys(prefix)) == 2
        path = tmp_path / "shoes.zip"
        path.write_bytes(body)
        with DistillClient(api.url) as client:
            assert client.upload(path)["id"] == upload["id"], "the command line finds it, too"
