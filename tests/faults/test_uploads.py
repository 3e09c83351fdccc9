"""Rows A5 and A6: uploads whose API, client, store or database fails on the way."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.faults.sending import (
    Body,
    Call,
    archive,
    digest_in_this_process,
    ends_well,
    is_ready,
    is_stored,
    job_of,
    objects,
    put,
    register,
    rows,
    there,
)
from tests.faults.stand import ROOT, SLACK_SECONDS, TIME_SCALE, Stand
from tests.fixtures.uploads import begin, complete, octets, part_of, send
from tests.fixtures.uploads import put as put_now

pytestmark = pytest.mark.faults

PART_BYTES = 8 << 20
HELD_AT = 6 << 20
"""More than the first piece that an S3 server is sent, and less than a part."""
WHOLE = octets(2 * PART_BYTES + (3 << 20))
SMALL = octets(100_000)
CLIENT = "import sys; from pathlib import Path; from api.client.http import DistillClient\n" \
    "with DistillClient(sys.argv[1]) as client: client.upload(Path(sys.argv[2]), parallel=2)"


def test_a5_killed_in_the_middle_of_a_part(stand: Stand) -> None:
    upload = begin(stand.http, WHOLE)
    send(stand.http, upload, WHOLE, 3)
    piece = stand.api.store.catch(b"partNumber=1", answer=True)
    part = part_of(upload, WHOLE, 2)
    body = Body(part, HELD_AT)
    call = put(stand, upload, 2, part, body=body)
    piece.wait()
    stand.api.kill()
    piece.drop()
    body.go_on.set()
    call.failed()
    stand.start_api()
    assert there(stand, upload) == {3}
    ends_well(stand, upload, WHOLE)


def test_a5_killed_between_the_bytes_and_the_row(stand: Stand) -> None:
    upload = begin(stand.http, SMALL)
    stand.api.db.reset()
    commit = stand.api.db.catch(b"COMMIT", after=b"INSERT INTO upload_parts")
    call = put(stand, upload, 1, SMALL)
    commit.wait()
    stand.api.kill()
    commit.drop()
    call.failed()
    stand.start_api()
    assert there(stand, upload) == set()
    assert len(stand.strays()) == 1
    ends_well(stand, upload, SMALL)


def test_a5_killed_between_the_row_and_the_answer(stand: Stand) -> None:
    upload = begin(stand.http, SMALL)
    stand.api.db.reset()
    commit = stand.api.db.catch(b"COMMIT", after=b"INSERT INTO upload_parts", answer=True)
    call = put(stand, upload, 1, SMALL)
    commit.wait()
    stand.wait_until(lambda: rows(stand, upload), 10 + SLACK_SECONDS, "the row is there")
    stand.api.kill()
    commit.drop()
    call.failed()
    stand.start_api()
    assert there(stand, upload) == {1}
    send(stand.http, upload, SMALL, 1)
    assert stand.strays() == set(), "what the repetition replaces goes at once"
    ends_well(stand, upload, SMALL)


def test_a5_killed_before_what_was_replaced_is_deleted(stand: Stand) -> None:
    upload = begin(stand.http, SMALL)
    send(stand.http, upload, SMALL, 1)
    old = rows(stand, upload)[1]
    deletion = stand.api.store.catch(b"DELETE /")
    call = put(stand, upload, 1, SMALL)
    deletion.wait()
    stand.api.kill()
    deletion.drop()
    call.failed()
    stand.start_api()
    assert there(stand, upload) == {1}
    assert stand.strays() == {old}
    ends_well(stand, upload, SMALL)


def test_a5_store_away_during_a_part(stand: Stand) -> None:
    upload = begin(stand.http, WHOLE)
    send(stand.http, upload, WHOLE, 1)
    part = part_of(upload, WHOLE, 2)
    body = Body(part, HELD_AT)
    call = put(stand, upload, 2, part, body=body)
    assert body.stopped.wait(60)
    stand.api.store.cut()
    body.go_on.set()
    answer = call.answered()
    assert (answer.status_code, answer.json()["code"]) == (503, "object_store_unavailable")
    assert answer.json()["retryable"]
    assert there(stand, upload) == {1}
    assert put_now(stand.http, upload, 3, part_of(upload, WHOLE, 3)).status_code == 503
    stand.api.store.heal()
    assert there(stand, upload) == {1}
    ends_well(stand, upload, WHOLE)


def test_a5_a_part_that_the_store_acknowledged_and_lost(stand: Stand) -> None:
    """As O4: the proxy answers in the store's place."""
    upload = begin(stand.http, SMALL)
    lie = stand.api.store.swallow(r"PUT /[^ ]*/uploads/")
    answer = put(stand, upload, 1, SMALL).answered()
    assert lie.done.is_set()
    assert (answer.status_code, answer.json()["code"]) == (503, "object_store_unavailable")
    assert there(stand, upload) == set()
    ends_well(stand, upload, SMALL)


