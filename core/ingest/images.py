"""One encoded image: PNG, JPEG or WebP, decoded by Pillow to grey or RGB bytes.

Rules: sizes are checked from the header before anything is decoded; EXIF orientation is applied; palettes become RGB, 16 bits
become 8, and what is transparent is laid over white. Animated PNG and WebP files are refused; of the pictures in a JPEG that
has several the first one counts. Bytes behind the end of a PNG are refused, because such a file may be something else as well.
"""

from __future__ import annotations

import struct
import warnings
import zlib
from io import BytesIO

import numpy as np
from numpy.typing import NDArray
from PIL import Image, PngImagePlugin, UnidentifiedImageError

from core.ingest.samples import Corrupt, Refused, Sample, Size, Split
from core.specs.ingest import IngestLimits

SUFFIXES = (".png", ".jpg", ".jpeg", ".webp")

_BROKEN = (
    OSError, SyntaxError, ValueError, TypeError, LookupError, EOFError, ArithmeticError, AssertionError, struct.error,
    zlib.error,
)
"""What Pillow raises for broken data (it asserts that there is a palette, for one). A lack of memory is not among it."""

_GREY = frozenset({"1", "L", "LA", "La", "I", "I;16", "I;16L", "I;16B"})
_SIXTEEN_BITS = frozenset({"I", "I;16", "I;16L", "I;16B"})
_ORIENTATION_TAG = 0x0112
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT, 3: Image.Transpose.ROTATE_180, 4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE, 6: Image.Transpose.ROTATE_270, 7: Image.Transpose.TRANSVERSE, 8: Image.Transpose.ROTATE_90,
}
"""What brings an image upright, by EXIF orientation."""
_LYING = 5
"""From this orientation on, height and width change places."""
_MAX_TEXT_BYTES = 1 << 20
_PNG_MAGIC = b"\x89PNG\r\n\x1a\n"


class Encoded:
    """Decodes one image whose header was checked: in any thread, once, and also after the next sample was asked for."""

    def __init__(self, image: Image.Image, member: str, orientation: int) -> None:
        self._image, self._member, self._orientation = image, member, orientation

    @property
    def size(self) -> Size:
        """Of the upright image."""
        width, height = self._image.size
        if self._orientation >= _LYING:
            height, width = width, height
        return Size(height, width, 1 if self._image.mode in _GREY else 3)

    def __call__(self) -> NDArray[np.uint8]:
        """(H, W, C) uint8, grey or RGB, upright.

        Raises:
            Corrupt: the data behind the header is broken.
        """
        expected = self._image.size
        try:
            self._image.load()
            if self._image.size != expected:
                raise Corrupt("corrupt_image", "the image has another size than its header says", self._member)
            return _pixels(self._image, self._orientation)
        except _BROKEN as error:
            raise _corrupt(error, self._member) from error
        finally:
            self._image.close()

    def reduced(self, side: int) -> NDArray[np.uint8]:
        """As a call, but a JPEG is decoded at 1/2, 1/4 or 1/8 of its size where both sides stay at least `side` pixels."""
        self._image.draft(None, (side, side))
        return self()


def image_sample(member: str, label: str, split: Split, data: bytes, limits: IngestLimits) -> Sample:
    """A sample from the bytes of an image file. What is wrong with its header, its `decode` raises.

    Raises:
        Refused: `image_too_large`: it has more pixels than allowed.
    """
    try:
        decode = _opened(member, data, limits)
    except Corrupt as error:
        return Sample(member, label, split, Size(0, 0, 0), _Broken(error))
    return Sample(member, label, split, decode.size, decode)


class _Broken:
    """Stands for the image whose header is broken."""

    def __init__(self, error: Corrupt) -> None:
        self._error = error

    def __call__(self) -> NDArray[np.uint8]:
        raise self._error


def _opened(member: str, data: bytes, limits: IngestLimits) -> Encoded:
    Image.MAX_IMAGE_PIXELS = limits.max_pixels
    PngImagePlugin.MAX_TEXT_CHUNK = PngImagePlugin.MAX_TEXT_MEMORY = _MAX_TEXT_BYTES
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of broken metadata, which is not used
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            image = Image.open(BytesIO(data), formats=("PNG", "JPEG", "WEBP"))
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise _too_large(member, limits) from error
    except _BROKEN as error:
        raise _corrupt(error, member) from error
    width, height = image.size
    if max(width, height) > limits.max_side or width * height > limits.max_pixels:
        raise _too_large(member, limits)
    if getattr(image, "is_animated", False) and image.format != "MPO":
        raise Corrupt("animated_image", "animated images are not read", member)
    if image.format == "PNG":
        _require_png_end(member, data)
    return Encoded(image, member, _orientation(image.info.get("exif")))


def _too_large(member: str, limits: IngestLimits) -> Refused:
    return Refused(
        "image_too_large", f"the image has more than {limits.max_side} pixels on a side or {limits.max_pixels} in all", member
    )


def _corrupt(error: Exception, member: str) -> Corrupt:
    if isinstance(error, UnidentifiedImageError):
        return Corrupt("not_an_image", "the file is not a PNG, JPEG or WebP image", member)
    return Corrupt("corrupt_image", f"the image cannot be decoded ({error})", member)


def _require_png_end(member: str, data: bytes) -> None:
    at, kind = len(_PNG_MAGIC), b""
    while kind != b"IEND":
        if at + 12 > len(data):
            raise Corrupt("corrupt_image", "the image ends too early", member)
        length, kind = struct.unpack_from(">L4s", data, at)
        at += 12 + length
    if at < len(data):
        raise Corrupt("trailing_data", "there is more in the file behind the end of the image", member)
    if at > len(data):
        raise Corrupt("corrupt_image", "the image ends too early", member)


def _orientation(exif: object) -> int:
    """How the image is to be turned: 1 to 8, and 1 where the block does not say it plainly."""
    if not isinstance(exif, bytes):
        return 1
    block = exif.removeprefix(b"Exif\0\0")
    order = {b"II*\0": "<", b"MM\0*": ">"}.get(block[:4])
    if order is None or len(block) < 8:
        return 1
    (at,) = struct.unpack_from(order + "L", block, 4)
    if at + 2 > len(block):
        return 1
    (count,) = struct.unpack_from(order + "H", block, at)
    for entry in range(at + 2, min(at + 2 + 12 * count, len(block) - 11), 12):
        tag, kind, num_values, value = struct.unpack_from(order + "HHLH", block, entry)
        if tag == _ORIENTATION_TAG:
            return value if kind == 3 and num_values == 1 and value in _TURNS else 1
    return 1


def _pixels(image: Image.Image, orientation: int) -> NDArray[np.uint8]:
    mode = "L" if image.mode in _GREY else "RGB"
    if image.mode in _SIXTEEN_BITS:
        values = np.asarray(image).astype(np.int64).clip(0, 0xFFFF)
        plain = Image.fromarray(((values + 128) // 257).astype(np.uint8))
    elif image.has_transparency_data:
        seen = image.convert("RGBA")
        plain = Image.alpha_composite(Image.new("RGBA", seen.size, "white"), seen).convert(mode)
    else:
        plain = image.convert(mode)
    if orientation in _TURNS:
        plain = plain.transpose(_TURNS[orientation])
    pixels: NDArray[np.uint8] = np.asarray(plain)
    return pixels[:, :, None] if pixels.ndim == 2 else pixels
