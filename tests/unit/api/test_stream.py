"""Events on the wire."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from api.client.sse import read_events
from api.jobs.schemas import EventView
from api.jobs.stream import encode, ends_job, parse_cursor
from core.errors import InvalidCursorError
from core.jobs.states import State

pytestmark = pytest.mark.unit


def event(message: str = "", seq: int = 1, kind: str = "job.progress", **data: Any) -> EventView:
    at = datetime(2026, 1, 2, tzinfo=UTC)
    return EventView(seq=seq, type=kind, level="info", created_at=at, attempt=1, message=message, data=data)


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