def test_a5_a_stalled_store_holds_nobody_but_its_own_part(stand: Stand) -> None:
    upload = begin(stand.http, SMALL)
    stand.api.store.stall()
    call = put(stand, upload, 1, SMALL)
    for _ in range(5):
        begun = time.monotonic()
        assert there(stand, upload) == set()
        stand.probe(steps=1)
        assert time.monotonic() - begun < 2 * TIME_SCALE
    assert not call.over
    stand.api.store.heal()
    assert call.answered().status_code == 200
    ends_well(stand, upload, SMALL)


def test_a5_database_lost_when_a_part_is_noted(stand: Stand) -> None:
    upload = begin(stand.http, SMALL)
    for committed in (False, True):
        stand.api.db.reset()
        trap = stand.api.db.catch(b"COMMIT", after=b"_parts", answer=committed)
        call = put(stand, upload, 1, SMALL)
        trap.wait()
        if committed:
            stand.wait_until(lambda: rows(stand, upload), 10 + SLACK_SECONDS, "the row is there")
        trap.drop()
        answer = call.answered()
        assert (answer.status_code, answer.json()["code"]) == (503, "database_unavailable")
        assert there(stand, upload) == ({1} if committed else set())
    ends_well(stand, upload, SMALL)


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
    assert stand.http.get(f"/v1/uploads/{upload['id']}").json()["state"] == "complete"
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
        stand.wait_until(lambda: not objects(stand, upload), 10 + SLACK_SECONDS, "the bytes of a cancelled upload are gone")
        assert rows(stand, upload) == {}


def test_a6_killed_before_the_completion_commits(stand: Stand, tmp_path: Path) -> None:
    content = archive()
    upload = begin(stand.http, content)
    send(stand.http, upload, content)
    stand.api.db.reset()
    commit = stand.api.db.catch(b"COMMIT", after=b"UPDATE uploads")
    call = Call(lambda: complete(stand.http, upload))
    commit.wait()
    stand.api.kill()
    commit.drop()
    call.failed()
    stand.start_api()
    assert stand.http.get(f"/v1/uploads/{upload['id']}").json()["state"] == "open"
    assert register(stand, upload).json()["code"] == "upload_not_complete"
    ends_well(stand, upload, content)
    stand.worker()
    is_ready(stand, register(stand, upload).json(), digest_in_this_process(tmp_path, content), attempts=1)


def test_a6_killed_between_the_completion_and_its_answer(stand: Stand, tmp_path: Path) -> None:
    content = archive()
    upload = begin(stand.http, content)
    send(stand.http, upload, content)
    stand.api.db.reset()
    commit = stand.api.db.catch(b"COMMIT", after=b"UPDATE uploads", answer=True)
    call = Call(lambda: complete(stand.http, upload))
    commit.wait()
    stand.api.kill()
    commit.drop()
    call.failed()
    stand.start_api()
    stand.wait_until(
        lambda: stand.http.get(f"/v1/uploads/{upload['id']}").json()["state"] == "complete", 10 + SLACK_SECONDS, "it is complete"
    )
    before = rows(stand, upload)
    ends_well(stand, upload, content)
    assert rows(stand, upload) == before
    stand.worker()
    is_ready(stand, register(stand, upload).json(), digest_in_this_process(tmp_path, content), attempts=1)


