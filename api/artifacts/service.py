"""Sending the bytes of an artifact: checked against the store before the first header, in pieces of bounded size.

Everything that waits for the store runs in threads kept for that, and is abandoned when the server ends.
"""

from __future__ import annotations

import base64
import re
from collections.abc import AsyncIterator, Callable, Iterator
from functools import partial
from itertools import chain
from typing import TypeVar

from anyio import to_thread
from starlette.responses import Response, StreamingResponse

from api.artifacts.conditions import Conditions, Span, plan
from api.deps import Resources
from core.errors import ArtifactCorruptError
from core.jobs.models import Artifact
from core.store.objects import Objects

T = TypeVar("T")


async def in_store_thread(resources: Resources, function: Callable[[], T]) -> T:
    """Run something that waits for the store."""
    return await to_thread.run_sync(function, limiter=resources.store_threads, abandon_on_cancel=True)


async def content(
    resources: Resources, find: Callable[[], Artifact], conditions: Conditions, *, head: bool = False, inline: bool = False
) -> Response:
    """The answer to a GET or HEAD of an artifact's bytes; `find` looks the row up.

    Raises:
        PreconditionFailedError: `If-Match` names other versions only.
        RangeNotSatisfiableError: the range lies beyond the end.
        ArtifactCorruptError: the store has no such object, or one of another size.
        StoreUnavailableError: the store cannot be reached.
    """
    return await in_store_thread(resources, partial(_answer, resources, find, conditions, head=head, inline=inline))


def _answer(
    resources: Resources, find: Callable[[], Artifact], conditions: Conditions, *, head: bool, inline: bool
) -> Response:
    objects, row = resources.objects, find()
    etag = f'"sha256-{row.sha256}"'
    made = plan(conditions, etag, row.size_bytes, ranges=not head)
    headers = {
        "ETag": etag, "Accept-Ranges": "bytes", "X-Content-Type-Options": "nosniff",
        "Cache-Control": "private, max-age=31536000, immutable",
    }
    if made.status == 304:
        return Response(status_code=304, headers=headers)
    stored = objects.size(row.key)
    if stored != row.size_bytes:
        raise ArtifactCorruptError(f"{row.key} has {stored} bytes in the store and {row.size_bytes} in its row")
    start, stop = made.span
    headers |= {
        "Content-Length": str(stop - start), "Content-Type": row.media_type,
        "Repr-Digest": f"sha-256=:{base64.b64encode(bytes.fromhex(row.sha256)).decode()}:",
        "Content-Disposition": f'{"inline" if inline else "attachment"}; filename="{_file_name(row.name)}"',
        "Content-Security-Policy": "default-src 'none'; style-src 'unsafe-inline'; img-src data:; sandbox",
    }
    if made.status == 206:
        headers["Content-Range"] = f"bytes {start}-{stop - 1}/{row.size_bytes}"
    if head or start == stop:
        return Response(status_code=made.status, headers=headers)
    pieces = _begun(objects, row.key, made.span)
    return StreamingResponse(_sent(resources, pieces), status_code=made.status, headers=headers)


def _begun(objects: Objects, key: str, span: Span) -> Iterator[bytes]:
    """The pieces, the first of which has been read: a store that fails at once is still a proper error."""
    pieces = objects.chunks(key, span.start, span.stop)
    return chain([next(pieces)], pieces)


async def _sent(resources: Resources, pieces: Iterator[bytes]) -> AsyncIterator[bytes]:
    while piece := await in_store_thread(resources, partial(next, pieces, b"")):
        yield piece


def _file_name(name: str) -> str:
    """Our artifacts have plain names; anything else would have to be quoted."""
    return re.sub(r"[^A-Za-z0-9._-]", "_", name)
