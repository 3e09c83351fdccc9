"""Parquet: one file, or a tar with files named after their splits, as Hugging Face's hub has them.

A file in a tar is read into memory, because parquet is read from its end; nothing is written to the disk.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

from core.ingest.folders import SPLITS, SideFiles
from core.ingest.images import image_sample
from core.ingest.members import open_members
from core.ingest.parquet_rows import ParquetRows
from core.ingest.samples import Refused, Sample, Split
from core.specs.ingest import ConversionSpec, IngestLimits

SUFFIX = ".parquet"
_BEGINNING = re.compile(r"(train|test|val|valid|validation)(?=[-_.]|$)")
MAX_PART_BYTES = 1 << 30
"""Of a file in a tar."""


class ParquetReader:
    """One parquet file, or a tar of them."""

    def __init__(self, path: Path, conversion: ConversionSpec, limits: IngestLimits, tar: bool) -> None:
        """Look at the (first) file, which is to state the names of the classes for all.

        Args:
            path: the upload.
            conversion: names the columns.
            limits: of the installation.
            tar: whether the upload is a tar.

        Raises:
            Refused: the file is damaged or lacks a column, or the tar has no parquet file.
        """
        self._path, self._conversion, self._limits, self._tar = path, conversion, limits, tar
        self._side_files = SideFiles()
        self.notes: tuple[str, ...] = ()
        self.class_names: tuple[str, ...] = ()
        for member, source in self._sources():
            with ParquetRows(source, member, conversion, limits) as file:
                self._stated = file.class_names
            break
        else:
            raise Refused("no_samples", f"the archive has no {SUFFIX} file")

    def samples(self) -> Iterator[Sample]:
        """Every row of every file, in order. After the last one `class_names` has those of the stated names that occur.

        Raises:
            Refused: a file is damaged, or one of its rows has no image or no class, or breaks a limit.
        """
        self._side_files = SideFiles()
        named: bool | None = None
        count = 0
        validation: list[str] = []
        seen: set[str] = set()
        for member, source in self._sources():
            word, split = _split_of(member)
            if word.startswith("val"):
                validation.append(f"{member!r} belongs to the test split.")
            with ParquetRows(source, member, self._conversion, self._limits) as file:
                if file.class_names != self._stated:
                    raise Refused("class_names", "the file names other classes than the first one", member)
                count += file.num_rows
                if count > self._limits.max_members:
                    raise Refused("too_many_images", f"the files have more than {self._limits.max_members} rows", member)
                for row in file.rows():
                    found = row.split or split
                    if named is None:
                        named = bool(found)
                    if named != bool(found):
                        raise Refused("mixed_splits", "some rows are in a split such as train, and others are not", row.where)
                    seen.add(row.label)
                    yield image_sample(row.where, row.label, found, row.image, self._limits)
        self.class_names = tuple(name for name in self._stated if name in seen)
        self.notes = (*validation, *self._side_files.notes)

    def _sources(self) -> Iterator[tuple[str, Path | bytes]]:
        """Name in the tar, if there is one, and content."""
        if not self._tar:
            yield "", self._path
            return
        limits = self._limits.model_copy(update={"max_member_bytes": MAX_PART_BYTES})
        for member in open_members(self._path, "tar", limits):
            if member.name.lower().endswith(SUFFIX):
                yield member.name, member.read()
            else:
                self._side_files.leave_out(member.name, (SUFFIX,))


def _split_of(member: str) -> tuple[str, Split]:
    """The word by which a folder, or the beginning of the file's name, says a split, and the split; empty: nothing does.

    Raises:
        Refused: two of them say different splits.
    """
    if not member:
        return "", ""
    *folders, name = PurePosixPath(member.lower()).parts
    beginning = _BEGINNING.match(name)
    words = [word for word in (*folders, beginning[1] if beginning else "") if word in SPLITS]
    if len({SPLITS[word] for word in words}) > 1:
        raise Refused("mixed_splits", "the file and its folders name different splits", member)
    return (words[-1], SPLITS[words[-1]]) if words else ("", "")
