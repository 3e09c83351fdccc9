"""The bytes of a file, inflated where gzip, bzip2 or xz compressed it: never more at once than asked for, and counted."""

from __future__ import annotations

import bz2
import lzma
import zlib
from collections.abc import Callable, Iterator
from typing import BinaryIO, Protocol

from core.ingest.entries import damaged, too_much

CHUNK = 1 << 18
XZ_MEMORY_BYTES = 256 << 20
"""`xz -9` needs 65 MiB; a header can ask for 4 GiB."""


class _Decompressor(Protocol):
    """What bz2 and lzma have in common."""

    @property
    def eof(self) -> bool: ...
    @property
    def needs_input(self) -> bool: ...
    @property
    def unused_data(self) -> bytes: ...
    def decompress(self, data: bytes, max_length: int = -1) -> bytes: ...


class _Gzip:
    """zlib's decompressor with the same interface."""

    def __init__(self) -> None:
        self._inner = zlib.decompressobj(wbits=31)
        self.needs_input = True

    @property
    def eof(self) -> bool:
        return self._inner.eof

    @property
    def unused_data(self) -> bytes:
        return self._inner.unused_data

    def decompress(self, data: bytes, max_length: int = -1) -> bytes:
        found = self._inner.decompress(self._inner.unconsumed_tail + data, max_length)
        self.needs_input = len(found) < max_length
        return found


def _xz() -> _Decompressor:
    return lzma.LZMADecompressor(format=lzma.FORMAT_XZ, memlimit=XZ_MEMORY_BYTES)


_FORMATS: tuple[tuple[bytes, Callable[[], _Decompressor]], ...] = (
    (b"\x1f\x8b", _Gzip), (b"BZh", bz2.BZ2Decompressor), (b"\xfd7zXZ\x00", _xz),
)


class Source:
    """A file that is read from its beginning to its end, inflated."""

    def __init__(self, file: BinaryIO, max_bytes: int) -> None:
        head = file.read(6)
        file.seek(0)
        make = next((make for magic, make in _FORMATS if head.startswith(magic)), None)
        self._chunks = iter(lambda: file.read(CHUNK), b"") if make is None else _inflated(file, make)
        self._max_bytes = max_bytes
        self._count = 0
        self._chunk = memoryview(b"")

    def pieces(self, size: int) -> Iterator[memoryview]:
        """The next `size` bytes in pieces of at most 256 KiB; fewer at the end.

        Raises:
            Refused: the compressed data is damaged, or is more than allowed.
        """
        while size:
            if not self._chunk:
                self._chunk = memoryview(next(self._chunks, b""))
                self._count += len(self._chunk)
                if self._count > self._max_bytes:
                    raise too_much(self._max_bytes)
                if not self._chunk:
                    return
            piece, self._chunk = self._chunk[:size], self._chunk[size:]
            size -= len(piece)
            yield piece

    def read(self, size: int) -> bytes:
        """The next `size` bytes; fewer at the end. Raises as `pieces`."""
        return b"".join(self.pieces(size))


def _inflated(file: BinaryIO, make: Callable[[], _Decompressor]) -> Iterator[bytes]:
    """The content of all streams in the file, one after another as `cat` joins them, with zeros between and behind them."""
    data = file.read(CHUNK)
    while data:
        stream = make()
        while not stream.eof:
            try:
                found = stream.decompress(data, CHUNK)
            except (zlib.error, lzma.LZMAError, EOFError, ValueError) as error:
                raise damaged(f"its compressed data cannot be inflated ({error})") from error
            except OSError as error:  # of bz2, which has no class of its own for this
                if error.errno is not None:
                    raise
                raise damaged(f"its compressed data cannot be inflated ({error})") from error
            if found:
                yield found
            if not stream.eof:
                data = file.read(CHUNK) if stream.needs_input else b""
                if not data and stream.needs_input:
                    raise damaged("its compressed data ends too early")
        data = stream.unused_data.lstrip(b"\0")
        while not data and (more := file.read(CHUNK)):
            data = more.lstrip(b"\0")
