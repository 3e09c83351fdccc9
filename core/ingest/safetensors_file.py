"""A safetensors file as arrays that are read from the beginning to the end, without trust in its header.

Read by hand: the library checks less than we must say, and gives its errors no stable names. Nothing is memory-mapped: the
address space of the child that reads is limited, and a file may be larger than that.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from core.ingest.array_header import ArrayHeader
from core.ingest.samples import Refused
from core.specs.ingest import IngestLimits

MAX_HEADER_BYTES = 1 << 20
"""The format allows 100 MB; 16 arrays need a few kilobytes."""
DTYPES = {
    "U8": "|u1", "U16": "<u2", "U32": "<u4", "I8": "|i1", "I16": "<i2", "I32": "<i4", "I64": "<i8",
    "F16": "<f2", "F32": "<f4", "F64": "<f8",
}


class SafetensorsFile:
    """The arrays of one file; their bytes follow each other without gap or overlap."""

    def __init__(self, path: Path, limits: IngestLimits) -> None:
        """Read and check the header.

        Raises:
            Refused: it does not describe this file.
        """
        self._path = path
        size = path.stat().st_size
        with path.open("rb") as file:
            length = int.from_bytes(file.read(8), "little")
            if size < 8 or length > size - 8:
                raise Refused("damaged_safetensors", "the file ends before its header does")
            if length > MAX_HEADER_BYTES:
                raise Refused("header_too_large", f"the header takes {length} bytes; at most {MAX_HEADER_BYTES} are read")
            entries = _parsed(file.read(length))
        if len(entries) > limits.max_arrays:
            raise Refused("too_many_arrays", f"the file holds {len(entries)} arrays; at most {limits.max_arrays} may be")
        self.headers: dict[str, ArrayHeader] = {}
        self._offsets: dict[str, int] = {}
        described: list[tuple[int, int, str]] = []
        for name, entry in entries.items():
            self.headers[name], first, end = _described(name, entry)
            self._offsets[name] = 8 + length + first
            described.append((first, end, name))
        _require_contiguous(sorted(described), size - 8 - length)

    @contextmanager
    def open(self, name: str) -> Iterator[BinaryIO]:
        """The bytes of an array, from its first element on."""
        with self._path.open("rb") as file:
            file.seek(self._offsets[name])
            yield file


def _parsed(header: bytes) -> dict[str, Any]:
    """The JSON object without its `__metadata__`."""
    try:
        entries = json.loads(header, object_pairs_hook=_unique)
    except (ValueError, RecursionError) as error:
        raise Refused("damaged_safetensors", "the header is not a JSON object") from error
    if not isinstance(entries, dict):
        raise Refused("damaged_safetensors", "the header is not a JSON object")
    entries.pop("__metadata__", None)
    return entries


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    entries = dict(pairs)
    if len(entries) < len(pairs):
        raise Refused("duplicate_name", "the header gives the same name twice")
    return entries


def _described(name: str, entry: Any) -> tuple[ArrayHeader, int, int]:
    """Header and byte range of one array, relative to the end of the file's header."""
    if not isinstance(entry, dict) or set(entry) != {"dtype", "shape", "data_offsets"}:
        raise Refused("damaged_safetensors", "an array needs dtype, shape and data_offsets, and nothing else", name)
    dtype, shape, offsets = entry["dtype"], entry["shape"], entry["data_offsets"]
    if not (_naturals(shape) and _naturals(offsets) and len(offsets) == 2):
        raise Refused("damaged_safetensors", "shape and data_offsets must be whole numbers of zero or more", name)
    if not isinstance(dtype, str) or dtype not in DTYPES:
        raise Refused(
            "unsupported_dtype", f"the array is {ascii(dtype)[:20]}; images are U8, F16, F32 or F64, labels integers", name
        )
    header = ArrayHeader(name, np.dtype(DTYPES[dtype]), tuple(shape))
    first, end = offsets
    if end - first != math.prod(shape) * header.dtype.itemsize:
        raise Refused("damaged_safetensors", "the byte range of the array does not fit its shape and type", name)
    return header, first, end


def _naturals(value: Any) -> bool:
    """Whether this is a short list of numbers that 64 bits hold."""
    return isinstance(value, list) and len(value) <= 16 and all(type(x) is int and 0 <= x < 1 << 63 for x in value)


def _require_contiguous(ranges: list[tuple[int, int, str]], size: int) -> None:
    expected = 0
    for first, end, name in ranges:
        if end > size:
            raise Refused("damaged_safetensors", "the array reaches beyond the end of the file", name)
        if first < expected:
            raise Refused("overlapping_arrays", "the array shares bytes with another one", name)
        if first > expected:
            raise Refused("damaged_safetensors", "bytes before the array belong to no array", name)
        expected = end
    if expected != size:
        raise Refused("damaged_safetensors", "bytes at the end of the file belong to no array")
