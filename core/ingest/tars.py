"""The members of a tar, read as a stream that never goes back.

`tarfile` parses each header block, and nothing else of it is used: it keeps every header in memory, reads extended headers of
any size, follows them by recursion and searches them with slow patterns. Formats: v7, ustar, GNU (long names) and pax (names
and sizes).
"""

from __future__ import annotations

import tarfile
from collections.abc import Iterator
from pathlib import Path

from core.ingest.entries import Member, Names, damaged, max_inflated, require_no_archive, too_large
from core.ingest.inflate import CHUNK, Source
from core.ingest.samples import Refused
from core.specs.ingest import IngestLimits

_BLOCK = 512
_MAX_EXTENSION = 64 << 10
"""Bytes of an extended header or long name."""
_MAX_EXTENSIONS = 8
"""Of one member."""

_FILES = (tarfile.REGTYPE, tarfile.AREGTYPE, tarfile.CONTTYPE)
_REFUSED = {
    tarfile.LNKTYPE: ("link", "hard links are not read"),
    tarfile.SYMTYPE: ("link", "symbolic links are not read"),
    tarfile.CHRTYPE: ("special_file", "devices are not read"),
    tarfile.BLKTYPE: ("special_file", "devices are not read"),
    tarfile.FIFOTYPE: ("special_file", "pipes are not read"),
    tarfile.GNUTYPE_SPARSE: ("sparse_file", "sparse files are not read"),
}
_EXTENSIONS = (
    tarfile.GNUTYPE_LONGNAME, tarfile.GNUTYPE_LONGLINK, tarfile.XHDTYPE, tarfile.SOLARIS_XHDTYPE, tarfile.XGLTYPE,
)


class _Extended:
    """What the extended headers before a member's own say of it."""

    def __init__(self) -> None:
        self.name: str | None = None
        self.size: int | None = None
        self.sparse = False
        self._count = 0

    def add(self, kind: bytes, content: bytes) -> None:
        self._count += 1
        if self._count > _MAX_EXTENSIONS:
            raise damaged("it has too many extended headers in a row")
        if kind == tarfile.GNUTYPE_LONGNAME:
            self.name = content.split(b"\0", 1)[0].decode("utf-8", "surrogateescape")
        elif kind in (tarfile.XHDTYPE, tarfile.SOLARIS_XHDTYPE):
            for keyword, value in _records(content):
                self._record(keyword, value)
        elif kind == tarfile.XGLTYPE and any(keyword in ("path", "size") for keyword, _ in _records(content)):
            raise damaged("it gives all its members one name or size")

    def _record(self, keyword: str, value: bytes) -> None:
        self.sparse |= keyword.startswith("GNU.sparse.")
        if keyword in ("path", "GNU.sparse.name"):
            self.name = value.decode("utf-8", "surrogateescape")
        elif keyword == "size":
            if not value.isdigit() or len(value) > 18:
                raise damaged("the size of a member is no number")
            self.size = int(value)


def _records(content: bytes) -> Iterator[tuple[str, bytes]]:
    """Keyword and value of each record of a pax header: `LENGTH KEYWORD=VALUE` and a line feed, LENGTH being that of it all."""
    at = 0
    while at < len(content) and content[at]:
        digits, space, _ = content[at : at + 8].partition(b" ")
        if not space or not digits.isdigit():
            raise damaged("an extended header has no lengths")
        end = at + int(digits)
        keyword, equals, value = content[at + len(digits) + 1 : end].partition(b"=")
        if end > len(content) or not equals or not value.endswith(b"\n"):
            raise damaged("an extended header ends within a record")
        yield keyword.decode("ascii", "replace"), value[:-1]
        at = end


class _Content:
    """What follows one header: read, or passed over."""

    def __init__(self, source: Source, name: str, size: int) -> None:
        self._source, self._name, self._size = source, name, size
        self._left = size + -size % _BLOCK

    def plain(self) -> bytes:
        """The content, whatever it is."""
        assert self._left >= self._size, "a member is read once, before the next is asked for"
        content = self._source.read(self._left)
        self._require(len(content))
        return content[: self._size]

    def read(self) -> bytes:
        """The content of a member."""
        return require_no_archive(self._name, self.plain())

    def skip(self) -> None:
        """Pass over what was not read."""
        self._require(sum(map(len, self._source.pieces(self._left))))

    def _require(self, found: int) -> None:
        if found < self._left:
            raise damaged("it ends within this entry", self._name)
        self._left = 0


def tar_members(path: Path, limits: IngestLimits) -> Iterator[Member]:
    """Files in the order of the archive; see `open_members`."""
    names = Names(limits)
    with path.open("rb") as file:
        source = Source(file, max_inflated(path.stat().st_size, limits))
        extended = _Extended()
        while (header := _header(source)) is not None:
            if header.type in _EXTENSIONS:
                extended.add(header.type, _extension(source, header))
                continue
            names.count()
            raw = header.name if extended.name is None else extended.name
            size = header.size if extended.size is None else extended.size
            _require_read(tarfile.GNUTYPE_SPARSE if extended.sparse else header.type, raw)
            folder = header.type == tarfile.DIRTYPE or raw.endswith("/")
            name = names.folder(raw) if folder else names.admit(raw)
            content = _Content(source, name or raw, size)
            if name:
                if size > limits.max_member_bytes:
                    raise too_large(limits, name)
                yield Member(name, size, content.read)
            content.skip()
            extended = _Extended()
        _require_end(source)


def _header(source: Source) -> tarfile.TarInfo | None:
    """The next header; None for the mark of the end."""
    block = source.read(_BLOCK)
    if not block:
        raise damaged("the mark of its end is missing, so it may be cut off")
    if not any(block):
        return None
    try:
        header = tarfile.TarInfo.frombuf(block, "utf-8", "surrogateescape")
    except (tarfile.TarError, ValueError) as error:
        raise damaged(f"a header is not one of a tar ({error})") from error
    if header.size < 0:
        raise damaged("a size is negative", header.name)
    return header


def _extension(source: Source, header: tarfile.TarInfo) -> bytes:
    if header.size > _MAX_EXTENSION:
        raise damaged(f"an extended header is larger than {_MAX_EXTENSION} bytes", header.name)
    return _Content(source, header.name, header.size).plain()


def _require_read(kind: bytes, raw: str) -> None:
    if kind in _REFUSED:
        raise Refused(*_REFUSED[kind], raw)
    if kind != tarfile.DIRTYPE and kind not in _FILES:
        raise Refused("special_file", f"entries of type {kind!r} are not read", raw)


def _require_end(source: Source) -> None:
    """Read what is left, so that its checksums are compared; it is zeros."""
    while rest := source.read(CHUNK):
        if rest.count(0) != len(rest):
            raise damaged("there is more behind the mark of its end")
