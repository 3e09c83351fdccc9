"""Uploads that are to be refused: each with its format, the code of the refusal and the entry that it names."""

from __future__ import annotations

import stat
import tarfile
import zipfile
import zlib
from collections.abc import Callable
from typing import NamedTuple

from PIL import Image

from core.specs.ingest import Format
from tests.unit.core.ingest.files import (
    central_at,
    encoded,
    folders,
    jpeg,
    patched,
    png,
    png_chunk,
    png_of,
    tar_entry,
    tarred,
    zip_entry,
    zipped,
)

SIZE_AT, PACKED_AT, FLAGS_AT, OFFSET_AT = 24, 20, 8, 42
"""Of these fields in an entry of a zip's directory."""


class Attack(NamedTuple):
    make: Callable[[], bytes]
    """The upload."""
    code: str
    member: str = ""
    format: Format = "imagefolder_zip"


def _named(name: str) -> bytes:
    return zipped(folders() | {name: png()})


def _bytes_named(old: bytes, new: bytes) -> bytes:
    assert len(old) == len(new)
    return zipped(folders() | {f"a/{old.decode()}.png": png()}).replace(old, new)


def _tar(info: tarfile.TarInfo, format: int = tarfile.PAX_FORMAT) -> bytes:
    return tarred(folders(), extra=[info], format=format)


def _with_field(number: int, at: int, layout: str, value: int) -> bytes:
    archive = zipped(folders())
    return patched(archive, central_at(archive, number) + at, layout, value)


def _overlapped() -> bytes:
    """Two entries with one content."""
    archive = zipped(folders())
    first = int.from_bytes(archive[central_at(archive, 0) + OFFSET_AT :][:4], "little")
    return patched(archive, central_at(archive, 1) + OFFSET_AT, "<L", first)


def _quoted() -> bytes:
    """The first entry holds the second, with its header, as David Fifield's bombs do it."""
    archive = zipped(folders(), zipfile.ZIP_STORED)
    second = central_at(archive, 1)
    length = int.from_bytes(archive[second + OFFSET_AT :][:4], "little") + 80
    archive = patched(archive, central_at(archive, 0) + PACKED_AT, "<L", length)
    return patched(archive, central_at(archive, 0) + SIZE_AT, "<L", length)


def _overlapped_by_extra_field() -> bytes:
    """The directory looks well; the header before the content pushes it into the next entry."""
    archive = zipped(folders())
    return patched(archive, 28, "<H", 60)


def _encrypted() -> bytes:
    archive = zipped(folders())
    at = central_at(archive, 1)
    offset = int.from_bytes(archive[at + OFFSET_AT :][:4], "little")
    return patched(patched(archive, at + FLAGS_AT, "<H", 1), offset + 6, "<H", 1)


def _sparse_pax() -> bytes:
    info = tarfile.TarInfo("a/9.png")
    info.pax_headers = {
        "GNU.sparse.major": "1", "GNU.sparse.minor": "0", "GNU.sparse.name": "a/9.png", "GNU.sparse.realsize": "9",
    }
    return _tar(info)


def _gif() -> bytes:
    return encoded(Image.new("L", (12, 12)), "GIF")


def _animated(kind: str) -> bytes:
    frames = [Image.new("RGB", (12, 12), colour) for colour in ("red", "blue")]
    return encoded(frames[0], kind, save_all=True, append_images=frames[1:])


def _in_folder(content: bytes, name: str = "a/9.png") -> bytes:
    return zipped(folders() | {name: content})


def _text_bomb() -> bytes:
    text = png_chunk(b"zTXt", b"comment\0\0" + zlib.compress(bytes(8 << 20), 9))
    whole = png()
    return whole[:33] + text + whole[33:]


def _bomb(size: int, members: int) -> bytes:
    return zipped({f"a/{i}.png": bytes(size) for i in range(members)}, level=1)


def _tar_bomb(size: int, members: int) -> bytes:
    return tarred({f"a/{i}.png": b"\x89PNG" + bytes(size) for i in range(members)}, "gz")


