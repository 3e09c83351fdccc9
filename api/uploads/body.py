"""The raw body of a part, or of a whole file: counted, hashed and timed while it passes, and never held as a whole."""

from __future__ import annotations

import asyncio
import base64
import binascii
import hashlib
import time
from collections.abc import AsyncIterator, Callable

import anyio
from anyio import to_thread
from fastapi import Request

from api.errors import BodyTimeoutError, InvalidHeaderError, LengthRequiredError, UnsupportedMediaTypeError
from core.errors import PartDamagedError, SizeMismatchError

PIECE_BYTES = 1 << 20
SILENCE_SECONDS = 30.0
"""Longest wait for the next bytes."""
BODY_SECONDS = 900.0
"""Longest time for a whole part: whoever sends slower would keep others from sending."""
CONTENT_SECONDS = 7200.0
"""Longest time for a whole file: as slow a line as a part may have."""


def declared_length(request: Request) -> int:
    """The length that the request says its body has.

    Raises:
        LengthRequiredError: it says none.
        InvalidHeaderError: it says no number.
    """
    length = request.headers.get("content-length")
    if length is None:
        raise LengthRequiredError("send the bytes with Content-Length, not in chunks")
    if not (length.isascii() and length.isdecimal() and len(length) <= 20):
        raise InvalidHeaderError("Content-Length must be a number")
    return int(length)


def require_octets(request: Request) -> None:
    """Make sure that the body is nothing but bytes.

    Raises:
        UnsupportedMediaTypeError: it says to be something else, or to be compressed.
    """
    declared = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    encoding = request.headers.get("content-encoding", "identity").strip().lower()
    if declared not in {"", "application/octet-stream"} or encoding != "identity":
        raise UnsupportedMediaTypeError("send the bytes as they are, as application/octet-stream")


def sha256_of_header(content_digest: str) -> str | None:
    """The SHA-256 in a `Content-Digest` header (RFC 9530), in hex; other algorithms are not looked at.

    Raises:
        InvalidHeaderError: it is malformed.
    """
    for member in content_digest.split(","):
        name, _, value = member.strip().partition("=")
        if name != "sha-256":
            continue
        try:
            digest = base64.b64decode(value[1:-1], validate=True) if value[:1] == value[-1:] == ":" else b""
        except (binascii.Error, ValueError):
            digest = b""
        if len(digest) != 32:
            raise InvalidHeaderError("Content-Digest must be sha-256=:BASE64:, the SHA-256 of the body")
        return digest.hex()
    return None


class Body:
    """The bytes of a request, which are handed out part by part in the order in which they come."""

    def __init__(self, request: Request, seconds: float, threads: anyio.CapacityLimiter) -> None:
        """Wait for nothing yet.

        Args:
            request: whose body it is.
            seconds: longest time for all of it.
            threads: where the bytes are hashed.
        """
        self._chunks = _timed(request.stream(), seconds)
        self._threads = threads
        self._hasher = hashlib.sha256()
        self._rest = b""
        """Came with the end of a part, and belongs to the next."""

    def hexdigest(self) -> str:
        """SHA-256 of what was handed out so far."""
        return self._hasher.hexdigest()

    async def part(self, size_bytes: int, hears: Callable[[bytes], None] | None = None) -> AsyncIterator[bytes]:
        """The next bytes, so many of them, in pieces of about `PIECE_BYTES`; each is hashed before it is handed out.

        Args:
            size_bytes: of the part.
            hears: is told each piece in a thread, for a digest of the part's own.

        Raises:
            SizeMismatchError: the body ends before.
            BodyTimeoutError: it comes too slowly.
            ClientDisconnect: the client has gone.
        """
        left = size_bytes
        while left:
            waiting, gathered = [], 0
            while gathered < min(left, PIECE_BYTES):
                chunk = self._rest or await anext(self._chunks, b"")
                if not chunk:
                    raise SizeMismatchError(f"the body ends {left - gathered} bytes before it should")
                chunk, self._rest = chunk[: left - gathered], chunk[left - gathered :]
                waiting.append(chunk)
                gathered += len(chunk)
            piece = b"".join(waiting)
            left -= gathered
            await to_thread.run_sync(self._hash, piece, hears, limiter=self._threads)
            yield piece

    def _hash(self, piece: bytes, hears: Callable[[bytes], None] | None) -> None:
        self._hasher.update(piece)
        if hears is not None:
            hears(piece)

    async def end(self) -> None:
        """Make sure that nothing follows what was handed out.

        Raises:
            SizeMismatchError: more bytes came.
            BodyTimeoutError: the end comes too slowly.
            ClientDisconnect: the client has gone.
        """
        if self._rest or await anext(self._chunks, b""):
            raise SizeMismatchError("the body has more bytes than it should")


async def checked_pieces(
    request: Request, size_bytes: int, sha256: str, threads: anyio.CapacityLimiter
) -> AsyncIterator[bytes]:
    """The body of a part in pieces of about `PIECE_BYTES`.

    Everything is checked before the last piece is handed on, so that the store never shows an object with other bytes.

    Raises:
        SizeMismatchError: it has more or fewer bytes than it should.
        PartDamagedError: it has another digest.
        BodyTimeoutError: it comes too slowly.
        ClientDisconnect: the client has gone.
    """
    body, left = Body(request, BODY_SECONDS, threads), size_bytes
    async for piece in body.part(size_bytes):
        left -= len(piece)
        if not left:
            await body.end()
            if body.hexdigest() != sha256:
                raise PartDamagedError("the bytes received are not those of Content-Digest; nothing was kept")
        yield piece


async def _timed(stream: AsyncIterator[bytes], seconds: float) -> AsyncIterator[bytes]:
    """What comes; an empty chunk is the end of a request's stream, and of this."""
    until = time.monotonic() + seconds
    while True:
        try:
            async with asyncio.timeout(min(SILENCE_SECONDS, until - time.monotonic())):
                chunk = await anext(stream, b"")
        except TimeoutError:
            raise BodyTimeoutError("the body came too slowly") from None
        if not chunk:
            return
        yield chunk
