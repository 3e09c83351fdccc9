"""The raw body of a part: counted and hashed while it passes, and never held as a whole.

Everything is checked before the last piece is handed on, so that the store never shows an object with other bytes.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import hashlib
import time
from collections.abc import AsyncIterator

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


def declared_length(request: Request) -> int:
    """The length that the request says its body has.

    Raises:
        LengthRequiredError: it says none.
        InvalidHeaderError: it says no number.
    """
    length = request.headers.get("content-length")
    if length is None:
        raise LengthRequiredError("send a part with Content-Length, not in chunks")
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
        raise UnsupportedMediaTypeError("send a part as it is, as application/octet-stream")


def sha256_of_header(content_digest: str) -> str:
    """The SHA-256 in a `Content-Digest` header (RFC 9530), in hex; other algorithms beside it are not looked at.

    Raises:
        InvalidHeaderError: there is none, or it is malformed.
    """
    for member in content_digest.split(","):
        name, _, value = member.strip().partition("=")
        if name != "sha-256":
            continue
        try:
            digest = base64.b64decode(value[1:-1], validate=True) if value[:1] == value[-1:] == ":" else b""
        except (binascii.Error, ValueError):
            digest = b""
        if len(digest) == 32:
            return digest.hex()
    raise InvalidHeaderError("Content-Digest must be sha-256=:BASE64:, the SHA-256 of the part")


async def checked_pieces(
    request: Request, size_bytes: int, sha256: str, threads: anyio.CapacityLimiter
) -> AsyncIterator[bytes]:
    """The body in pieces of about `PIECE_BYTES`.

    Raises:
        SizeMismatchError: it has more or fewer bytes than it should.
        PartDamagedError: it has another digest.
        BodyTimeoutError: it comes too slowly.
        ClientDisconnect: the client has gone.
    """
    hasher, received = hashlib.sha256(), 0
    waiting: list[bytes] = []
    gathered = 0
    async for chunk in _timed(request.stream()):
        received += len(chunk)
        if received > size_bytes:
            raise SizeMismatchError(f"the part has {size_bytes} bytes, and more came")
        waiting.append(chunk)
        gathered += len(chunk)
        if gathered >= PIECE_BYTES and received < size_bytes:
            piece = b"".join(waiting)
            waiting, gathered = [], 0
            await to_thread.run_sync(hasher.update, piece, limiter=threads)
            yield piece
    piece = b"".join(waiting)
    await to_thread.run_sync(hasher.update, piece, limiter=threads)
    if received != size_bytes:
        raise SizeMismatchError(f"the part has {size_bytes} bytes, and {received} came")
    if hasher.hexdigest() != sha256:
        raise PartDamagedError("the bytes received are not those of Content-Digest; nothing was kept")
    yield piece


async def _timed(stream: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    until = time.monotonic() + BODY_SECONDS
    while True:
        try:
            async with asyncio.timeout(min(SILENCE_SECONDS, until - time.monotonic())):
                chunk = await anext(stream, None)
        except TimeoutError:
            raise BodyTimeoutError("the part came too slowly") from None
        if chunk is None:
            return
        yield chunk
