"""Ranges and preconditions of a representation that never changes (RFC 9110, sections 13 and 14). Pure functions.

The store knows an unsatisfiable range only as some error, so the range is bounded here, against the size in SQL.
"""

from __future__ import annotations

import re
from typing import Literal, NamedTuple

from api.errors import PreconditionFailedError, RangeNotSatisfiableError
from api.responses import tag_matches

_RANGE = re.compile(r"bytes[ \t]*=[ \t]*(\d{0,18})-(\d{0,18})[ \t]*", re.ASCII | re.IGNORECASE)


class Span(NamedTuple):
    """Bytes `start` (included) to `stop` (excluded)."""

    start: int
    stop: int


class Conditions(NamedTuple):
    """The headers that decide what is sent."""

    range: str | None = None
    if_range: str | None = None
    if_match: str | None = None
    if_none_match: str | None = None


class Plan(NamedTuple):
    status: Literal[200, 206, 304]
    span: Span


def plan(conditions: Conditions, etag: str, size: int, *, ranges: bool) -> Plan:
    """What to send of `size` bytes with the strong tag `etag`; `ranges` is false where the method has none (HEAD).

    Raises:
        PreconditionFailedError: `If-Match` names other versions only.
        RangeNotSatisfiableError: the range lies beyond the end.
    """
    if conditions.if_match is not None and not _strongly_matches(conditions.if_match, etag):
        raise PreconditionFailedError("the artifact has another ETag than If-Match asks for")
    whole = Span(0, size)
    if tag_matches(conditions.if_none_match, etag):
        return Plan(304, whole)
    if not ranges or conditions.range is None:
        return Plan(200, whole)
    if conditions.if_range is not None and conditions.if_range.strip() != etag:  # a date never matches: there is none
        return Plan(200, whole)
    span = parse_range(conditions.range, size)
    return Plan(200, whole) if span is None else Plan(206, span)


def parse_range(header: str, size: int) -> Span | None:
    """The one range of a `Range` header; None when the header is to be ignored (malformed, other unit, several ranges).

    Raises:
        RangeNotSatisfiableError: well formed, but beyond the end.
    """
    found = _RANGE.fullmatch(header.strip())
    if found is None:
        return None
    first, last = found.groups()
    if not first:
        if not last:
            return None
        length = min(int(last), size)
        if length == 0:
            raise RangeNotSatisfiableError("the range is empty", size)
        return Span(size - length, size)
    start = int(first)
    if last and int(last) < start:
        return None
    if start >= size:
        raise RangeNotSatisfiableError(f"the range begins beyond the last of {size} bytes", size)
    return Span(start, min(int(last) + 1, size) if last else size)


def _strongly_matches(header: str, etag: str) -> bool:
    return header.strip() == "*" or etag in {candidate.strip() for candidate in header.split(",")}
