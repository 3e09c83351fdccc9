from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from api.client.sse import EventTooLargeError, ServerSentEvent, read_events

pytestmark = pytest.mark.unit

STREAM = (
    "\ufeffretry: 3000\r\n\r\n: a comment\n\nid: 1\nevent: job.state\ndata: {\"a\":\ndata: 1}\n\n"
    "data\rdata: line\u2028separator\rid: 2\r\rid\ndata: x\nignored: field\n\nid: 3\ndata: never finished\n"
).encode()
EVENTS = [
    ServerSentEvent("job.state", '{"a":\n1}', "1", 3.0),
    ServerSentEvent("message", "\nline\u2028separator", "2", 3.0),
    ServerSentEvent("message", "x", "", 3.0),
]


def test_reads_every_form_the_standard_allows_and_drops_what_is_incomplete() -> None:
    assert list(read_events([STREAM])) == EVENTS


@given(st.lists(st.integers(0, len(STREAM)), max_size=12))
def test_the_cutting_into_chunks_changes_nothing(cuts: list[int]) -> None:
    edges = [0, *sorted(cuts), len(STREAM)]
    chunks = [STREAM[a:b] for a, b in itertools.pairwise(edges)]
    assert list(read_events(chunks)) == EVENTS


def test_refuses_an_endless_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("api.client.sse.MAX_EVENT_BYTES", 100)
    with pytest.raises(EventTooLargeError):
        list(read_events([b"data: ", b"x" * 101]))


def test_an_id_with_a_null_and_a_retry_that_is_no_number_are_ignored() -> None:
    events = list(read_events([b"id: 7\nretry: soon\ndata: a\n\nid: 8\0\ndata: b\n\n"]))
    assert [(event.id, event.retry_seconds) for event in events] == [("7", None), ("7", None)]
