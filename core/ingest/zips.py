"""The members of a zip, by its central directory, which is checked as a whole before anything is inflated.

`zipfile` is not used: it keeps some hundred bytes for each entry, finds archives inside other files, and in Python 3.11 reads
entries that overlap. Formats: stored and deflated entries, zip64. Sizes and offsets are those of the central directory; the
header before each entry must agree with them.
"""

from __future__ import annotations

import stat
import struct
import zlib
from array import array
from collections.abc import Iterator
from functools import partial
from itertools import islice
from pathlib import Path
from typing import BinaryIO, NamedTuple

import numpy as np
from numpy.typing import NDArray

from core.ingest.entries import Member, Names, damaged, max_inflated, meant, require_no_archive, too_large, too_much
from core.ingest.samples import Refused
from core.specs.ingest import IngestLimits

_END = struct.Struct("<4s4H2LH")
_END64_LOCATOR = struct.Struct("<4sLQL")
_END64 = struct.Struct("<4sQ2H2L4Q")
_CENTRAL = struct.Struct("<4s6H3L5H2L")
_LOCAL = struct.Struct("<4s5H3L2H")
_FIELD = struct.Struct("<2H")

_STORED, _DEFLATED, _AES = 0, 8, 99
_ENCRYPTED = 1 << 0 | 1 << 6 | 1 << 13
"""Flags: traditional encryption, strong encryption, a masked directory."""
_PATCHED = 1 << 5
_NARROW = 0xFFFFFFFF
"""Stands where a zip64 field has the value."""
_LARGEST_ENTRY = _CENTRAL.size + 3 * 0xFFFF
_WINDOW = 4 << 20
_RATIO_FROM_BYTES = 1 << 20


class _Directory(NamedTuple):
    """Where the central directory lies, in bytes from the beginning of the file."""

    start: int
    end: int
    num_entries: int


class _Entry(NamedTuple):
    """One entry, as the central directory has it."""

    raw: bytes
    """Its name."""
    flags: int
    method: int
    crc: int
    packed: int
    """Bytes in the archive."""
    size: int
    """Bytes, inflated."""
    offset: int
    """Of the header before the content, in bytes from the beginning of the file."""
    mode: int
    """Type and permissions as Unix has them; 0 where the archive has none."""

    @property
    def name(self) -> str:
        """The name; bytes that are not UTF-8 become surrogates, which `clean` refuses."""
        return self.raw.decode("utf-8", "surrogateescape")

    @property
    def is_folder(self) -> bool:
        return self.raw.endswith(b"/")


def zip_members(path: Path, limits: IngestLimits) -> Iterator[Member]:
    """Files in the order of the central directory; see `open_members`."""
    size = path.stat().st_size
    with path.open("rb") as file:
        directory = _directory(file, size, limits)
        ends = _checked(file, directory, size, limits)
        for entry, end in zip(_entries(file, directory), ends.tolist(), strict=True):
            name = "" if entry.is_folder else meant(entry.name)
            if name:
                yield Member(name, entry.size, partial(_content, file, entry, name, end))


def _directory(file: BinaryIO, size: int, limits: IngestLimits) -> _Directory:
    """Find the directory by the record at the end of the file, whose comment must end where the file ends."""
    tail_at = max(0, size - _END.size - 0xFFFF)
    file.seek(tail_at)
    tail = file.read(size - tail_at)
    at = len(tail)
    while (at := tail.rfind(b"PK\x05\x06", 0, at)) >= 0:
        if at + _END.size <= len(tail):
            _, disk, first_disk, here, count, length, start, comment = _END.unpack_from(tail, at)
            if at + _END.size + comment == len(tail):
                break
    else:
        raise damaged("it has no directory at its end")
    end = tail_at + at
    if 0xFFFF in (disk, first_disk, here, count) or _NARROW in (length, start):
        end, disk, first_disk, here, count, length, start = _directory64(file, end)
    if disk or first_disk or here != count:
        raise damaged("it is one of several parts")
    if start + length != end:
        raise damaged("its directory does not lie where its end says")
    if count > limits.max_members:
        raise Refused("too_many_members", f"the archive has more than {limits.max_members} entries")
    return _Directory(start, end, count)


def _directory64(file: BinaryIO, end: int) -> tuple[int, ...]:
    """Position of the zip64 record and its disk, first disk, both counts, length and start of the directory."""
    at = end - _END64_LOCATOR.size
    file.seek(max(at, 0))
    locator = file.read(_END64_LOCATOR.size)
    if at < 0 or not locator.startswith(b"PK\x06\x07"):
        raise damaged("its zip64 directory is not found")
    _, _, record_at, disks = _END64_LOCATOR.unpack(locator)
    if disks > 1 or record_at > at - _END64.size:
        raise damaged("its zip64 directory is not found")
    file.seek(record_at)
    record = file.read(_END64.size)
    if not record.startswith(b"PK\x06\x06"):
        raise damaged("its zip64 directory is not found")
    return record_at, *_END64.unpack(record)[4:]


