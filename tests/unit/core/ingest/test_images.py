"""Single images: every mode of Pillow's three formats becomes grey or RGB bytes, upright, and nothing else."""

from __future__ import annotations

import io
import struct
from collections.abc import Callable

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from core.ingest.images import Encoded, image_sample
from core.ingest.samples import Corrupt, Size
from core.specs.ingest import IngestLimits
from tests.unit.core.ingest.files import encoded, jpeg, pixels, png, png_chunk

pytestmark = pytest.mark.unit
GREY, COLOUR = pixels(10, 14, 1), pixels(10, 14, 3)
ORIENTATION = 0x0112


def decoded(data: bytes) -> NDArray[np.uint8]:
    sample = image_sample("a/1.png", "a", "", data, IngestLimits())
    image = sample.decode()
    assert image.dtype == np.uint8
    assert image.shape == sample.size
    return image


def exif(orientation: int) -> Image.Exif:
    block = Image.Exif()
    block[ORIENTATION] = orientation
    return block


def test_plain_images_keep_their_pixels() -> None:
    assert np.array_equal(decoded(encoded(GREY)), GREY)
    assert np.array_equal(decoded(encoded(COLOUR)), COLOUR)
    assert np.array_equal(decoded(encoded(COLOUR, "WEBP", lossless=True)), COLOUR)
    assert abs(decoded(encoded(COLOUR, "JPEG", quality=100, subsampling=0)).astype(int) - COLOUR).max() <= 4
    assert decoded(encoded(GREY, "JPEG")).shape == (10, 14, 1)


def test_what_a_sample_says_is_what_it_was_given() -> None:
    sample = image_sample("a/1.png", "boots", "train", png(), IngestLimits())
    assert sample[:4] == ("a/1.png", "boots", "train", Size(12, 12, 3))


def test_palettes_become_rgb() -> None:
    palette = Image.fromarray(COLOUR).quantize(16)
    assert np.array_equal(decoded(encoded(palette)), np.asarray(palette.convert("RGB")))


def test_black_and_white_becomes_grey() -> None:
    assert np.array_equal(decoded(encoded(Image.fromarray(GREY[:, :, 0] > 100))), np.where(GREY > 100, 255, 0))


def test_sixteen_bits_become_eight() -> None:
    wide = GREY[:, :, 0].astype(np.uint16) * 257
    assert np.array_equal(decoded(encoded(Image.fromarray(wide))), GREY)
    rounded = decoded(encoded(Image.fromarray(wide + 127 * (wide < 60000).astype(np.uint16))))
    assert np.array_equal(rounded, GREY)


def test_print_colours_become_rgb() -> None:
    image = Image.fromarray(COLOUR).convert("CMYK")
    assert abs(decoded(encoded(image, "JPEG", quality=100)).astype(int) - COLOUR).mean() < 6


@pytest.mark.parametrize("alpha", [0, 51, 255])
@pytest.mark.parametrize("channels", [1, 3])
def test_what_is_transparent_is_laid_over_white(channels: int, alpha: int) -> None:
    image = Image.fromarray(GREY[:, :, 0] if channels == 1 else COLOUR)
    image.putalpha(alpha)
    expected = np.rint((pixels(10, 14, channels).astype(float) * alpha + 255 * (255 - alpha)) / 255)
    assert abs(decoded(encoded(image)) - expected).max() <= 1


def test_one_transparent_colour_becomes_white() -> None:
    palette = Image.fromarray(COLOUR).quantize(4)
    found = decoded(encoded(palette, transparency=0))
    assert (found[np.asarray(palette) == 0] == 255).all()
    grey = decoded(encoded(Image.fromarray(GREY[:, :, 0]), transparency=int(GREY[0, 0, 0])))
    assert grey.shape == (10, 14, 1)
    assert grey[0, 0, 0] == 255


@pytest.mark.parametrize("kind", ["PNG", "WEBP"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_images_stand_upright(orientation: int, kind: str) -> None:
    turns: dict[int, Callable[[NDArray[np.uint8]], NDArray[np.uint8]]] = {
        1: lambda x: x, 2: lambda x: x[:, ::-1], 3: lambda x: x[::-1, ::-1], 4: lambda x: x[::-1],
        5: lambda x: x.transpose(1, 0, 2), 6: lambda x: np.rot90(x, -1), 7: lambda x: x[::-1, ::-1].transpose(1, 0, 2),
        8: lambda x: np.rot90(x, 1),
    }
    data = encoded(COLOUR, kind, exif=exif(orientation), **({"lossless": True} if kind == "WEBP" else {}))
    assert np.array_equal(decoded(data), turns[orientation](COLOUR))


@pytest.mark.parametrize("orientation", [0, 9, 255])
def test_an_orientation_that_is_none_is_ignored(orientation: int) -> None:
    assert np.array_equal(decoded(encoded(COLOUR, exif=exif(orientation))), COLOUR)


@pytest.mark.parametrize(
    "block",
    [
        b"", b"II", b"II*\0", b"II*\0\xff\xff\xff\xff", b"II*\0\x08\0\0\0", b"II*\0\x08\0\0\0\xff\xff",
        b"MM\0*\0\0\0\x08\0\x01" + struct.pack(">HHLHH", ORIENTATION, 4, 1, 0, 6), b"II*\0\x08\0\0\0\x01\0\x12\x01\x03\0",
    ],
)
def test_broken_metadata_does_no_harm(block: bytes) -> None:
    whole = encoded(COLOUR)
    assert np.array_equal(decoded(whole[:33] + png_chunk(b"eXIf", block) + whole[33:]), COLOUR)


def test_metadata_in_a_text_with_the_name_of_exif_does_no_harm() -> None:
    whole = encoded(COLOUR)
    for chunk in (png_chunk(b"tEXt", b"exif\0II*\0"), png_chunk(b"iTXt", b"exif\0\0\0\0\0text")):
        assert np.array_equal(decoded(whole[:33] + chunk + whole[33:]), COLOUR)


def test_of_several_pictures_in_a_jpeg_the_first_counts() -> None:
    first, second = Image.new("RGB", (16, 16), "red"), Image.new("RGB", (16, 16), "blue")
    stream = io.BytesIO()
    first.save(stream, "MPO", save_all=True, append_images=[second])
    assert decoded(stream.getvalue())[:, :, 0].min() > 240


def test_a_jpeg_can_be_decoded_smaller() -> None:
    sample = image_sample("a/1.jpg", "a", "", jpeg(height=200, width=161), IngestLimits())
    assert isinstance(sample.decode, Encoded)
    assert sample.decode.reduced(40).shape == (50, 41, 3)


def test_other_images_cannot_be_decoded_smaller() -> None:
    sample = image_sample("a/1.png", "a", "", png(side=64), IngestLimits())
    assert isinstance(sample.decode, Encoded)
    assert sample.decode.reduced(8).shape == (64, 64, 3)


def test_a_broken_header_is_told_by_decoding() -> None:
    sample = image_sample("a/1.png", "a", "", b"\x89PNG", IngestLimits())
    assert sample.size == (0, 0, 0)
    with pytest.raises(Corrupt, match="not a PNG, JPEG or WebP"):
        sample.decode()


@pytest.mark.parametrize("kind", ["BMP", "TIFF", "GIF", "PPM", "ICO", "PDF", "EPS", "DDS", "TGA", "JPEG2000"])
def test_other_formats_are_not_read(kind: str) -> None:
    sample = image_sample("a/1.png", "a", "", encoded(COLOUR, kind), IngestLimits())
    with pytest.raises(Corrupt):
        sample.decode()
