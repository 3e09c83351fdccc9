"""The split and the class that a file's folders say: `CLASS/FILE` or `SPLIT/CLASS/FILE`, in one common top folder or in none.

The rule reads one name at a time, so that a stream needs no pass of its own. A folder named like a split is a split wherever a
split can stand, and never a class.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import PurePosixPath

from core.ingest.samples import Refused, Split

SPLITS: dict[str, Split] = {"train": "train", "test": "test", "val": "test", "valid": "test", "validation": "test"}
"""Names of split folders in lower case, and the split that they are."""

SIDE_SUFFIXES = frozenset({"", ".txt", ".md", ".rst", ".csv", ".tsv", ".json", ".yaml", ".yml", ".xml", ".html", ".pdf"})
"""Files that often lie beside samples, such as README and LICENSE, and are left out with a note. Any other is refused."""


class FolderRule:
    """Reads names in the order of the files; what it has seen decides what it refuses."""

    def __init__(self) -> None:
        self._top: str | None = None
        self._splits: bool | None = None
        self._seen: set[str] = set()

    def split_and_label(self, name: str) -> tuple[Split, str]:
        """The split and the class of one sample, from the clean relative name of its file.

        Raises:
            Refused: the file lies in no class folder or too deep, or its folders contradict those of the files before it.
        """
        *folders, _file = name.split("/")
        match folders:
            case []:
                raise Refused("not_in_class_folder", "the file lies in no folder; its folder is to name its class", name)
            case [label] if label.lower() not in SPLITS:
                top, split, named = "", "", False
            case [split, label] if split.lower() in SPLITS and label.lower() not in SPLITS:
                top, named = "", True
            case [top, label] if label.lower() not in SPLITS:
                split, named = "", False
            case [top, split, label] if split.lower() in SPLITS and label.lower() not in SPLITS:
                named = True
            case [*_, last] if last.lower() in SPLITS:
                raise Refused(
                    "not_in_class_folder", f"the file lies in {last!r}, the folder of a split, and not in that of a class", name
                )
            case _:
                raise Refused(
                    "nested_too_deep", "the file lies deeper than CLASS/FILE or SPLIT/CLASS/FILE in one common folder", name
                )
        self._require_same(top, named, name)
        if named:
            self._seen.add(split.lower())
        return SPLITS[split.lower()] if named else "", label

    def _require_same(self, top: str, named: bool, name: str) -> None:
        if self._top is None:
            self._top, self._splits = top, named
        if top != self._top:
            raise Refused(
                "nested_too_deep", "the file lies deeper or less deep than those before it, or in another top folder", name
            )
        if named != self._splits:
            raise Refused("mixed_splits", "some files lie in split folders such as `train`, and others do not", name)

    @property
    def notes(self) -> tuple[str, ...]:
        """What the user should know about the folders read so far."""
        validation = sorted(self._seen - {"train", "test"})
        if not validation:
            return ()
        beside = ", beside that of 'test'" if "test" in self._seen else ""
        return (f"What lies in {', '.join(map(repr, validation))} belongs to the test split{beside}.",)


class SideFiles:
    """What lies beside the samples: known kinds are counted, any other is refused."""

    def __init__(self) -> None:
        self._count = 0
        self._first = ""

    def leave_out(self, name: str, wanted: Iterable[str]) -> None:
        """Take note of a file that is no sample.

        Args:
            name: clean relative name of the file.
            wanted: suffixes of samples, for the message.

        Raises:
            Refused: it is not a kind of file that usually lies beside samples.
        """
        suffix = PurePosixPath(name).suffix.lower()
        if suffix not in SIDE_SUFFIXES:
            raise Refused("unexpected_file", f"files of kind {suffix} are not read here; wanted: {', '.join(wanted)}", name)
        self._count += 1
        self._first = self._first or name

    @property
    def notes(self) -> tuple[str, ...]:
        """How many files were left out."""
        if not self._count:
            return ()
        return (f"{self._count} other file(s) were left out, for example {self._first!r}.",)