def _entries(file: BinaryIO, directory: _Directory) -> Iterator[_Entry]:
    """Every entry in order. The file's position may be changed between two of them."""
    window_at, window = directory.start, b""
    at = directory.start
    for _ in range(directory.num_entries):
        if at + _LARGEST_ENTRY > window_at + len(window) < directory.end:
            file.seek(at)
            window_at, window = at, file.read(min(_WINDOW, directory.end - at))
        found = window[at - window_at : at - window_at + _CENTRAL.size]
        if len(found) < _CENTRAL.size or not found.startswith(b"PK\x01\x02"):
            raise damaged("its directory is broken")
        (_, _, _, flags, method, _, _, crc, packed, size, name_length, extra_length, comment_length, _, _, attributes,
         offset) = _CENTRAL.unpack(found)
        name_at = at - window_at + _CENTRAL.size
        raw = window[name_at : name_at + name_length]
        if _NARROW in (packed, size, offset):
            extra = window[name_at + name_length : name_at + name_length + extra_length]
            size, packed, offset = _wide(extra, (size, packed, offset))
        at += _CENTRAL.size + name_length + extra_length + comment_length
        if at > directory.end:
            raise damaged("its directory is broken")
        yield _Entry(raw, flags, method, crc, packed, size, offset, attributes >> 16)
    if at != directory.end:
        raise damaged("its directory is longer than its entries")


def _wide(extra: bytes, values: tuple[int, int, int]) -> tuple[int, ...]:
    """The values, and in place of each that is too narrow the next one of the zip64 field."""
    at = 0
    while at + _FIELD.size <= len(extra):
        kind, length = _FIELD.unpack_from(extra, at)
        at += _FIELD.size
        if kind == 1:
            wide = struct.iter_unpack("<Q", extra[at : at + length][: length // 8 * 8])
            found = [next(wide, (-1,))[0] if value == _NARROW else value for value in values]
            if min(found) >= 0:
                return tuple(found)
        at += length
    raise damaged("a zip64 field is missing or too short")


def _checked(file: BinaryIO, directory: _Directory, size: int, limits: IngestLimits) -> NDArray[np.int64]:
    """Check every entry of an archive of `size` bytes; return for each where the next one begins: there it must have ended."""
    inflated, allowed = 0, max_inflated(size, limits)
    names = Names(limits)
    offsets, lengths = array("q"), array("q")
    for entry in _entries(file, directory):
        names.count()
        _require_read(entry)
        name = names.folder(entry.name) if entry.is_folder else names.admit(entry.name)
        if name:
            _require_small(entry, name, limits)
            inflated += entry.size
            if inflated > allowed:
                raise too_much(allowed, name)
        length = _LOCAL.size + len(entry.raw) + entry.packed
        if entry.offset + length > directory.start:
            raise damaged("an entry lies outside", entry.name)
        offsets.append(entry.offset)
        lengths.append(length)
    starts = np.frombuffer(offsets, np.int64)
    order = np.argsort(starts, kind="stable")
    ends = np.empty_like(starts)
    ends[order] = np.append(starts[order][1:], directory.start)[: len(order)]
    overlapping = np.flatnonzero(starts + np.frombuffer(lengths, np.int64) > ends)
    if overlapping.size:
        raise _overlap(next(islice(_entries(file, directory), int(overlapping[0]), None)).name)
    return ends


def _require_read(entry: _Entry) -> None:
    if entry.flags & _ENCRYPTED or entry.method == _AES:
        raise Refused("encrypted", "encrypted entries are not read", entry.name)
    if entry.method not in (_STORED, _DEFLATED) or entry.flags & _PATCHED:
        raise Refused(
            "unsupported_compression", f"the entry is compressed with method {entry.method}; deflate (8) or none (0) is read",
            entry.name,
        )
    if stat.S_ISLNK(entry.mode):
        raise Refused("link", "symbolic links are not read", entry.name)
    if stat.S_IFMT(entry.mode) not in (0, stat.S_IFREG, stat.S_IFDIR):
        raise Refused("special_file", "devices, pipes and sockets are not read", entry.name)


def _require_small(entry: _Entry, name: str, limits: IngestLimits) -> None:
    # What cannot be compressed grows a little: by 5 bytes for each block of 16 kB in zlib.
    if entry.size > limits.max_member_bytes or entry.packed > limits.max_member_bytes + (limits.max_member_bytes >> 8) + 64:
        raise too_large(limits, name)
    if entry.size > max(_RATIO_FROM_BYTES, limits.max_member_ratio * entry.packed):
        raise Refused("inflation_ratio", f"the entry inflates to more than {limits.max_member_ratio} times its size", name)


def _content(file: BinaryIO, entry: _Entry, name: str, end: int) -> bytes:
    """The content of an entry that was checked, and must have ended at `end`."""
    file.seek(entry.offset)
    header = file.read(_LOCAL.size)
    if len(header) < _LOCAL.size:
        raise damaged("it ends within this entry", name)
    magic, _, flags, method, _, _, _, _, _, name_length, extra_length = _LOCAL.unpack(header)
    same = magic == b"PK\x03\x04" and method == entry.method and not (flags ^ entry.flags) & _ENCRYPTED
    if not same or file.read(name_length) != entry.raw:
        raise damaged("the header of this entry is not that of the directory", name)
    start = entry.offset + _LOCAL.size + name_length + extra_length
    if start + entry.packed > end:
        raise _overlap(name)
    file.seek(start)
    content = file.read(entry.packed)
    if entry.method == _DEFLATED:
        content = _inflated(content, entry.size, name)
    if len(content) != entry.size or zlib.crc32(content) != entry.crc:
        raise damaged("this entry has another size or checksum than its header says", name)
    return require_no_archive(name, content)


def _inflated(packed: bytes, size: int, name: str) -> bytes:
    """At most one byte more than the header claims."""
    stream = zlib.decompressobj(-zlib.MAX_WBITS)
    try:
        content = stream.decompress(packed, size + 1)
    except zlib.error as error:
        raise damaged(f"this entry cannot be inflated ({error})", name) from error
    if not stream.eof or stream.unused_data:
        raise damaged("this entry has another size than its header says", name)
    return content


def _overlap(name: str) -> Refused:
    return Refused("overlapping_entries", "the entry shares bytes of the archive with another one", name)
