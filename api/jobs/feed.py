"""One look at the database for all event streams of a process, fanned out in memory.

A topic is a job that somebody follows: how far its sequence is, and its last few events. Streams keep a number and nothing
else: what they need is either in the topic or in the table, so a slow client costs no memory and a late one misses nothing.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import NamedTuple

import anyio
from anyio import to_thread

from api.jobs.messages import Message, message
from core.errors import DatabaseUnavailableError
from core.jobs.database import Database
from core.jobs.heads import added, heads

log = logging.getLogger(__name__)

RECENT = 64
"""Events that a topic remembers."""
AT_ONCE = 200
"""Events of one job that one look reads."""


class Key(NamedTuple):
    tenant: str
    job_id: str


class Look(NamedTuple):
    """What one look saw of a job."""

    seq: int
    over: bool
    messages: Sequence[Message] = ()


class Topic:
    """A job that is followed. Belongs to the event loop; no other thread touches it."""

    def __init__(self) -> None:
        self.followers = 0
        self.seq: int | None = None
        """The newest event that is known; None before the first look."""
        self.over = False
        """Nothing follows `seq`."""
        self.gone = False
        """The job was deleted."""
        self._recent: deque[Message] = deque(maxlen=RECENT)
        self._moved = anyio.Event()

    def since(self, after: int) -> Sequence[Message] | None:
        """What is known to follow a number; None when the topic does not reach back so far and the table has to be asked."""
        if self.seq is None or after >= self.seq:
            return ()
        found = [each for each in self._recent if each.seq > after]
        return found if found and found[0].seq == after + 1 else None

    def learn(self, look: Look | None) -> None:
        """Take what a look saw, None when there is no such job any more, and wake who waits."""
        before = (self.seq, self.over, self.gone)
        if look is None:
            self.gone = True
        else:
            self._recent.extend(look.messages)
            self.seq, self.over = look.seq, look.over
        if (self.seq, self.over, self.gone) != before:
            self._moved.set()
            self._moved = anyio.Event()

    async def moved(self, timeout_seconds: float) -> None:
        """Wait until something changes, or the time is over."""
        with anyio.move_on_after(timeout_seconds):
            await self._moved.wait()


class Feed:
    """The topics of one process, and the one task that looks after them."""

    def __init__(self, database: Database, interval_seconds: float) -> None:
        self._database = database
        self._interval = interval_seconds
        self._topics: dict[Key, Topic] = {}
        self._wanted = anyio.Event()
        self._thread = anyio.CapacityLimiter(1)
        self.followers = 0
        """Streams that are open."""

    @contextmanager
    def following(self, tenant: str, job_id: str) -> Iterator[Topic]:
        """The topic of a job, which lives as long as anybody follows it."""
        key = Key(tenant, job_id)
        topic = self._topics.setdefault(key, Topic())
        topic.followers += 1
        self.followers += 1
        self._wanted.set()
        try:
            yield topic
        finally:
            topic.followers -= 1
            self.followers -= 1
            if not topic.followers:
                self._topics.pop(key, None)

    async def run(self) -> None:
        """Look once an interval while anybody follows anything, until cancelled."""
        while True:
            if not self._topics:
                self._wanted = anyio.Event()
                await self._wanted.wait()
            await self._refresh({key: topic.seq for key, topic in self._topics.items()})
            await anyio.sleep(self._interval)

    async def _refresh(self, known: Mapping[Key, int | None]) -> None:
        try:
            looks = await to_thread.run_sync(self._look, known, limiter=self._thread, abandon_on_cancel=True)
        except DatabaseUnavailableError as error:
            log.warning("event streams wait for the database: %s", error.message)
            return
        except Exception:
            log.exception("event streams could not be refreshed")  # the task outlives any surprise
            return
        for key in known:
            if key in self._topics and self._topics[key].seq == known[key]:  # not one that ended and began anew meanwhile
                self._topics[key].learn(looks.get(key))

    def _look(self, known: Mapping[Key, int | None]) -> dict[Key, Look]:
        with self._database.read() as session:
            found = heads(session, [key.job_id for key in known])
            now = {key: head for key in known if (head := found.get(key.job_id)) is not None and head.tenant_id == key.tenant}
            spans = {
                key.job_id: (seq, min(now[key].seq, seq + AT_ONCE))
                for key, seq in known.items() if seq is not None and key in now and now[key].seq > seq
            }
            events = added(session, spans)
        looks: dict[Key, Look] = {}
        for key, head in now.items():
            messages = [message(row) for row in events.get(key.job_id, ())]
            seq = messages[-1].seq if messages else head.seq
            looks[key] = Look(seq, head.over and seq >= head.seq, messages)
        return looks
