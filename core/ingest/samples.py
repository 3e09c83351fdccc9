"""What every reader of uploaded files gives: samples, one after another, whatever the format.

A reader checks what it can before it decodes anything, and refuses with `Refused`; it never leaves anything on the disk.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Literal, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from core.specs.ingest import IngestProblem

Split = Literal["train", "test", ""]
"""Empty where the files name no split."""


class Refused(Exception):  # noqa: N818 - not an error of ours: a verdict on somebody's files
    """The files, or one entry of them, break a rule."""

    def __init__(self, code: str, message: str, member: str = "") -> None:
        super().__init__(message)
        printable = "".join(c if c.isprintable() else "?" for c in member)
        self.problem = IngestProblem(code=code, message=message, member=printable[:200])


class Corrupt(Refused):
    """One image cannot be decoded; `ConversionSpec.max_corrupt` says how many of these are borne."""


class Size(NamedTuple):
    """Of an image, as its header says it."""

    height: int
    width: int
    channels: int


class Sample(NamedTuple):
    """One labelled image, not decoded yet."""

    member: str
    """Where it stands in the files, for messages."""
    label: str
    """Its class, as the files say it."""
    split: Split
    size: Size
    """From the header; checked against the limits."""
    decode: Callable[[], NDArray[np.uint8]]
    """The image, (H, W, C) uint8 with the height, width and channels of `size`. Valid only until the next sample is asked for.

    Raises `Corrupt`."""


class Reader(Protocol):
    """A format."""

    class_names: tuple[str, ...]
    """Classes in the files' own order, where they state one; else empty: numbers are sorted as numbers, texts as texts."""

    def samples(self) -> Iterator[Sample]:
        """Every sample in the order of the files; the same at each call. A `Corrupt` header is raised by `decode`, with a
        `size` of (0, 0, 0).

        Raises:
            Refused: an entry, or the whole, breaks a rule.
        """
        ...
