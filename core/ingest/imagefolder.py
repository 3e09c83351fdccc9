"""Images in folders that name their class, and maybe their split."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from core.ingest.folders import FolderRule, SideFiles
from core.ingest.images import SUFFIXES, image_sample
from core.ingest.members import Container, open_members
from core.ingest.samples import Sample
from core.specs.ingest import ConversionSpec, IngestLimits


class ImageFolderReader:
    """`CLASS/FILE` or `SPLIT/CLASS/FILE`, in one common top folder or in none."""

    class_names: tuple[str, ...] = ()

    def __init__(self, path: Path, container: Container, _conversion: ConversionSpec, limits: IngestLimits) -> None:
        self._path, self._container, self._limits = path, container, limits
        self.notes: tuple[str, ...] = ()

    def samples(self) -> Iterator[Sample]:
        """Every image in the order of the archive; see `Reader`."""
        rule, side_files = FolderRule(), SideFiles()
        for member in open_members(self._path, self._container, self._limits):
            if not member.name.lower().endswith(SUFFIXES):
                side_files.leave_out(member.name, SUFFIXES)
                continue
            split, label = rule.split_and_label(member.name)
            yield image_sample(member.name, label, split, member.read(), self._limits)
        self.notes = rule.notes + side_files.notes
