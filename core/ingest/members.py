"""The files in a zip or a tar, one after another: never unpacked to the disk, with safe names and counted bytes."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Literal, assert_never

from core.ingest.entries import Member
from core.ingest.tars import tar_members
from core.ingest.zips import zip_members
from core.specs.ingest import IngestLimits

Container = Literal["zip", "tar"]

__all__ = ["Container", "Member", "open_members"]


def open_members(path: Path, container: Container, limits: IngestLimits) -> Iterator[Member]:
    """The files of an archive in its order; a tar may be compressed with gzip, bzip2 or xz.

    Left out quietly: folders, files whose name or folder begins with a dot, `__MACOSX/` and `Thumbs.db`.

    Raises:
        Refused: `unsafe_name`, `name_not_utf8`, `duplicate_name`, `link`, `special_file`, `sparse_file`, `encrypted`,
            `unsupported_compression`, `nested_archive`, `overlapping_entries`, `too_many_members`, `member_too_large`,
            `inflation_ratio` (of a member of a zip), `inflates_too_much`, `damaged_archive`.
    """
    match container:
        case "zip":
            return zip_members(path, limits)
        case "tar":
            return tar_members(path, limits)
        case _:
            assert_never(container)
