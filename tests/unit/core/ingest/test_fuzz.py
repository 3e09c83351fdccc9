"""Damaged uploads: each is read or refused, and leaves nothing behind. `tests/faults/test_fuzzed_uploads.py` has many more."""

from __future__ import annotations

import random
import struct
from collections import Counter
from pathlib import Path

import pytest
from PIL import Image

from core.errors import DatasetRejectedError
from core.ingest.images import image_sample
from core.ingest.samples import Refused
from core.specs.ingest import IngestLimits
from tests.unit.core.ingest.corpus import FORMATS, fuzzed, whole
from tests.unit.core.ingest.files import encoded, jpeg, left_in, pixels, png, png_chunk
from tests.unit.core.ingest.mutations import mutated
from tests.unit.core.ingest.readers import converted

pytestmark = pytest.mark.unit
NUM_INPUTS = 300
CHUNKS = (
    b"tRNS", b"PLTE", b"iCCP", b"zTXt", b"iTXt", b"tEXt", b"eXIf", b"acTL", b"fcTL", b"fdAT", b"gAMA", b"cHRM", b"pHYs",
    b"IHDR", b"IDAT",
)


@pytest.mark.parametrize("format", FORMATS)
def test_the_uploads_are_well_before_they_are_damaged(format: str, tmp_path: Path) -> None:
    made = converted(tmp_path, whole(format), format)
    assert len(made.classes) == 2


def test_a_damaged_upload_is_read_or_refused(tmp_path: Path) -> None:
    ends: Counter[str] = Counter()
    for number in range(NUM_INPUTS):
        format, content = fuzzed(number)
        try:
            converted(tmp_path, content, format, max_corrupt=1)
            ends["read"] += 1
        except DatasetRejectedError:
            ends["refused"] += 1
        assert set(left_in(tmp_path)) <= {"upload", "images", "images.test"}
    assert ends["read"] > NUM_INPUTS / 10
    assert ends["refused"] > NUM_INPUTS / 4


IMAGES = {
    "png": png(), "grey png": png(channels=1), "png with alpha": encoded(pixels(20, 20, 4)), "jpeg": jpeg(),
    "grey jpeg": jpeg(channels=1), "webp": encoded(pixels(20, 20), "WEBP"),
    "lossless webp": encoded(pixels(9, 9), "WEBP", lossless=True),
}


@pytest.mark.parametrize("name", IMAGES)
def test_a_damaged_image_is_decoded_or_refused(name: str) -> None:
    ends: Counter[str] = Counter()
    for broken in mutated(IMAGES[name], seed=1, count=300):
        try:
            sample = image_sample("a/1", "a", "", broken, IngestLimits())
            assert sample.decode().shape == sample.size
            ends["decoded"] += 1
        except Refused as refusal:
            ends[refusal.problem.code] += 1
    assert ends["corrupt_image"] > 30
    assert set(ends) <= {"decoded", "corrupt_image", "not_an_image", "animated_image", "trailing_data", "image_too_large"}


def rearranged(image: bytes, rng: random.Random) -> bytes:
    """A PNG whose chunks were changed, cut, doubled, exchanged and invented, each with a sound checksum."""
    chunks, at = [], 8
    while at < len(image):
        length, kind = struct.unpack_from(">L4s", image, at)
        chunks.append((kind, image[at + 8 : at + 8 + length]))
        at += 12 + length
    for _ in range(rng.choice((1, 1, 2, 3))):
        one, other = rng.randrange(len(chunks)), rng.randrange(len(chunks))
        kind, data = chunks[one]
        match rng.randrange(5):
            case 0:
                chunks.insert(one, (rng.choice(CHUNKS), rng.randbytes(rng.choice((0, 1, 4, 8, 13, 26, 32)))))
            case 1:
                at = rng.randrange(len(data) + 1)
                chunks[one] = kind, data[:at] + bytes([rng.choice((0, 1, 2, 3, 4, 6, 8, 16, 255))]) + data[at + 1 :]
            case 2:
                chunks[one] = kind, data[: rng.randrange(len(data) + 1)]
            case 3:
                chunks.insert(other, chunks[one])
            case _:
                chunks[one], chunks[other] = chunks[other], chunks[one]
    return image[:8] + b"".join(png_chunk(kind, data) for kind, data in chunks)


@pytest.mark.filterwarnings("ignore::UserWarning")  # Pillow's, of metadata
def test_a_png_with_sound_checksums_is_decoded_or_refused() -> None:
    images = [IMAGES["png"], IMAGES["png with alpha"], encoded(Image.fromarray(pixels(20, 20)).quantize(16), transparency=3)]
    rng = random.Random(0)
    ends: Counter[str] = Counter()
    for _ in range(3000):
        try:
            sample = image_sample("a/1", "a", "", rearranged(rng.choice(images), rng), IngestLimits())
            assert sample.decode().shape == sample.size
            ends["decoded"] += 1
        except Refused as refusal:
            ends[refusal.problem.code] += 1
    assert min(ends["decoded"], ends["corrupt_image"]) > 500
