"""A job's events as server-sent events, read from the table.

The table is the only source: a client that comes back with the last id it saw gets exactly what followed. What is new reaches
all streams through one look for all of them (`feed`); what lies further back is read for each stream alone, in a few threads
kept for that, so that no ordinary request waits behind it.
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
from api.jobs.messages import Message, message
from core.errors import DatabaseUnavailableError, InvalidCursorError, NotFoundError
from core.jobs.models import Job
from core.jobs.repository import Jobs
from core.jobs.states import State

log = logging.getLogger(__name__)

BATCH = 200
KEEP_ALIVE_SECONDS = 15.0
RETRY_MILLISECONDS = 3000
CLOSING_SECONDS = 1.0
"""How often a stream looks whether the process is to end."""


class News(NamedTuple):
    """Events after a cursor, and whether the job was over before they were read."""

    messages: Sequence[Message]
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
        return News([message(row) for row in jobs.events_after(job_id, after, BATCH)], State(job.state).terminal)


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
    """Bytes of the stream, beginning with `news`; ends after the event that ends the job, or with the job or the process."""
    yield f"retry: {RETRY_MILLISECONDS}\n\n".encode()
    spoke = time.monotonic()
    messages = news.messages
    with resources.feed.following(tenant, job_id) as topic:
        while not (resources.closing.begun or topic.gone):
            for each in messages:
                yield each.text
                after, spoke = each.seq, time.monotonic()
                if each.last:
                    return
            found = topic.since(after)
            messages = await _from_table(resources, tenant, job_id, after) if found is None else found
            if messages or found is None:
                continue
            if topic.over and after == topic.seq:
                return
            silent = time.monotonic() - spoke
            if silent >= KEEP_ALIVE_SECONDS:
                yield b": keep-alive\n\n"
                spoke, silent = time.monotonic(), 0.0
            await topic.moved(min(KEEP_ALIVE_SECONDS - silent, CLOSING_SECONDS))


async def _from_table(resources: Resources, tenant: str, job_id: str, after: int) -> Sequence[Message]:
    try:
        return (await in_stream_thread(resources, tenant, job_id, after)).messages
    except (DatabaseUnavailableError, NotFoundError) as error:  # away, or deleted: then the topic will say so
        log.warning("an event stream waits: %s", error.message)
        await anyio.sleep(resources.settings.stream_seconds)
        return ()
