"""Rows A5 and A6: uploads whose API, store or database fails on the way. `test_ingest.py` has the workers that read them."""

from __future__ import annotations

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
    listed,
    put,
    register,
    rows,
    state,
    there,
)
from tests.faults.stand import SLACK_SECONDS, TIME_SCALE, Stand
from tests.fixtures.uploads import begin, complete, octets, part_of, send
from tests.fixtures.uploads import put as put_now

pytestmark = pytest.mark.faults

PART_BYTES = 8 << 20
HELD_AT = 6 << 20
"""More than the first piece that an S3 server is sent, and less than a part."""
WHOLE = octets(2 * PART_BYTES + (3 << 20))
SMALL = octets(100_000)


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
    deletion = stand.api.store.catch(b"?delete ")
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
    assert state(stand, upload) == "open"
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
    stand.wait_until(lambda: state(stand, upload) == "complete", 10 + SLACK_SECONDS, "it is complete")
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
        stand.wait_until(lambda: listed(stand), 10 + SLACK_SECONDS, "it is there")
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
    assert state(stand, upload) == "open"
    trap = stand.api.db.catch(b"COMMIT", after=b"UPDATE uploads", answer=True)
    call = Call(lambda: complete(stand.http, upload))
    trap.wait()
    trap.drop()
    assert call.answered().status_code == 503, "nobody knows whether it was committed"
    ends_well(stand, upload, content)
    stand.worker()
    is_ready(stand, register(stand, upload).json(), digest_in_this_process(tmp_path, content), attempts=1)
