"""A job's events as server-sent events, read from the table.

The table is the only source: a client that comes back with the last id it saw gets exactly what followed. Reading happens
in a few threads kept for streams, each time in a short transaction, so that a thousand idle streams cost a small query a
second each and no ordinary request waits behind them.
"""

from __future__ import annotations

import logging
import time
from collections.abc import AsyncIterator, Sequence
from typing import NamedTuple

import anyio
from anyio import to_thread
from starlette.responses import StreamingResponse

from api.deps import Resources
from api.jobs.schemas import EventView, event_view
from core.errors import DatabaseUnavailableError, InvalidCursorError
from core.jobs.models import Job
from core.jobs.repository import Jobs
from core.jobs.states import State

log = logging.getLogger(__name__)

BATCH = 200
KEEP_ALIVE_SECONDS = 15.0
RETRY_MILLISECONDS = 3000


class News(NamedTuple):
    """Events after a cursor, and whether the job was over before they were read."""

    events: Sequence[EventView]
    over: bool


class EventStream(StreamingResponse):
    media_type = "text/event-stream"


def read_news(resources: Resources, tenant: str, job_id: str, after: int) -> News:
    """One look at the table.

    Raises:
        NotFoundError: this tenant has no such job.
        InvalidCursorError: the cursor lies beyond the newest event.
    """
    with resources.database.read() as session:
        jobs = Jobs(session, tenant)
        job = jobs.get(job_id)  # before the events: if the job is over here, its last event is visible below
        check_cursor(job, after)
        return News([event_view(row) for row in jobs.events_after(job_id, after, BATCH)], State(job.state).terminal)


def check_cursor(job: Job, after: int) -> None:
    """Refuse a cursor from the future, which would silently skip events.

    Raises:
        InvalidCursorError: no event of the job has this number yet.
    """
    if after > job.event_seq:
        raise InvalidCursorError(f"event {after} does not exist; the newest is {job.event_seq}")


def parse_cursor(text: str | None) -> int:
    """The sequence number in `Last-Event-ID` or `after`; nothing means the beginning.

    Raises:
        InvalidCursorError: it is not a number that we issued.
    """
    if text is None or text == "":
        return 0
    if not (text.isascii() and text.isdecimal() and len(text) <= 10):
        raise InvalidCursorError("the cursor must be the number of an event")
    return int(text)


async def in_stream_thread(resources: Resources, tenant: str, job_id: str, after: int) -> News:
    """`read_news` in one of the threads kept for streams."""
    return await to_thread.run_sync(read_news, resources, tenant, job_id, after, limiter=resources.stream_threads)


async def follow(resources: Resources, tenant: str, job_id: str, after: int, news: News) -> AsyncIterator[bytes]:
    """Bytes of the stream, beginning with `news`; ends after the event that ends the job, or with the process."""
    yield f"retry: {RETRY_MILLISECONDS}\n\n".encode()
    spoke = time.monotonic()
    while not resources.closing.begun:
        for event in news.events:
            yield encode(event)
            after, spoke = event.seq, time.monotonic()
            if ends_job(event):
                return
        if not news.events:
            if news.over:
                return
            if time.monotonic() - spoke >= KEEP_ALIVE_SECONDS:
                yield b": keep-alive\n\n"
                spoke = time.monotonic()
        if len(news.events) < BATCH:
            await anyio.sleep(resources.settings.stream_seconds)
        try:
            news = await in_stream_thread(resources, tenant, job_id, after)
        except DatabaseUnavailableError as error:
            log.warning("an event stream waits for the database: %s", error.message)
            news = News([], over=False)


def encode(event: EventView) -> bytes:
    """One event on the wire. JSON text holds no line end, so one `data:` line is enough."""
    return f"id: {event.seq}\nevent: {event.type}\ndata: {event.model_dump_json()}\n\n".encode()


def ends_job(event: EventView) -> bool:
    """Whether no event can follow."""
    state = event.data.get("state")
    return event.type == "job.state" and isinstance(state, str) and state in set(State) and State(state).terminal
