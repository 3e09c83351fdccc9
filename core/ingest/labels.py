"""Images beside one list of their classes, `labels.csv` or `labels.json`, which lies at the top or in the images' folder.

The list names files relative to its own folder. JSON is a list of objects; CSV has a header, and commas, semicolons or tabs
between its columns. Images that the list does not name are left out with a note; files that it names and that are missing are
refused.
"""

from __future__ import annotations

import csv
import io
import json
import re
import unicodedata
from array import array
from collections.abc import Iterator
from pathlib import Path

from core.ingest.entries import clean
from core.ingest.folders import SPLITS, SideFiles
from core.ingest.images import SUFFIXES, image_sample
from core.ingest.members import Container, open_members
from core.ingest.samples import Refused, Sample, Split
from core.specs.ingest import ConversionSpec, IngestLimits

LISTS = ("labels.csv", "labels.json")
SPLIT_COLUMN = "split"
_DELIMITERS = ",;\t"
_Row = tuple[str, tuple[object, object, object]]
"""Where it stands, for messages; file, class and split."""


def label_text(value: object, member: str) -> str:
    """A class as a text, from what a list or a JSON file has: a text or a whole number.

    Raises:
        Refused: it is neither, or empty.
    """
    if isinstance(value, str) and (text := value.strip()):
        return text
    if isinstance(value, int) and not isinstance(value, bool):
        return str(value)
    raise Refused("missing_label", "the class is empty, or neither a text nor a whole number", member)


class _List:
    """What a list says of each file."""

    def __init__(self, folder: str, limits: IngestLimits) -> None:
        self._folder, self._limits = folder, limits
        self._rows: dict[str, int] = {}
        self._codes = array("I")
        self._said: dict[tuple[Split, str], int] = {}

    def __len__(self) -> int:
        return len(self._rows)

    def add(self, file: object, label: object, split: object, where: str) -> None:
        if not isinstance(file, str):
            raise Refused("bad_labels", "the name of the file is not a text", where)
        if not isinstance(split, str) or split.strip().lower() not in ("", *SPLITS):
            raise Refused("unknown_split", f"the split is to be one of {', '.join(SPLITS)}, or empty", where)
        if len(self._rows) >= self._limits.max_members:
            raise Refused("too_many_members", f"the list has more than {self._limits.max_members} rows", where)
        name = _form(clean(file.strip()))
        if name in self._rows:
            raise Refused("duplicate_name", f"the list names {name!r} twice", where)
        said: tuple[Split, str] = SPLITS.get(split.strip().lower(), ""), label_text(label, where)
        self._rows[name] = len(self._codes)
        self._codes.append(self._said.setdefault(said, len(self._said)))

    def row(self, member: str) -> int | None:
        """The row of a member of the archive, counted from 0; None where the list does not name it."""
        name = member.removeprefix(self._folder)
        return None if len(name) + len(self._folder) != len(member) else self._rows.get(_form(name))

    def said(self) -> list[tuple[Split, str]]:
        """Split and class by code."""
        return list(self._said)

    def code(self, row: int) -> int:
        return self._codes[row]

    def name(self, row: int) -> str:
        return next(name for name, at in self._rows.items() if at == row)


