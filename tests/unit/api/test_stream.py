"""Events on the wire."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from api.client.sse import read_events
from api.jobs.feed import RECENT, Look, Topic
from api.jobs.messages import Message, encode, ends_job
from api.jobs.schemas import EventView
from api.jobs.stream import parse_cursor
from core.errors import InvalidCursorError
from core.jobs.states import State

pytestmark = pytest.mark.unit


def event(message: str = "", seq: int = 1, kind: str = "job.progress", **data: Any) -> EventView:
    at = datetime(2026, 1, 2, tzinfo=UTC)
    return EventView(seq=seq, type=kind, level="info", created_at=at, attempt=1, message=message, data=data)


@settings(deadline=None)  # the first example pays for imports
@given(st.text(st.characters(exclude_categories=["Cs"])), st.integers(1, 10**9))
def test_any_text_survives_the_wire(message: str, seq: int) -> None:
    sent = event(message, seq, note=message)
    (received,) = read_events([encode(sent)])
    assert (received.id, received.event) == (str(seq), "job.progress")
    assert EventView.model_validate_json(received.data) == sent


@pytest.mark.parametrize("text", ["-1", "x", "1.0", "+1", " 1", "\u0661", "9" * 11])
def test_cursors_nobody_issued(text: str) -> None:
    with pytest.raises(InvalidCursorError):
        parse_cursor(text)


@pytest.mark.parametrize(("text", "seq"), [(None, 0), ("", 0), ("0", 0), ("17", 17)])
def test_cursors(text: str | None, seq: int) -> None:
    assert parse_cursor(text) == seq


@pytest.mark.parametrize("state", list(State))
def test_only_a_terminal_state_ends_a_job(state: State) -> None:
    assert ends_job(event(kind="job.state", state=state.value)) == state.terminal
    assert not ends_job(event(kind="job.progress", state=state.value))
    assert not ends_job(event(kind="job.state"))


def messages(first: int, last: int) -> list[Message]:
    return [Message(seq, b"", last=False) for seq in range(first, last + 1)]


class TestTopic:
    """What a stream may take from memory, and when it has to ask the table."""

    def test_before_the_first_look_nothing_is_known(self) -> None:
        assert Topic().since(0) == ()

    def test_what_lies_before_the_first_look_is_in_the_table_only(self) -> None:
        topic = Topic()
        topic.learn(Look(7, over=False))
        assert (topic.since(6), topic.since(7), topic.since(8)) == (None, (), ())

    def test_later_events_are_handed_to_everybody_once_and_without_a_gap(self) -> None:
        topic = Topic()
        topic.learn(Look(7, over=False))
        topic.learn(Look(9, over=False, messages=messages(8, 9)))
        assert [each.seq for each in topic.since(7) or ()] == [8, 9]
        assert [each.seq for each in topic.since(8) or ()] == [9]
        assert (topic.since(9), topic.since(6)) == ((), None)

    def test_memory_is_bounded_and_who_is_too_late_asks_the_table(self) -> None:
        topic = Topic()
        topic.learn(Look(0, over=False))
        topic.learn(Look(10 * RECENT, over=True, messages=messages(1, 10 * RECENT)))
        assert topic.since(10 * RECENT - RECENT - 1) is None
        assert len(topic.since(10 * RECENT - RECENT) or ()) == RECENT

    def test_a_deleted_job_is_gone(self) -> None:
        topic = Topic()
        topic.learn(Look(1, over=True))
        assert not topic.gone
        topic.learn(None)
        assert topic.gone