@pytest.mark.parametrize("committed", [False, True])
def test_a6_killed_while_a_data_set_is_registered(stand: Stand, tmp_path: Path, committed: bool) -> None:
    """As A1 and A2: the same registration makes one data set, however often it is sent."""
    content = archive()
    upload = begin(stand.http, content)
    ends_well(stand, upload, content)
    stand.api.db.reset()
    commit = stand.api.db.catch(b"COMMIT", after=b"INSERT INTO jobs", answer=committed)
    call = Call(lambda: register(stand, upload))
    commit.wait()
    if committed:
        stand.wait_until(
            lambda: stand.http.get("/v1/datasets", params={"source": "upload"}).json()["data"], 10 + SLACK_SECONDS, "it is there"
        )
    stand.api.kill()
    commit.drop()
    call.failed()
    stand.start_api()
    first, second = register(stand, upload), register(stand, upload)
    assert (first.status_code, second.status_code) == (202, 202)
    assert ("idempotent-replayed" in first.headers, "idempotent-replayed" in second.headers) == (committed, True)
    assert first.json()["id"] == second.json()["id"]
    stand.worker()
    is_ready(stand, first.json(), digest_in_this_process(tmp_path, content), attempts=1)


def test_a6_database_away_at_the_completion(stand: Stand, tmp_path: Path) -> None:
    content = archive()
    upload = begin(stand.http, content)
    send(stand.http, upload, content)
    stand.api.db.cut()
    answer = complete(stand.http, upload)
    assert (answer.status_code, answer.json()["code"]) == (503, "database_unavailable")
    assert "retry-after" in answer.headers
    stand.api.db.heal()
    assert stand.http.get(f"/v1/uploads/{upload['id']}").json()["state"] == "open"
    trap = stand.api.db.catch(b"COMMIT", after=b"UPDATE uploads", answer=True)
    call = Call(lambda: complete(stand.http, upload))
    trap.wait()
    trap.drop()
    assert call.answered().status_code == 503, "nobody knows whether it was committed"
    ends_well(stand, upload, content)
    stand.worker()
    is_ready(stand, register(stand, upload).json(), digest_in_this_process(tmp_path, content), attempts=1)


def test_a6_completed_and_registered_by_many_at_one_instant(stand: Stand, tmp_path: Path) -> None:
    content = archive()
    upload = begin(stand.http, content)
    send(stand.http, upload, content)
    body = {"name": "mine", "format": "imagefolder_zip", "source": {"upload_id": upload["id"]}}
    with stand.replica() as url:
        def completing(address: str) -> Call:
            return Call(lambda: stand.http.post(f"{address}/v1/uploads/{upload['id']}/complete"))

        def registering(address: str) -> Call:
            return Call(lambda: stand.http.post(f"{address}/v1/datasets", json=body))

        calls = [completing(address) for address in (url, "") * 4]
        assert [call.answered().status_code for call in calls] == [200] * 8
        calls = [registering(address) for address in (url, "") * 4]
        answers = [call.answered() for call in calls]
    assert [answer.status_code for answer in answers] == [202] * 8
    assert len({answer.json()["id"] for answer in answers}) == 1
    assert sum("idempotent-replayed" not in answer.headers for answer in answers) == 1
    stand.worker()
    is_ready(stand, answers[0].json(), digest_in_this_process(tmp_path, content), attempts=1)
    assert stand.job(job_of(answers[0].json()))["state"] == "succeeded"
