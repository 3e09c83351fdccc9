"""An npz file as arrays that are read from the beginning to the end, without trust in its headers and without pickle.

An npz file is a zip archive of npy files. Its directory is read by `zipfile` and then checked here; headers of npy files are
matched against the one form they have, instead of being evaluated.
"""

from __future__ import annotations

import io
import math
import re
import struct
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from core.ingest.array_header import ArrayHeader, ByteStream
from core.ingest.samples import Refused
from core.specs.ingest import IngestLimits

MAX_DIRECTORY_BYTES = 1 << 20
"""Of the zip; that of 16 arrays takes about a kilobyte."""
SMALL_ARRAY_BYTES = 16 << 20
"""The ratio of larger arrays is limited. A million sorted labels shrink to a thousandth and are nobody's attack."""
MAX_HEADER_BYTES = 4096
LOCAL_HEADER_BYTES = 30
NPY_MAGIC = b"\x93NUMPY"
NPY_HEADER = re.compile(
    r"""\{\s*(['"])descr\1\s*:\s*(?P<descr>'[^'\\]*'|"[^"\\]*"|\[.*\])\s*,\s*(['"])fortran_order\3\s*:\s*(?P<fortran>True|False)\s*,"""
    r"""\s*(['"])shape\5\s*:\s*\((?P<shape>(?:\d{1,19}L?,\s*)*(?:\d{1,19}L?)?)\)\s*,?\s*\}\s*""",
    re.ASCII | re.DOTALL,
)
LENGTH = re.compile("[0-9]+")
NUMBER = re.compile(r"[|<>=](?:[iu][1248]|f[248])")
TEXT = re.compile(r"[<>=]U([1-9][0-9]{0,5})")
DAMAGED = (zipfile.BadZipFile, zlib.error, struct.error, EOFError, OSError, ValueError, NotImplementedError, OverflowError)
"""What `zipfile` raises for files that are not what they say; ValueError also for names that are not UTF-8."""


class _File(io.FileIO):
    """A file of which no single read may be larger than `bound`: `zipfile` asks for as much as the archive says."""

    bound: int | None = MAX_DIRECTORY_BYTES

    def read(self, size: int | None = -1, /) -> bytes:
        if self.bound is not None and size is not None and size > self.bound:
            raise Refused("too_many_arrays", f"the directory of the archive takes more than {self.bound} bytes")
        return super().read(-1 if size is None else size) or b""


class NpzFile:
    """The arrays of one file."""

    def __init__(self, path: Path, limits: IngestLimits) -> None:
        """Read and check the directory and the header of each array.

        Raises:
            Refused: they break a rule, or do not fit each other.
        """
        self._path = path
        with self._archive() as archive:
            entries = archive.infolist()
            if len(entries) > limits.max_arrays:
                raise Refused("too_many_arrays", f"the file holds {len(entries)} arrays; at most {limits.max_arrays} may be")
            _require_sound(entries, archive.start_dir)
            _require_plausible(entries, path.stat().st_size, limits)
        self.headers: dict[str, ArrayHeader] = {}
        self._starts: dict[str, int] = {}
        for entry in entries:
            name = entry.filename.removesuffix(".npy")
            with self._member(name) as stream:
                self.headers[name], self._starts[name] = _described(name, stream, entry.file_size)

    @contextmanager
    def open(self, name: str) -> Iterator[ByteStream]:
        """The bytes of an array, from its first element on."""
        with self._member(name) as stream:
            stream.read(self._starts[name])
            yield stream

    @contextmanager
    def _archive(self) -> Iterator[zipfile.ZipFile]:
        with _File(self._path) as file:
            try:
                archive = zipfile.ZipFile(file)
            except DAMAGED as error:
                raise Refused("damaged_archive", "the file is not a zip archive, or its directory is damaged") from error
            file.bound = None
            with archive:
                yield archive

    @contextmanager
    def _member(self, name: str) -> Iterator[ByteStream]:
        with self._archive() as archive, _Member(archive, name) as member:
            yield member


class _Member:
    """The inflated bytes of one member; damage becomes `Refused`."""

    def __init__(self, archive: zipfile.ZipFile, name: str) -> None:
        self._name = name
        try:
            self._stream = archive.open(f"{name}.npy")
        except DAMAGED as error:
            raise self._damaged() from error

    def __enter__(self) -> _Member:
        return self

    def __exit__(self, *_: object) -> None:
        self._stream.close()

    def read(self, size: int, /) -> bytes:
        try:
            return self._stream.read(size)
        except DAMAGED as error:
            raise self._damaged() from error

    def _damaged(self) -> Refused:
        return Refused("damaged_archive", "the array cannot be unpacked, or its checksum is wrong", self._name)


