"""Bodies of uploads, whatever pieces they come in: cut where they should be, hashed, and refused where they are wrong."""

from __future__ import annotations

import asyncio
import hashlib
import io
from collections.abc import AsyncIterator, Coroutine
from typing import Any, cast

import anyio
import pytest
from fastapi import Request
from hypothesis import given, settings
from hypothesis import strategies as st

from api.errors import BodyTimeoutError
from api.uploads.body import Body, checked_pieces
from core.errors import PartDamagedError, SizeMismatchError

pytestmark = pytest.mark.unit

CONTENT = bytes(range(100))


class Sent:
    """A request whose body comes in these chunks."""

    def __init__(self, chunks: list[bytes], pause_seconds: float = 0.0) -> None:
        self.chunks, self.pause_seconds = chunks, pause_seconds

    async def stream(self) -> AsyncIterator[bytes]:
        for chunk in self.chunks:
            await asyncio.sleep(self.pause_seconds)
            yield chunk
        yield b""


def body_of(chunks: list[bytes], seconds: float = 60.0, pause_seconds: float = 0.0) -> Body:
    return Body(cast("Request", Sent(chunks, pause_seconds)), seconds, anyio.CapacityLimiter(2))


def run(what: Coroutine[Any, Any, Any]) -> Any:
    return asyncio.run(what)


async def cut(body: Body, sizes: list[int]) -> list[tuple[bytes, str]]:
    """Its parts, each with its own digest; then it must end."""
    parts = []
    for size in sizes:
        hasher = hashlib.sha256()
        parts.append((b"".join([piece async for piece in body.part(size, hasher.update)]), hasher.hexdigest()))
    await body.end()
    return parts


@pytest.fixture
def small_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("api.uploads.body.PIECE_BYTES", 7)


class TestBody:
    @settings(max_examples=50, deadline=None)
    @given(st.lists(st.integers(1, 30), min_size=1, max_size=8), st.lists(st.integers(1, 30), min_size=1, max_size=8))
    def test_chunks_of_any_size_become_parts_of_any_size(self, chunks: list[int], parts: list[int]) -> None:
        size = sum(parts)
        content = (CONTENT * 3)[:size]
        sent = [content[sum(chunks[:n]) : sum(chunks[: n + 1])] for n in range(len(chunks))] + [content[sum(chunks) :]]
        body = body_of([chunk for chunk in sent if chunk])
        found = run(cut(body, parts))
        expected = [content[sum(parts[:n]) : sum(parts[: n + 1])] for n in range(len(parts))]
        assert found == [(part, hashlib.sha256(part).hexdigest()) for part in expected]
        assert body.hexdigest() == hashlib.sha256(content).hexdigest()

    def test_pieces_are_about_as_large_as_they_may_be(self, small_pieces: None) -> None:
        async def sizes() -> list[int]:
            return [len(piece) async for piece in body_of([CONTENT[n : n + 3] for n in range(0, 99, 3)]).part(99)]

        assert run(sizes()) == [9] * 11

    @pytest.mark.parametrize("sent", [[CONTENT[:-1]], [], [CONTENT, b"x"], [CONTENT + b"x"]])
    def test_fewer_or_more_bytes(self, sent: list[bytes]) -> None:
        with pytest.raises(SizeMismatchError):
            run(cut(body_of(sent), [60, 40]))

    def test_one_that_never_falls_silent_ends_in_time(self) -> None:
        with pytest.raises(BodyTimeoutError):
            run(cut(body_of([b"x"] * 100, seconds=0.1, pause_seconds=0.01), [100]))


class TestCheckedPieces:
    @pytest.mark.parametrize(("sent", "error"), [
        ([CONTENT[:50], CONTENT[50:-1] + b"x"], PartDamagedError), ([CONTENT[:-1]], SizeMismatchError),
        ([CONTENT, b"x"], SizeMismatchError),
    ])
    def test_the_last_piece_is_handed_on_when_all_is_well(
        self, small_pieces: None, sent: list[bytes], error: type[Exception]
    ) -> None:
        got = io.BytesIO()

        async def take(chunks: list[bytes]) -> None:
            request = cast("Request", Sent(chunks))
            digest = hashlib.sha256(CONTENT).hexdigest()
            async for piece in checked_pieces(request, len(CONTENT), digest, anyio.CapacityLimiter(2)):
                got.write(piece)

        with pytest.raises(error):
            run(take(sent))
        assert len(got.getvalue()) < len(CONTENT)
        got.seek(0)
        got.truncate()
        run(take([CONTENT[:50], CONTENT[50:]]))
        assert got.getvalue() == CONTENT