ZIPS: dict[str, Attack] = {
    "leaves its folder": Attack(lambda: _named("../a/9.png"), "unsafe_name", "../a/9.png"),
    "leaves its folder later": Attack(lambda: _named("a/../../9.png"), "unsafe_name", "a/../../9.png"),
    "absolute": Attack(lambda: _named("/a/9.png"), "unsafe_name", "/a/9.png"),
    "drive letter": Attack(lambda: _named("C:a/9.png"), "unsafe_name", "C:a/9.png"),
    "backslash": Attack(lambda: _named("a\\9.png"), "unsafe_name", "a\\9.png"),
    "control character": Attack(lambda: _named("a/9\x1b[2J.png"), "unsafe_name", "a/9?[2J.png"),
    "NUL": Attack(lambda: _bytes_named(b"nul_nul", b"nul\0nul"), "unsafe_name", "a/nul?nul.png"),
    "not UTF-8": Attack(lambda: _bytes_named(b"latin_1", b"latin\xe91"), "name_not_utf8", "a/latin?1.png"),
    "endless name": Attack(lambda: _named("a/" + 2000 * "x" + ".png"), "unsafe_name", ("a/" + 2000 * "x")[:200]),
    "same name in another case": Attack(lambda: _named("A/1.PNG"), "duplicate_name", "A/1.PNG"),
    "same name in another form": Attack(
        lambda: zipped(folders() | {"a/\u00e9.png": png(), "a/e\u0301.png": png()}), "duplicate_name", "a/e\u0301.png"
    ),
    "same name with a dot": Attack(lambda: _named("./a//1.png"), "duplicate_name", "a/1.png"),
    "link in a zip": Attack(lambda: zip_entry("a/9.png", b"/etc/passwd", stat.S_IFLNK | 0o777), "link", "a/9.png"),
    "pipe in a zip": Attack(lambda: zip_entry("a/9.png", b"", stat.S_IFIFO | 0o666), "special_file", "a/9.png"),
    "device in a zip": Attack(lambda: zip_entry("a/9.png", b"", stat.S_IFCHR | 0o666), "special_file", "a/9.png"),
    "encrypted": Attack(lambda: _encrypted(), "encrypted", "a/1.png"),
    "bzip2 in a zip": Attack(lambda: zipped(folders(), zipfile.ZIP_BZIP2), "unsupported_compression", "a/0.png"),
    "lzma in a zip": Attack(lambda: zipped(folders(), zipfile.ZIP_LZMA), "unsupported_compression", "a/0.png"),
    "archive by its name": Attack(lambda: _named("a/more.tar.gz"), "nested_archive", "a/more.tar.gz"),
    "zip as an image": Attack(lambda: _in_folder(zipped(folders())), "nested_archive", "a/9.png"),
    "tar as an image": Attack(lambda: _in_folder(tarred(folders())), "nested_archive", "a/9.png"),
    "one content twice": Attack(lambda: _overlapped(), "overlapping_entries", "a/0.png"),
    "an entry in an entry": Attack(lambda: _quoted(), "overlapping_entries", "a/0.png"),
    "overlapping by an extra field": Attack(lambda: _overlapped_by_extra_field(), "overlapping_entries", "a/0.png"),
    "inflates to more than it says": Attack(lambda: _with_field(1, SIZE_AT, "<L", 10), "damaged_archive", "a/1.png"),
    "inflates to less than it says": Attack(lambda: _with_field(1, SIZE_AT, "<L", 900_000), "damaged_archive", "a/1.png"),
    "another checksum": Attack(lambda: _with_field(1, 16, "<L", 7), "damaged_archive", "a/1.png"),
    "ratio": Attack(lambda: _bomb(60 << 20, 1), "inflation_ratio", "a/0.png"),
    "large entry": Attack(lambda: _bomb((64 << 20) + 1, 1), "member_too_large", "a/0.png"),
    "many bombs": Attack(lambda: _bomb(1 << 20, 300), "inflates_too_much", "a/256.png"),
    "no end": Attack(lambda: zipped(folders())[:-30], "damaged_archive"),
    "beginning of another file": Attack(lambda: b"MZ" * 100 + zipped(folders()), "damaged_archive"),
    "not a zip": Attack(lambda: b"hello" * 100, "damaged_archive"),
    "nothing": Attack(lambda: b"", "damaged_archive"),
}

