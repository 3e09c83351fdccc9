"""What holds for the entries of every archive: names that are safe and differ, and no archive inside another."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable
from hashlib import blake2b
from typing import NamedTuple

from core.ingest.samples import Refused
from core.specs.ingest import IngestLimits

MAX_NAME = 1024
"""Characters of a whole name."""

_DRIVE = re.compile(r"[A-Za-z]:")
_IGNORED = frozenset({"__macosx", "thumbs.db"})
_ARCHIVES = (
    ".zip", ".tar", ".tgz", ".gz", ".tbz2", ".tbz", ".bz2", ".txz", ".xz", ".lzma", ".7z", ".rar", ".zst", ".lz4", ".z", ".jar",
    ".whl", ".cab", ".ar", ".iso",
)
_MAGICS = (
    b"PK\x03\x04", b"PK\x05\x06", b"\x1f\x8b", b"\x1f\x9d", b"BZh", b"\xfd7zXZ\x00", b"7z\xbc\xaf\x27\x1c", b"Rar!\x1a\x07",
    b"\x28\xb5\x2f\xfd", b"\x04\x22\x4d\x18", b"!<arch>\n", b"MSCF",
)
_TAR_MAGIC_AT = 257


class Member(NamedTuple):
    """A file in an archive."""

    name: str
    """Clean relative path with `/` between its parts."""
    size: int
    """Bytes, inflated, as the archive claims; `read` gives exactly so many or refuses."""
    read: Callable[[], bytes]
    """The content, at most `max_member_bytes`. To be called once, before the next member is asked for.

    Raises `Refused`: damaged, inflating beyond the limits, or itself an archive."""


class Names:
    """Admits the names of one archive, in order: safe, different, not too many."""

    def __init__(self, limits: IngestLimits) -> None:
        self._limits = limits
        self._count = 0
        self._seen: set[bytes] = set()

    def count(self) -> None:
        """One more entry, of whatever kind.

        Raises:
            Refused: there are more than allowed.
        """
        self._count += 1
        if self._count > self._limits.max_members:
            raise Refused("too_many_members", f"the archive has more than {self._limits.max_members} entries")

    def folder(self, raw: str) -> str:
        """Nothing, for a folder with a safe name: folders are not read.

        Raises:
            Refused: the name is unsafe.
        """
        clean(raw)
        return ""

    def admit(self, raw: str) -> str:
        """The clean form of a file's name; empty for a file that systems leave behind and nobody means.

        Raises:
            Refused: the name is unsafe, equals another one, or is that of an archive.
        """
        name = meant(raw)
        if not name:
            return ""
        # Names are kept as short hashes: two million of them are to fit into memory, however long they are.
        key = blake2b(normal(name).encode(), digest_size=16).digest()
        if key in self._seen:
            raise Refused("duplicate_name", "two entries have this name, where case and Unicode form do not count", name)
        self._seen.add(key)
        if name.lower().endswith(_ARCHIVES):
            raise Refused("nested_archive", "an archive inside the archive is not read", name)
        return name


def clean(raw: str) -> str:
    """A relative path without `.` and empty parts; empty for the folder that holds everything.

    Raises:
        Refused: it could leave a folder that it is put into, or does not say plainly what it is.
    """
    if len(raw) > MAX_NAME:
        raise Refused("unsafe_name", f"the name is longer than {MAX_NAME} characters", raw)
    if not raw.isprintable():
        if any("\ud800" <= c <= "\udfff" for c in raw):
            raise Refused("name_not_utf8", "names in archives are to be UTF-8", raw)
        if any(unicodedata.category(c) == "Cc" for c in raw):
            raise Refused("unsafe_name", "the name has control characters", raw)
    if "\\" in raw:
        raise Refused("unsafe_name", "the name has a backslash; folders are to be separated by /", raw)
    if raw.startswith("/"):
        raise Refused("unsafe_name", "the name is absolute", raw)
    if _DRIVE.match(raw):
        raise Refused("unsafe_name", "the name begins with a drive letter", raw)
    parts = [part for part in raw.split("/") if part not in ("", ".")]
    if ".." in parts:
        raise Refused("unsafe_name", "the name leads out of its folder with ..", raw)
    return "/".join(parts)


def meant(raw: str) -> str:
    """The clean form of a file's name; empty for a file that systems leave behind and nobody means. Raises as `clean`."""
    name = clean(raw)
    if not name:
        raise Refused("unsafe_name", "the name is empty", raw)
    if any(part.startswith(".") or part.lower() in _IGNORED for part in name.split("/")):
        return ""
    return name


def normal(name: str) -> str:
    """One form for all names that some file system takes for the same."""
    return name.lower() if name.isascii() else unicodedata.normalize("NFC", unicodedata.normalize("NFC", name).casefold())


def require_no_archive(name: str, content: bytes) -> bytes:
    """The content, where it is not that of an archive.

    Raises:
        Refused: it begins as an archive does.
    """
    if content.startswith(_MAGICS) or content[_TAR_MAGIC_AT : _TAR_MAGIC_AT + 5] == b"ustar":
        raise Refused("nested_archive", "the content of this entry is an archive", name)
    return content


def damaged(what: str, member: str = "") -> Refused:
    """The refusal of an archive that is not what its format says."""
    return Refused("damaged_archive", f"the archive is damaged: {what}", member)


def max_inflated(size: int, limits: IngestLimits) -> int:
    """Bytes to which an archive of `size` bytes may inflate."""
    return min(limits.max_inflated_bytes, max(limits.max_inflation * size, limits.always_inflated_bytes))


def too_much(allowed: int, member: str = "") -> Refused:
    """The refusal of an archive that inflates to more."""
    return Refused("inflates_too_much", f"the archive inflates to more than the {allowed} bytes that its size allows", member)


def too_large(limits: IngestLimits, member: str) -> Refused:
    """The refusal of an entry that is larger than entries may be."""
    return Refused("member_too_large", f"the entry is larger than {limits.max_member_bytes} bytes", member)
