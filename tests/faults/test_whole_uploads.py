"""Row A5 for a whole file in one request: it is there whole, or the upload is as it was and the rest is swept."""

from __future__ import annotations

import signal

import pytest

from tests.faults.proxy import Catch
from tests.faults.sending import Body, Call, Json, is_stored, objects, put_whole, rows, state, there
from tests.faults.stand import SLACK_SECONDS, Stand
from tests.fixtures.uploads import begin, octets, send

pytestmark = pytest.mark.faults

PART_BYTES = 8 << 20
HELD_AT = PART_BYTES + (6 << 20)
"""In the middle of the second part."""
WHOLE = octets(2 * PART_BYTES + (3 << 20))


def test_a5_killed_in_the_middle_of_a_whole_file(stand: Stand) -> None:
    upload = begin(stand.http, WHOLE)
    send(stand.http, upload, WHOLE, 3)
    before, body = rows(stand, upload), Body(WHOLE, HELD_AT)
    call = put_whole(stand, upload, WHOLE, body=body)
    assert body.stopped.wait(60)
    stand.wait_until(lambda: stand.strays(), 30 + SLACK_SECONDS, "the first part is stored")
    stand.api.kill()
    body.go_on.set()
    call.failed()
    stand.start_api()
    assert (rows(stand, upload), len(stand.strays())) == (before, 1)
    stand.sweep()
    assert objects(stand, upload) == set(before.values())
    assert put_whole(stand, upload, WHOLE).answered().status_code == 200
    is_stored(stand, upload, WHOLE)


def sent_until_noted(stand: Stand, upload: Json, *, committed: bool) -> tuple[Catch, Call]:
    """A whole file whose commit is held where the API waits for it: on its way to the database, or on its way back."""
    stand.api.db.reset()
    trap = stand.api.db.catch(b"COMMIT", after=b"INSERT INTO upload_parts", answer=committed)
    call = put_whole(stand, upload, WHOLE)
    trap.wait()
    if committed:
        stand.wait_until(lambda: rows(stand, upload), 10 + SLACK_SECONDS, "the rows are there")
    return trap, call


@pytest.mark.parametrize("committed", [False, True])
def test_a5_killed_while_a_whole_file_is_noted(stand: Stand, committed: bool) -> None:
    upload = begin(stand.http, WHOLE)
    commit, call = sent_until_noted(stand, upload, committed=committed)
    stand.api.kill()
    commit.drop()
    call.failed()
    stand.start_api()
    assert (state(stand, upload), there(stand, upload)) == (("complete", {1, 2, 3}) if committed else ("open", set()))
    assert len(stand.strays()) == (0 if committed else 3)
    assert put_whole(stand, upload, WHOLE).answered().status_code == 200
    is_stored(stand, upload, WHOLE)


@pytest.mark.parametrize("committed", [False, True])
def test_a5_database_lost_when_a_whole_file_is_noted(stand: Stand, committed: bool) -> None:
    """Nobody knows whether it was committed, so what may be named stays."""
    upload = begin(stand.http, WHOLE)
    commit, call = sent_until_noted(stand, upload, committed=committed)
    commit.drop()
    answer = call.answered()
    assert (answer.status_code, answer.json()["code"]) == (503, "database_unavailable")
    assert state(stand, upload) == ("complete" if committed else "open")
    assert len(objects(stand, upload)) == 3
    assert put_whole(stand, upload, WHOLE).answered().status_code == 200
    is_stored(stand, upload, WHOLE)


def test_a5_store_away_during_a_whole_file(stand: Stand) -> None:
    upload, body = begin(stand.http, WHOLE), Body(WHOLE, HELD_AT)
    call = put_whole(stand, upload, WHOLE, body=body)
    assert body.stopped.wait(60)
    stand.api.store.cut()
    body.go_on.set()
    answer = call.answered()
    assert (answer.status_code, answer.json()["code"], answer.json()["retryable"]) == (503, "object_store_unavailable", True)
    assert (state(stand, upload), there(stand, upload)) == ("open", set())
    stand.api.store.heal()
    assert put_whole(stand, upload, WHOLE).answered().status_code == 200
    is_stored(stand, upload, WHOLE)


def test_a5_an_api_that_is_stopped_does_not_wait_for_a_whole_file(stand: Stand) -> None:
    """SIGTERM: it goes within its grace, and tells the client to send the file again; the sweeper takes what it has stored."""
    upload, body = begin(stand.http, WHOLE), Body(WHOLE, HELD_AT)
    call = put_whole(stand, upload, WHOLE, body=body)
    assert body.stopped.wait(60)
    stand.wait_until(lambda: stand.strays(), 30 + SLACK_SECONDS, "the first part is stored")
    stand.api.signal(signal.SIGTERM)
    assert stand.api.wait(15 + SLACK_SECONDS) is not None
    body.go_on.set()
    answer = call.answered()
    assert (answer.status_code, answer.json()["code"], answer.json()["retryable"]) == (503, "service_stopping", True)
    stand.start_api()
    assert there(stand, upload) == set()
    assert put_whole(stand, upload, WHOLE).answered().status_code == 200
    is_stored(stand, upload, WHOLE)