class LabelsReader:
    """An archive of images and one list."""

    class_names: tuple[str, ...] = ()

    def __init__(self, path: Path, container: Container, conversion: ConversionSpec, limits: IngestLimits) -> None:
        self._path, self._container, self._conversion, self._limits = path, container, conversion, limits
        self._list: tuple[str, _List] | None = None
        self.notes: tuple[str, ...] = ()

    def samples(self) -> Iterator[Sample]:
        """Every listed image in the order of the archive; see `Reader`."""
        if self._list is None:
            self._list = self._read_list()
        list_name, rows = self._list
        said, seen, unlisted, side_files = rows.said(), bytearray(len(rows)), 0, SideFiles()
        for member in open_members(self._path, self._container, self._limits):
            if member.name == list_name:
                continue
            row = rows.row(member.name)
            if row is not None:
                seen[row] = 1
                split, label = said[rows.code(row)]
                yield image_sample(member.name, label, split, member.read(), self._limits)
            elif member.name.lower().endswith(SUFFIXES):
                unlisted += 1
            else:
                side_files.leave_out(member.name, SUFFIXES)
        if 0 in seen:
            raise Refused("missing_file", f"{list_name} names a file that the archive does not have", rows.name(seen.index(0)))
        note = (f"{unlisted} image(s) that {list_name} does not name were left out.",) if unlisted else ()
        self.notes = note + side_files.notes

    def _read_list(self) -> tuple[str, _List]:
        found: tuple[str, bytes] | None = None
        for member in open_members(self._path, self._container, self._limits):
            if member.name.rpartition("/")[2].lower() in LISTS:
                if found is not None:
                    raise Refused("several_lists", f"the archive has another list, {found[0]!r}; one is read", member.name)
                found = member.name, member.read()
        if found is None:
            raise Refused("missing_list", f"the archive has no list of labels, {' or '.join(LISTS)}")
        name, content = found
        folder, slash, _ = name.rpartition("/")
        rows = _List(folder + slash, self._limits)
        columns = (self._conversion.file_column, self._conversion.label_column)
        try:
            text = content.decode("utf-8-sig")
            parse = _csv_rows if name.lower().endswith(".csv") else _json_rows
            for where, values in parse(text, name, columns):
                rows.add(*values, where)
        except (ValueError, csv.Error, RecursionError) as error:
            raise Refused("bad_labels", f"the list cannot be read: {error}", name) from error
        if not len(rows):
            raise Refused("bad_labels", "the list has no rows", name)
        return name, rows


def _form(name: str) -> str:
    """Archives made on macOS decompose letters with accents, lists seldom do."""
    return name if name.isascii() else unicodedata.normalize("NFC", name)


def _csv_rows(text: str, name: str, columns: tuple[str, str]) -> Iterator[_Row]:
    header = text.partition("\n")[0]
    delimiter = max(_DELIMITERS, key=header.count)
    rows = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    names = [column.strip() for column in next(rows, [])]
    for column in columns:
        if names.count(column) != 1:
            raise Refused("bad_labels", f"the list needs one column {column!r}; it has {', '.join(names)[:200]}", name)
    file_at, label_at = map(names.index, columns)
    split_at = names.index(SPLIT_COLUMN) if SPLIT_COLUMN in names else -1
    for row in rows:
        where = f"{name}, line {rows.line_num}"
        if not row:
            continue
        if len(row) != len(names):
            raise Refused("bad_labels", f"the row has {len(row)} values, the header {len(names)}", where)
        yield where, (row[file_at], row[label_at], "" if split_at < 0 else row[split_at])


def _json_rows(text: str, name: str, columns: tuple[str, str]) -> Iterator[_Row]:
    """One object after another, so that no more than one is in memory."""
    decoder, blank = json.JSONDecoder(), re.compile(r"[ \t\r\n]*")

    def after_blanks(at: int) -> int:
        found = blank.match(text, at)
        assert found is not None
        return found.end()

    at, number, separator = after_blanks(0), 0, "["
    while text.startswith(separator, at):
        at = after_blanks(at + 1)
        if not number and text.startswith("]", at):
            break
        number, separator = number + 1, ","
        row, at = decoder.raw_decode(text, at)
        where = f"{name}, row {number}"
        if not isinstance(row, dict) or not set(columns) <= row.keys():
            raise Refused("bad_labels", f"every row is to be an object with {' and '.join(map(repr, columns))}", where)
        yield where, (row[columns[0]], row[columns[1]], row.get(SPLIT_COLUMN, ""))
        at = after_blanks(at)
    if not text.startswith("]", at) or after_blanks(at + 1) != len(text):
        raise Refused("bad_labels", "the list is not a JSON list of objects", name)
