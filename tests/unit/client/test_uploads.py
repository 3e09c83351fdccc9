"""The client's uploads against the real API, behind a wire that fails when a test says so."""

from __future__ import annotations

import hashlib
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from api.client.errors import ClientError
from tests.fixtures.uploads import begin, complete, octets, put, send
from tests.unit.client.installation import PART_BYTES as SMALL
from tests.unit.client.installation import Installation

pytestmark = pytest.mark.unit

ROOT = Path(__file__).resolve().parents[3]


@pytest.fixture
def body() -> bytes:
    return octets(9 * SMALL + 1)


@pytest.fixture
def path(tmp_path: Path, body: bytes) -> Path:
    made = tmp_path / "pictures.zip"
    made.write_bytes(body)
    return made


class TestUpload:
    def test_a_file_goes_in_parts(self, there: Installation, path: Path, body: bytes) -> None:
        hashed: list[tuple[int, int]] = []
        sent: list[tuple[int, int]] = []
        with there.client() as client:
            made = client.upload(
                path, on_hashing=lambda *seen: hashed.append(seen), on_progress=lambda *seen: sent.append(seen)
            )
        assert (made["state"], made["filename"], made["received_bytes"]) == ("complete", "pictures.zip", len(body))
        assert there.content(made["id"]) == body
        assert sorted(there.wire.puts(), key=int) == [str(n) for n in range(1, 11)]
        assert hashed[-1] == sent[-1] == (len(body), len(body))
        assert [done for done, _ in sent] == sorted(done for done, _ in sent)
        assert len(sent) == 10

    def test_the_same_file_is_not_sent_twice(self, there: Installation, path: Path, body: bytes) -> None:
        sent: list[tuple[int, int]] = []
        with there.client() as client:
            first = client.upload(path)
            there.wire.requests.clear()
            again = client.upload(path, filename="other.zip", on_progress=lambda *seen: sent.append(seen))
        assert again == first
        assert there.wire.puts() == []
        assert sent == [(len(body), len(body))]

    def test_a_small_file_in_one_thread(self, there: Installation, tmp_path: Path) -> None:
        (tmp_path / "one").write_bytes(b"x")
        with there.client() as client:
            assert there.content(client.upload(tmp_path / "one", parallel=1)["id"]) == b"x"

    @pytest.mark.parametrize("what", ["missing", "empty", "folder"])
    def test_what_is_no_file_is_refused_before_anything_is_sent(self, there: Installation, tmp_path: Path, what: str) -> None:
        (tmp_path / "empty").touch()
        (tmp_path / "folder").mkdir()
        with there.client() as client, pytest.raises(ClientError, match=what) as caught:
            client.upload(tmp_path / what)
        assert (caught.value.code, there.wire.requests) == ("unreadable_file", [])

    def test_a_refusal_is_passed_on(self, there: Installation, path: Path) -> None:
        for n in range(5):
            begin(there.api.http, octets(n + 1))
        there.wire.requests.clear()
        with there.client() as client, pytest.raises(ClientError, match="5 uploads are open") as caught:
            client.upload(path)
        assert caught.value.code == "quota_exceeded"
        assert there.wire.requests == [("GET", "/v1/uploads"), ("POST", "/v1/uploads")]


