"""Damaged copies of a file, the same at each run, and what a reader may answer to them."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from core.ingest.samples import Reader, Refused, Sample
from core.specs.ingest import IngestProblem


def mutated(content: bytes, seed: int, count: int = 200) -> Iterator[bytes]:
    """Copies with flipped bits, overwritten bytes and runs, numbers at their limits, parts cut out, doubled or cut off."""
    rng = random.Random(seed)
    for _ in range(count):
        data = bytearray(content)
        for _ in range(rng.choice((1, 1, 1, 2, 5))):
            at = rng.randrange(max(len(data), 1))
            match rng.randrange(6):
                case 0:
                    data[at:at + 1] = bytes([data[at] ^ 1 << rng.randrange(8)]) if data else b""
                case 1:
                    data[at:at + 1] = bytes([rng.randrange(256)])
                case 2:
                    size = rng.choice((1, 2, 4, 8))
                    data[at:at + size] = rng.choice((b"\xff", b"\0", b"\x7f", b"9"))*size
                case 3:
                    del data[at:]
                case 4:
                    del data[at:at + rng.randrange(1, 64)]
                case _:
                    data[at:at] = data[at:at + rng.randrange(1, 64)]
        yield bytes(data)


def read_all(reader: Reader) -> list[Sample]:
    """Every sample, decoded."""
    samples = []
    for sample in reader.samples():
        image = sample.decode()
        assert image.shape == sample.size
        samples.append(sample)
    return samples


def survived(content: bytes, path: Path, make: Callable[[Path], Reader], seed: int) -> tuple[int, int]:
    """How many damaged copies were read, and how many refused; any other end is an exception."""
    read = refused = 0
    for data in mutated(content, seed):
        path.write_bytes(data)
        try:
            read_all(make(path))
            read += 1
        except Refused:
            refused += 1
    return read, refused


def refusal(make: Callable[[], Reader]) -> IngestProblem:
    """Why a file is refused."""
    with pytest.raises(Refused) as caught:
        read_all(make())
    return caught.value.problem
