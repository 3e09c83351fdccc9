"""Following a job: its events as a stream that repairs itself, or by asking again and again where streaming does not work."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from urllib.parse import quote

import httpx

from api.client.connection import Connection, Json
from api.client.errors import ClientError
from api.client.sse import EventTooLargeError, read_events

TERMINAL_STATES = frozenset({"succeeded", "failed", "cancelled"})
FRUITLESS_STREAMS = 3
"""Connections in a row that brought no event before the client asks again and again instead."""


def job_path(job_id: str) -> str:
    """Path of a job."""
    return f"/v1/jobs/{quote(job_id, safe='')}"


def events(connection: Connection, job_id: str, after: int) -> Iterator[Json]:
    """All events that exist after sequence number `after`, ascending."""
    while True:
        page = connection.request("GET", f"{job_path(job_id)}/events", params={"after": after, "limit": 100})
        for event in page.get("data", []):
            after = max(after, int(event["seq"]))
            yield event
        if not page.get("has_more") or not page.get("data"):
            return


def follow(
    connection: Connection, job_id: str, *, after: int, patience_seconds: float, poll_seconds: float,
    on_trouble: Callable[[str], None],
) -> Iterator[Json]:
    """A job's events until it is terminal and every event was seen, each event once; see `DistillClient.stream`.

    Raises:
        ClientError: no such job, or no answer for `patience_seconds`.
    """
    last, fruitless = after, 0
    while fruitless < FRUITLESS_STREAMS:
        retry_seconds = 0.0
        try:
            with connection.http.stream(
                "GET",
                f"{job_path(job_id)}/events/stream",
                headers={"Accept": "text/event-stream", "Last-Event-ID": str(last)},
                timeout=httpx.Timeout(10.0, read=45.0),  # the server sends a comment each 15 s
            ) as response:
                if response.status_code == 204:
                    return
                if response.status_code >= 500 or response.status_code == 429:
                    raise httpx.RemoteProtocolError(f"HTTP {response.status_code}")
                if response.status_code != 200 or not _content_type(response).startswith("text/event-stream"):
                    break
                for received in read_events(response.iter_bytes()):
                    retry_seconds = received.retry_seconds or 0.0
                    event = _event(received.data)
                    if event is None or event["seq"] <= last:
                        continue
                    last, fruitless = event["seq"], 0
                    yield event
                    if _is_end(event):
                        retry_seconds = 0.0
        except (httpx.TransportError, EventTooLargeError) as error:
            on_trouble(f"the event stream was cut ({str(error) or type(error).__name__})")
        fruitless += 1
        if fruitless > 1:
            time.sleep(min(max(retry_seconds, connection.backoff_seconds * 2**fruitless), 3.0))
    yield from _poll(connection, job_id, last, patience_seconds, poll_seconds, on_trouble)


def _poll(
    connection: Connection, job_id: str, last: int, patience_seconds: float, poll_seconds: float,
    on_trouble: Callable[[str], None],
) -> Iterator[Json]:
    answered = time.monotonic()
    while True:
        try:
            job = connection.request("GET", job_path(job_id))  # before the events, so that the last ones are not missed
            for event in events(connection, job_id, last):
                last = int(event["seq"])
                yield event
        except ClientError as error:
            if not error.retryable or time.monotonic() - answered > patience_seconds:
                raise
            on_trouble(error.message)
        else:
            if job["state"] in TERMINAL_STATES:
                return
            answered = time.monotonic()
        time.sleep(poll_seconds)


def _content_type(response: httpx.Response) -> str:
    return str(response.headers.get("Content-Type", ""))


def _event(data: str) -> Json | None:
    try:
        event = json.loads(data)
    except ValueError:
        return None
    return event if isinstance(event, dict) and isinstance(event.get("seq"), int) else None


def _is_end(event: Json) -> bool:
    data = event.get("data")
    return event.get("type") == "job.state" and isinstance(data, dict) and data.get("state") in TERMINAL_STATES