class TestResuming:
    def test_only_what_is_missing_is_sent(self, there: Installation, path: Path, body: bytes) -> None:
        there.wire.faults.append(lambda method, _: "refuse" if method == "PUT" and len(there.wire.puts()) > 3 else "")
        with there.client(max_tries=1) as client, pytest.raises(ClientError):
            client.upload(path, parallel=2)
        (open_one,) = there.api.http.get("/v1/uploads").json()["data"]
        there_now = [part["n"] for part in there.api.http.get(open_one["links"]["self"]).json()["parts"]]
        assert len(there_now) == 3
        there.wire.faults.clear()
        there.wire.requests.clear()
        with there.client() as client:
            made = client.upload(path)
        assert made["id"] == open_one["id"]
        assert sorted(map(int, there.wire.puts())) == sorted(set(range(1, 11)) - set(there_now))
        assert there.content(made["id"]) == body

    def test_ctrl_c_stops_at_once_and_the_next_call_goes_on(self, there: Installation, path: Path, body: bytes) -> None:
        def interrupt(_done: int, _total: int) -> None:
            raise KeyboardInterrupt

        with there.client() as client, pytest.raises(KeyboardInterrupt):
            client.upload(path, on_progress=interrupt, parallel=2)
        sent = len(there.wire.puts())
        assert sent < 10
        assert [thread.name for thread in threading.enumerate() if thread.name.startswith("upload")] == []
        with there.client() as client:
            assert there.content(client.upload(path)["id"]) == body
        assert len(there.wire.puts()) < 10 + sent

    def test_a_client_that_is_killed(self, there: Installation, path: Path, body: bytes) -> None:
        there.wire.delay_seconds = 0.1
        program = (
            "import sys; from pathlib import Path; from api.client.http import DistillClient\n"
            "DistillClient(sys.argv[1]).upload(Path(sys.argv[2]), parallel=2)"
        )
        child = subprocess.Popen([sys.executable, "-c", program, there.api.url, str(path)], cwd=ROOT)
        deadline = time.monotonic() + 60
        while len(there.wire.puts()) < 4:
            assert time.monotonic() < deadline
            assert child.poll() is None
            time.sleep(0.01)
        os.kill(child.pid, signal.SIGKILL)
        child.wait()
        there.wire.delay_seconds = 0.0
        time.sleep(0.3)
        (open_one,) = there.api.http.get("/v1/uploads").json()["data"]
        there_now = len(there.api.http.get(open_one["links"]["self"]).json()["parts"])
        assert 0 < there_now < 10
        there.wire.requests.clear()
        with there.client() as client:
            made = client.upload(path)
        assert made["id"] == open_one["id"]
        assert there.content(made["id"]) == body
        assert len(there.wire.puts()) == 10 - there_now

    def test_a_part_with_other_bytes_is_sent_again(self, there: Installation, path: Path, body: bytes) -> None:
        upload = begin(there.api.http, body)
        send(there.api.http, upload, body, 1, 2, 3)
        assert put(there.api.http, upload, 2, octets(SMALL, seed=1)).status_code == 200
        there.wire.requests.clear()
        with there.client() as client:
            assert there.content(client.upload(path)["id"]) == body
        assert sorted(map(int, there.wire.puts())) == [2, 4, 5, 6, 7, 8, 9, 10]

    def test_an_upload_that_has_ended_is_not_gone_on_with(self, there: Installation, path: Path, body: bytes) -> None:
        upload = begin(there.api.http, body)
        there.api.http.post(upload["links"]["cancel"])
        with there.client() as client:
            made = client.upload(path)
        assert made["id"] != upload["id"]
        assert complete(there.api.http, upload).status_code == 409


class TestTrouble:
    def test_failures_and_lost_answers_are_repeated(self, there: Installation, path: Path, body: bytes) -> None:
        """Of every kind of request the first fails, and the answer to the second is lost."""
        seen: dict[str, int] = {}

        def fault(method: str, path: str) -> str:
            name = f"{method} {path.rpartition('/')[2] if method == 'POST' else ''}"
            seen[name] = seen.get(name, 0) + 1
            return {1: "refuse", 2: "lose"}.get(seen[name], "")

        there.wire.faults.append(fault)
        with there.client() as client:
            made = client.upload(path, parallel=3)
        there.wire.faults.clear()
        assert there.content(made["id"]) == body
        assert [each["id"] for each in there.api.http.get("/v1/uploads").json()["data"]] == [made["id"]], "one was begun"
        assert len(there.wire.puts()) == 12

    def test_a_file_that_changes_meanwhile(self, there: Installation, path: Path, body: bytes) -> None:
        def change(done: int, total: int) -> None:
            if done == total:
                path.write_bytes(octets(len(body), seed=1))

        with there.client() as client, pytest.raises(ClientError, match="was changed") as caught:
            client.upload(path, on_hashing=change)
        assert caught.value.code == "file_changed"
        assert there.api.http.get("/v1/uploads").json()["data"][0]["state"] == "open"
        path.write_bytes(body)
        with there.client() as client:
            assert there.content(client.upload(path)["id"]) == body

    def test_a_file_that_becomes_shorter(self, there: Installation, path: Path) -> None:
        with there.client() as client, pytest.raises(ClientError) as caught:
            client.upload(path, on_hashing=lambda *_: os.truncate(path, SMALL))
        assert caught.value.code == "file_changed"

    def test_a_service_that_stays_away(self, there: Installation, path: Path) -> None:
        there.wire.faults.append(lambda method, _: "refuse" if method == "PUT" else "")
        began = time.monotonic()
        with there.client(max_tries=3) as client, pytest.raises(ClientError, match="503"):
            client.upload(path, parallel=1)
        assert time.monotonic() - began < 20
        assert len(there.wire.puts()) in {3, 4, 5}


def test_the_digest_is_that_of_the_file(there: Installation, path: Path, body: bytes) -> None:
    with there.client() as client:
        assert client.upload(path)["sha256"] == hashlib.sha256(body).hexdigest()
