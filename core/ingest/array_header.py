"""What a file says of one array, before any of its elements is read."""

from __future__ import annotations

from contextlib import AbstractContextManager
from typing import Any, NamedTuple, Protocol

import numpy as np


class ArrayHeader(NamedTuple):
    """A claim; `shape` and `dtype` fit the bytes that the file has for the array."""

    name: str
    dtype: np.dtype[Any]
    """Integers, floating-point numbers, or text of fixed width; of either byte order."""
    shape: tuple[int, ...]
    fortran_order: bool = False
    """The last axis varies slowest, so that the images of an array do not follow each other."""


class ByteStream(Protocol):
    def read(self, size: int, /) -> bytes:
        """`size` bytes, fewer only at the end."""
        ...


class ArrayFile(Protocol):
    """A container of named arrays, each a run of bytes."""

    headers: dict[str, ArrayHeader]

    def open(self, name: str) -> AbstractContextManager[ByteStream]:
        """The bytes of an array, from its first element on.

        Raises:
            Refused: also from `read`: the container is damaged.
        """
        ...