_TARS: dict[str, Attack] = {
    "hard link": Attack(lambda: _tar(tar_entry("a/9.png", tarfile.LNKTYPE, linkname="a/1.png")), "link", "a/9.png"),
    "symbolic link": Attack(
        lambda: _tar(tar_entry("a/9.png", tarfile.SYMTYPE, linkname="/etc/passwd")), "link", "a/9.png"
    ),
    "link with a long name": Attack(
        lambda: _tar(tar_entry("a/9.png", tarfile.SYMTYPE, linkname=300 * "x"), tarfile.GNU_FORMAT), "link", "a/9.png"
    ),
    "character device": Attack(lambda: _tar(tar_entry("a/9.png", tarfile.CHRTYPE)), "special_file", "a/9.png"),
    "block device": Attack(lambda: _tar(tar_entry("a/9.png", tarfile.BLKTYPE)), "special_file", "a/9.png"),
    "pipe": Attack(lambda: _tar(tar_entry("a/9.png", tarfile.FIFOTYPE)), "special_file", "a/9.png"),
    "sparse": Attack(lambda: _tar(tar_entry("a/9.png", tarfile.GNUTYPE_SPARSE)), "sparse_file", "a/9.png"),
    "sparse in pax": Attack(lambda: _sparse_pax(), "sparse_file", "a/9.png"),
    "tar leaves its folder": Attack(lambda: _tar(tarfile.TarInfo("../9.png")), "unsafe_name", "../9.png"),
    "folder leaves its folder": Attack(lambda: _tar(tar_entry("../x", tarfile.DIRTYPE)), "unsafe_name", "../x"),
    "tar, absolute": Attack(lambda: _tar(tarfile.TarInfo("/a/9.png")), "unsafe_name", "/a/9.png"),
    "tar, same name": Attack(lambda: _tar(tarfile.TarInfo("a/1.PNG")), "duplicate_name", "a/1.PNG"),
    "tar, not UTF-8": Attack(
        lambda: _tar(tarfile.TarInfo("a/\udce9.png"), tarfile.GNU_FORMAT), "name_not_utf8", "a/?.png"
    ),
    "negative size": Attack(
        lambda: _tar(tar_entry("a/9.png", tarfile.DIRTYPE, size=-512), tarfile.GNU_FORMAT), "damaged_archive", "a/9.png"
    ),
    "tar ends in an entry": Attack(lambda: tarred(folders())[:700], "damaged_archive", "a/0.png"),
    "tar without an end": Attack(lambda: tarred(folders())[: 6 * 1024], "damaged_archive"),
    "more behind the end": Attack(lambda: tarred(folders()) + b"x" * 512, "damaged_archive"),
    "gzip ends too early": Attack(lambda: tarred(folders(), "gz")[:-12], "damaged_archive"),
    "bzip2 ends too early": Attack(lambda: tarred(folders(), "bz2")[:-12], "damaged_archive"),
    "xz ends too early": Attack(lambda: tarred(folders(), "xz")[:-12], "damaged_archive"),
    "more behind gzip": Attack(lambda: tarred(folders(), "gz") + b"x", "damaged_archive"),
    "zip as a tar": Attack(lambda: zipped(folders()), "damaged_archive"),
    "large entry of a tar": Attack(lambda: _tar_bomb(64 << 20, 1), "member_too_large", "a/0.png"),
}

ARCHIVES = ZIPS | {name: attack._replace(format="imagefolder_tar") for name, attack in _TARS.items()}
"""Refused as an archive, whatever is in it."""

IMAGES: dict[str, Attack] = {
    "50,000 x 50,000": Attack(lambda: _in_folder(png_of(50_000, 50_000)), "image_too_large", "a/9.png"),
    "wide": Attack(lambda: _in_folder(png_of(4097, 1)), "image_too_large", "a/9.png"),
    "many pixels": Attack(lambda: _in_folder(png_of(4096, 4096)), "image_too_large", "a/9.png"),
    "large WebP": Attack(
        lambda: _in_folder(b"RIFF\x1e\0\0\0WEBPVP8X\x0a\0\0\0\0\0\0\0\xff\xff\x00\xff\xff\x00" + bytes(12), "a/9.webp"),
        "image_too_large", "a/9.webp",
    ),
    "no data for its size": Attack(lambda: _in_folder(png_of(4000, 3999)), "corrupt_image", "a/9.png"),
    "bomb of text": Attack(lambda: _in_folder(_text_bomb()), "corrupt_image", "a/9.png"),
    "truncated JPEG": Attack(lambda: _in_folder(jpeg(height=200, width=200)[:2000], "a/9.jpg"), "corrupt_image", "a/9.jpg"),
    "truncated PNG": Attack(lambda: _in_folder(png()[:-20]), "corrupt_image", "a/9.png"),
    "PNG with a tail": Attack(lambda: _in_folder(png() + b"<script>"), "trailing_data", "a/9.png"),
    "GIF": Attack(lambda: _in_folder(_gif()), "not_an_image", "a/9.png"),
    "text": Attack(lambda: _in_folder(b"hello"), "not_an_image", "a/9.png"),
    "empty": Attack(lambda: _in_folder(b""), "not_an_image", "a/9.png"),
    "animated PNG": Attack(lambda: _in_folder(_animated("PNG")), "animated_image", "a/9.png"),
    "animated WebP": Attack(lambda: _in_folder(_animated("WEBP"), "a/9.webp"), "animated_image", "a/9.webp"),
}
"""Refused because of one image."""
