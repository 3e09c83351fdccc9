"""Server-sent events, read from a stream of bytes (WHATWG HTML, section 9.2.6).

Lines end only where the standard says so: splitting with `str.splitlines` would also cut at U+2028 inside JSON.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

_LINE_END = re.compile(rb"\r\n|\n|\r")
MAX_EVENT_BYTES = 4 << 20


@dataclass(frozen=True)
class ServerSentEvent:
    """One dispatched event. `id` and `retry_seconds` are the last values the stream set, as the standard has it."""

    event: str
    data: str
    id: str
    retry_seconds: float | None


class EventTooLargeError(ValueError):
    """The stream sent more than `MAX_EVENT_BYTES` without ending an event; it is not an event stream of ours."""


def _lines(chunks: Iterable[bytes]) -> Iterator[bytes]:
    rest = b""
    for chunk in chunks:
        rest += chunk
        start = 0
        for end in _LINE_END.finditer(rest):
            if end.group() == b"\r" and end.end() == len(rest):
                break  # perhaps the first half of a CR LF
            yield rest[start : end.start()]
            start = end.end()
        rest = rest[start:]
        if len(rest) > MAX_EVENT_BYTES:
            raise EventTooLargeError("a line of the event stream is too long")
    if rest.endswith(b"\r"):
        yield rest[:-1]


def read_events(chunks: Iterable[bytes]) -> Iterator[ServerSentEvent]:
    """Yield each complete event; what a cut connection left incomplete is dropped, as the standard says.

    Raises:
        EventTooLargeError: the stream is not one of ours.
    """
    data: list[str] = []
    event, last_id, retry, size = "", "", None, 0
    for number, raw in enumerate(_lines(chunks)):
        line = raw.removeprefix(b"\xef\xbb\xbf") if number == 0 else raw
        if not line:
            if data:
                yield ServerSentEvent(event or "message", "\n".join(data), last_id, retry)
            data, event, size = [], "", 0
            continue
        name, _, value = line.decode("utf-8", "replace").partition(":")
        value = value.removeprefix(" ")
        if name == "data":
            data.append(value)
            size += len(value)
            if size > MAX_EVENT_BYTES:
                raise EventTooLargeError("an event of the stream is too long")
        elif name == "event":
            event = value
        elif name == "id" and "\0" not in value:
            last_id = value
        elif name == "retry" and value.isascii() and value.isdigit():
            retry = int(value) / 1000
