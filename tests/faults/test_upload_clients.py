"""Rows A5 and A6, seen from the clients: they are killed, vanish, fall silent, come back, and come all at once."""

from __future__ import annotations

import contextlib
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.faults.sending import (
    Body,
    Call,
    Json,
    archive,
    digest_in_this_process,
    ends_well,
    is_ready,
    is_stored,
    objects,
    put,
    rows,
    state,
    there,
)
from tests.faults.stand import ROOT, SLACK_SECONDS, TIME_SCALE, Stand
from tests.fixtures.uploads import begin, digest_header, octets, send

pytestmark = pytest.mark.faults

PART_BYTES = 8 << 20
HELD_AT = 6 << 20
SMALL = octets(100_000)
PARTS_AT_ONCE = 16
"""So many parts one API process takes at the same time."""
CLIENT = "import sys; from pathlib import Path; from api.client.http import DistillClient\n" \
    "with DistillClient(sys.argv[1], max_tries=60, backoff_seconds=0.2) as client: client.upload(Path(sys.argv[2]), parallel=2)"


@contextlib.contextmanager
def half_sent(stand: Stand, upload: Json, part: bytes, count: int) -> Iterator[list[socket.socket]]:
    """So many connections that have sent a part but for its end; they are closed without a word."""
    path = f"/v1/uploads/{upload['id']}/parts/1"
    head = [f"PUT {path} HTTP/1.1", f"Host: 127.0.0.1:{stand.port}", f"Content-Length: {len(part)}"]
    head += [f"{name}: {value}" for name, value in digest_header(part).items()]
    opened: list[socket.socket] = []
    try:
        for _ in range(count):
            opened.append(socket.create_connection(("127.0.0.1", stand.port), timeout=60 * TIME_SCALE))
            opened[-1].sendall("\r\n".join([*head, "", ""]).encode() + part[: len(part) // 2])
        yield opened
    finally:
        for each in opened:
            each.close()


def test_a5_the_client_is_killed_and_comes_back(stand: Stand, tmp_path: Path) -> None:
    content = octets(5 * PART_BYTES)
    path = tmp_path / "pictures.zip"
    path.write_bytes(content)
    command = [sys.executable, "-c", CLIENT, stand.url, str(path)]
    stand.api.store.delay(0.01)
    client = subprocess.Popen(command, cwd=ROOT, start_new_session=True)
    found: list[dict[str, str]] = []

    def begun() -> bool:
        found[:] = stand.http.get("/v1/uploads").json()["data"]
        return bool(found) and len(there(stand, found[0])) >= 2

    stand.wait_until(begun, 60 + SLACK_SECONDS, "two parts are there")
    client.send_signal(signal.SIGKILL)
    client.wait(30)
    stand.api.store.heal()
    upload = stand.http.get(f"/v1/uploads/{found[0]['id']}").json()
    settled = f"whatever of {upload['num_parts']} parts was on its way has come or gone"
    stand.wait_until(lambda: objects(stand, upload) == set(rows(stand, upload).values()), 10 + SLACK_SECONDS, settled)
    before = rows(stand, upload)
    assert 2 <= len(before) < 5
    assert subprocess.run(command, cwd=ROOT, check=False).returncode == 0
    assert len(stand.http.get("/v1/uploads").json()["data"]) == 1, "it went on with the same upload"
    after = rows(stand, upload)
    assert {n: after[n] for n in before} == before, "what was there was not sent again"
    assert state(stand, upload) == "complete"
    is_stored(stand, upload, content)


def test_a5_the_client_outlives_the_api(stand: Stand, tmp_path: Path) -> None:
    """Its own repetitions bridge a restart: one call, one upload."""
    content = octets(5 * PART_BYTES)
    path = tmp_path / "pictures.zip"
    path.write_bytes(content)
    stand.api.store.delay(0.01)
    client = subprocess.Popen([sys.executable, "-c", CLIENT, stand.url, str(path)], cwd=ROOT, start_new_session=True)
    stand.wait_until(
        lambda: any(each["received_bytes"] for each in stand.http.get("/v1/uploads").json()["data"]), 60 + SLACK_SECONDS,
        "a part is there",
    )
    stand.api.kill()
    stand.api.store.heal()
    stand.start_api()
    assert client.wait(120) == 0
    (upload,) = stand.http.get("/v1/uploads").json()["data"]
    assert upload["state"] == "complete"
    is_stored(stand, upload, content)


def test_a5_clients_that_vanish_leave_nothing_and_take_no_place(stand: Stand) -> None:
    """More of them than the API serves at once, again and again."""
    upload = begin(stand.http, SMALL)
    for _ in range(3):
        with half_sent(stand, upload, SMALL, PARTS_AT_ONCE + 4):
            time.sleep(0.5)
        begun = time.monotonic()
        assert put(stand, upload, 1, SMALL).answered().status_code == 200
        assert time.monotonic() - begun < 5 * TIME_SCALE
    assert objects(stand, upload) == set(rows(stand, upload).values())
    ends_well(stand, upload, SMALL)


def test_a5_clients_that_fall_silent_hold_others_for_half_a_minute(stand: Stand) -> None:
    upload = begin(stand.http, SMALL)
    with half_sent(stand, upload, SMALL, PARTS_AT_ONCE) as silent:
        time.sleep(1)
        call = put(stand, upload, 1, SMALL)
        assert there(stand, upload) == set(), "everything but parts is served meanwhile"
        assert [each.recv(12) for each in silent] == [b"HTTP/1.1 408"] * PARTS_AT_ONCE
        assert call.answered().status_code == 200
    assert objects(stand, upload) == set(rows(stand, upload).values())
    ends_well(stand, upload, SMALL)


def test_a5_an_api_that_is_stopped_does_not_wait_for_a_part(stand: Stand) -> None:
    """SIGTERM, as at each deployment: it goes within its grace, and tells the client to send the part again."""
    content = octets(PART_BYTES)
    upload = begin(stand.http, content)
    body = Body(content, HELD_AT)
    call = put(stand, upload, 1, content, body=body)
    assert body.stopped.wait(60)
    stand.api.signal(signal.SIGTERM)
    assert stand.api.wait(15 + SLACK_SECONDS) is not None
    body.go_on.set()
    answer = call.answered()
    assert (answer.status_code, answer.json()["code"], answer.json()["retryable"]) == (503, "service_stopping", True)
    stand.start_api()
    assert there(stand, upload) == set()
    assert objects(stand, upload) == set()
    ends_well(stand, upload, content)


def test_a5_one_part_from_many_at_one_instant(stand: Stand) -> None:
    """On two replicas, with different bytes: one of them is the part, and it is all there is of it."""
    upload = begin(stand.http, SMALL)
    with stand.replica() as url:
        for again in range(3):
            contents = [octets(len(SMALL), seed) for seed in range(10 * again, 10 * again + 8)]
            calls = [put(stand, upload, 1, content, url=(url, "")[i % 2]) for i, content in enumerate(contents)]
            assert [call.answered().status_code for call in calls] == [200] * 8
            (part,) = stand.http.get(f"/v1/uploads/{upload['id']}").json()["parts"]
            (winner,) = [call.answered() for call in calls if call.answered().json()["sha256"] == part["sha256"]]
            content = contents[calls.index(next(call for call in calls if call.answered() is winner))]
            key = rows(stand, upload)[1]
            assert b"".join(stand.objects.chunks(key, 0, len(content))) == content
            assert objects(stand, upload) == {key}, "what was replaced is gone, without a sweep"
    send(stand.http, upload, SMALL)
    ends_well(stand, upload, SMALL)


@pytest.mark.parametrize("end", ["complete", "cancel"])
def test_a5_a_part_that_comes_when_all_is_over(stand: Stand, end: str) -> None:
    """Its bytes are stored when the upload is closed by another request: it is refused, and they go."""
    upload = begin(stand.http, SMALL)
    send(stand.http, upload, SMALL)
    late = stand.api.store.catch(b"HEAD /", answer=True)
    call = put(stand, upload, 1, octets(len(SMALL), seed=1))
    late.wait()
    assert stand.http.post(f"/v1/uploads/{upload['id']}/{end}").status_code == 200
    late.release()
    answer = call.answered()
    assert (answer.status_code, answer.json()["code"]) == (409, "upload_closed")
    if end == "complete":
        assert objects(stand, upload) == set(rows(stand, upload).values())
        ends_well(stand, upload, SMALL)
    else:
        gone = "the parts of a cancelled upload are gone"
        stand.wait_until(lambda: not objects(stand, upload) and not rows(stand, upload), 10 + SLACK_SECONDS, gone)


def test_a6_completed_and_registered_by_many_at_one_instant(stand: Stand, tmp_path: Path) -> None:
    """Of two uploads of one file, on two replicas."""
    content = archive()
    uploads = [begin(stand.http, content) for _ in range(2)]
    for upload in uploads:
        send(stand.http, upload, content)
    with stand.replica() as url:
        def completing(address: str, upload: Json) -> Call:
            return Call(lambda: stand.http.post(f"{address}/v1/uploads/{upload['id']}/complete"))

        def registering(address: str, upload: Json) -> Call:
            body = {"name": "mine", "format": "imagefolder_zip", "source": {"upload_id": upload["id"]}}
            return Call(lambda: stand.http.post(f"{address}/v1/datasets", json=body))

        calls = [completing(address, upload) for address in (url, "") * 2 for upload in uploads]
        assert [call.answered().status_code for call in calls] == [200] * 8
        calls = [registering(address, upload) for address in (url, "") * 2 for upload in uploads]
        answers = [call.answered() for call in calls]
    assert [answer.status_code for answer in answers] == [202] * 8
    assert len({answer.json()["id"] for answer in answers}) == 1
    assert sum("idempotent-replayed" not in answer.headers for answer in answers) == 1
    stand.worker()
    is_ready(stand, answers[0].json(), digest_in_this_process(tmp_path, content), attempts=1)
