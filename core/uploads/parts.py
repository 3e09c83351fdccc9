"""How a file is cut into parts: all of one size, the last one as long as what is left."""

from __future__ import annotations

MAX_PARTS = 2000
PART_BYTES = 8 << 20
MAX_PART_BYTES = 64 << 20
MAX_CONTENT_BYTES = 512 << 20
"""Largest file that is taken in one request, and cut here."""
_MIB = 1 << 20


def part_bytes_for(size_bytes: int) -> int:
    """Size of the parts of a file: 8 MiB, or as many whole MiB as keep it to `MAX_PARTS` parts."""
    if size_bytes <= PART_BYTES * MAX_PARTS:
        return PART_BYTES
    smallest = -(-size_bytes // MAX_PARTS)
    made = -(-smallest // _MIB) * _MIB
    assert made <= MAX_PART_BYTES, size_bytes
    return made