def _require_sound(entries: list[zipfile.ZipInfo], start_of_directory: int) -> None:
    """Every member has a name of its own, an allowed coding, and bytes of its own."""
    names: set[str] = set()
    end = 0
    for entry in sorted(entries, key=lambda entry: entry.header_offset):
        if not entry.filename.endswith(".npy"):
            raise Refused("unknown_array", "the entry is not an array: its name does not end in .npy", entry.filename)
        if entry.filename in names:
            raise Refused("duplicate_name", "two arrays have the same name", entry.filename)
        if entry.flag_bits & 0x2041:  # traditional, strong, and hidden headers
            raise Refused("encrypted", "the array is encrypted", entry.filename)
        if entry.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
            raise Refused("unsupported_compression", "arrays are stored or deflated, as numpy writes them", entry.filename)
        if entry.header_offset < end:
            raise Refused("overlapping_entries", "the array shares bytes of the archive with another one", entry.filename)
        names.add(entry.filename)
        end = entry.header_offset + LOCAL_HEADER_BYTES + len(entry.orig_filename) + entry.compress_size
        if end > start_of_directory:
            raise Refused("damaged_archive", "the array reaches beyond its part of the archive", entry.filename)


def _require_plausible(entries: list[zipfile.ZipInfo], size: int, limits: IngestLimits) -> None:
    """What the arrays claim to inflate to; no more than that is ever inflated."""
    for entry in entries:
        if entry.file_size > max(SMALL_ARRAY_BYTES, limits.max_member_ratio * entry.compress_size):
            raise Refused(
                "inflation_ratio", f"the array inflates to more than {limits.max_member_ratio} times its size", entry.filename
            )
    total = sum(entry.file_size for entry in entries)
    if total > limits.max_inflated_bytes or total > max(limits.always_inflated_bytes, limits.max_inflation * size):
        raise Refused(
            "inflates_too_much",
            f"the arrays inflate to {total} bytes; allowed are {limits.max_inflation} times the file and at most "
            f"{limits.max_inflated_bytes} bytes",
        )


def _described(name: str, stream: ByteStream, size: int) -> tuple[ArrayHeader, int]:
    """The header of an npy file of `size` bytes, and the number of bytes before its first element."""
    start = stream.read(8)
    if start[:6] != NPY_MAGIC:
        raise Refused("not_an_array", "the entry is not an npy file; pickled objects are never read", name)
    width = {b"\x01\x00": 2, b"\x02\x00": 4, b"\x03\x00": 4}.get(start[6:])
    if width is None:
        raise Refused("damaged_array", "the npy file is of an unknown version", name)
    length = int.from_bytes(stream.read(width), "little")
    if length > MAX_HEADER_BYTES:
        raise Refused("header_too_large", f"the header takes {length} bytes; at most {MAX_HEADER_BYTES} are read", name)
    found = NPY_HEADER.fullmatch(stream.read(length).decode("latin-1"))
    if found is None:
        raise Refused("damaged_array", "the header of the npy file is not what numpy writes", name)
    shape = tuple(int(length) for length in LENGTH.findall(found["shape"]))
    header = ArrayHeader(name, _dtype(name, found["descr"]), shape, found["fortran"] == "True")
    before = 8 + width + length
    if before + math.prod(shape) * header.dtype.itemsize != size:
        raise Refused(
            "array_size", "the array does not have the bytes that its shape and type ask for, or has more of them", name
        )
    return header, before


def _dtype(name: str, descr: str) -> np.dtype[np.generic]:
    code = descr[1:-1]
    if descr.startswith("["):
        raise Refused("unsupported_dtype", "the array has several fields; images and labels are arrays of their own", name)
    if code.lstrip("|<>=").startswith("O"):
        raise Refused("pickled_array", "the array holds Python objects, which are never read", name)
    if not (NUMBER.fullmatch(code) or TEXT.fullmatch(code)):
        raise Refused(
            "unsupported_dtype", "images are uint8, float16, float32 or float64, labels integers, class_names text", name
        )
    return np.dtype(code)
