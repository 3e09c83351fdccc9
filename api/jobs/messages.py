"""One event on the wire of a stream."""

from __future__ import annotations

from typing import NamedTuple

from api.jobs.schemas import EventView, event_view
from core.jobs.models import Event
from core.jobs.states import State


class Message(NamedTuple):
    """An event as bytes: encoded once for all who follow the job."""

    seq: int
    text: bytes
    last: bool
    """Whether no event can follow."""


def message(row: Event) -> Message:
    """Encode a row."""
    event = event_view(row)
    return Message(event.seq, encode(event), ends_job(event))


def encode(event: EventView) -> bytes:
    """One event on the wire. JSON text holds no line end, so one `data:` line is enough."""
    return f"id: {event.seq}\nevent: {event.type}\ndata: {event.model_dump_json()}\n\n".encode()


def ends_job(event: EventView) -> bool:
    """Whether no event can follow."""
    state = event.data.get("state")
    return event.type == "job.state" and isinstance(state, str) and state in set(State) and State(state).terminal
