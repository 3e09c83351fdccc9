"""Files as users send them: images, archives, and archives that nobody well-meaning makes."""

from __future__ import annotations

import io
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image

Content = Mapping[str, bytes]


def pixels(height: int, width: int, channels: int = 3, seed: int = 0) -> NDArray[np.uint8]:
    """(H, W, C) uint8, smooth, so that compression and resizing change little."""
    y, x = np.mgrid[0:height, 0:width]
    waves = [np.sin((seed + 1) * (x * (c + 1) + 2 * y) / 9 + seed) for c in range(channels)]
    return np.rint(127.5 + 120 * np.stack(waves, axis=2)).astype(np.uint8)


def encoded(image: Image.Image | NDArray[Any], kind: str = "PNG", **options: Any) -> bytes:
    if not isinstance(image, Image.Image):
        image = Image.fromarray(image[:, :, 0] if image.ndim == 3 and image.shape[2] == 1 else image)
    stream = io.BytesIO()
    image.save(stream, kind, **options)
    return stream.getvalue()


def png(seed: int = 0, side: int = 12, channels: int = 3) -> bytes:
    return encoded(pixels(side, side, channels, seed))


def jpeg(seed: int = 0, height: int = 40, width: int = 40, channels: int = 3) -> bytes:
    return encoded(pixels(height, width, channels, seed), "JPEG", quality=92)


def png_chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">L", len(data)) + kind + data + struct.pack(">L", zlib.crc32(kind + data))


def png_of(width: int, height: int, *chunks: bytes) -> bytes:
    """A grey PNG whose header says any size, and whose data is that of nothing."""
    header = png_chunk(b"IHDR", struct.pack(">2L5B", width, height, 8, 0, 0, 0, 0))
    data = png_chunk(b"IDAT", zlib.compress(b"\0"))
    return b"\x89PNG\r\n\x1a\n" + header + b"".join(chunks) + data + png_chunk(b"IEND", b"")


def folders(classes: Sequence[str] = ("a", "b"), count: int = 3, top: str = "") -> dict[str, bytes]:
    """`CLASS/N.png`, so many of each."""
    return {
        f"{top}{label}/{i}.png": png(seed=k * count + i) for k, label in enumerate(classes) for i in range(count)
    }


def zipped(content: Content, method: int = zipfile.ZIP_DEFLATED, level: int | None = None) -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", method) as archive:
        for name, data in content.items():
            archive.writestr(zipfile.ZipInfo(name), data, method, level)
    return stream.getvalue()


def tarred(
    content: Content, compression: Literal["", "gz", "bz2", "xz"] = "", extra: Sequence[tarfile.TarInfo] = (),
    format: int = tarfile.PAX_FORMAT,
) -> bytes:
    """The files, then members without content."""
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode=f"w:{compression}", format=format) as archive:
        for name, data in content.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
        for info in extra:
            archive.addfile(info)
    return stream.getvalue()


def tar_entry(name: str, kind: bytes, **fields: Any) -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type = kind
    for field, value in fields.items():
        setattr(info, field, value)
    return info


def central_at(archive: bytes, number: int) -> int:
    """Where the entry of this number, from 0, begins in the directory of a zip."""
    at = -1
    for _ in range(number + 1):
        at = archive.index(b"PK\x01\x02", at + 1)
    return at


def patched(archive: bytes, at: int, layout: str, value: int) -> bytes:
    return archive[:at] + struct.pack(layout, value) + archive[at + struct.calcsize(layout) :]


def zip_entry(name: str, data: bytes, mode: int) -> bytes:
    """A zip of one entry with a Unix mode."""
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        info = zipfile.ZipInfo(name)
        info.create_system, info.external_attr = 3, mode << 16
        archive.writestr(info, data)
    return stream.getvalue()


def left_in(folder: Path) -> list[str]:
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*"))
