"""The rows of one parquet file: an encoded image, a class, and perhaps a split.

A row group is read in small batches of the columns that are asked for. What a file says of itself is checked against the limits
first; what it says wrongly ends in an exception of pyarrow, or in the memory limit of the process. pyarrow is large and written
in C++: the child that reads is locked down for what is not an exception.
"""

from __future__ import annotations

import errno
import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

from core.ingest.entries import max_inflated, too_large, too_much
from core.ingest.folders import SPLITS
from core.ingest.labels import label_text
from core.ingest.samples import Refused, Split
from core.specs.ingest import ConversionSpec, IngestLimits

MAX_ROW_GROUP_BYTES = 1 << 30
"""Uncompressed, as the file claims."""
MAX_FOOTER_BYTES = 64 << 20
MAX_METADATA_BYTES = 1 << 20
BATCH_ROWS = 32
"""A dictionary lets a small page give the same large image to each row: a batch may take this many times the largest image."""
SPLIT_COLUMN = "split"
MAGIC = b"PAR1"


class Row(NamedTuple):
    where: str
    """For messages."""
    image: bytes
    """Encoded."""
    label: str
    split: Split
    """Empty where the file does not say."""


class ParquetRows:
    """One file, open. To be closed by `with`."""

    def __init__(self, source: Path | bytes, member: str, conversion: ConversionSpec, limits: IngestLimits) -> None:
        """Read and check the footer.

        Args:
            source: the file, or its content.
            member: its name in an archive, or empty.
            conversion: names the columns.
            limits: of the installation.

        Raises:
            Refused: the file is damaged, lacks a column, or claims more than the limits allow.
        """
        self._member, self._limits = member, limits
        with self._reading():
            raw = pa.BufferReader(source) if isinstance(source, bytes) else pa.OSFile(str(source))
            self._size: int = raw.size()
            self._require_footer(raw)
            self._file = pq.ParquetFile(raw, pre_buffer=False, buffer_size=1 << 20, page_checksum_verification=True)
            schema: pa.Schema = self._file.schema_arrow
            metadata = self._file.metadata
            groups = [metadata.row_group(i) for i in range(metadata.num_row_groups)]
            self.num_rows: int = metadata.num_rows
            claims: list[tuple[int, int]] = [(group.num_rows, group.total_byte_size) for group in groups]
        self._require_plausible(claims)
        self._image, self._label = conversion.image_column, conversion.label_column
        self._image_path = self._path_of_bytes(schema)
        label_type = self._type(schema, self._label)
        if not (_is_text(label_type) or pa.types.is_integer(label_type)):
            raise self._refused(
                "unsupported_column", f"the column {self._label!a} holds {_said(label_type)}; a class is text or a whole number"
            )
        self._split = SPLIT_COLUMN if SPLIT_COLUMN in set(schema.names) - {self._image, self._label} else None
        if self._split and not _is_text(self._type(schema, self._split)):
            raise self._refused("unsupported_column", f"the column {SPLIT_COLUMN!a} is to hold text such as train and test")
        self.class_names: tuple[str, ...] = self._stated_names(schema) if pa.types.is_integer(label_type) else ()
        """Of the classes that numbers mean, as Hugging Face's libraries state them; empty: the file does not say."""

    def __enter__(self) -> ParquetRows:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close(force=True)

    def rows(self) -> Iterator[Row]:
        """Every row in order.

        Raises:
            Refused: the file is damaged, or a row lacks its image or class, or has one that breaks a rule.
        """
        names = [self._image, self._label, *([self._split] if self._split else [])]
        allowed = max_inflated(self._size, self._limits)
        index = total = 0
        with self._reading():
            batches = self._file.iter_batches(BATCH_ROWS, columns=[self._image_path, *names[1:]], use_threads=False)
        while True:
            with self._reading():
                batch: pa.RecordBatch | None = next(batches, None)
                if batch is None:
                    break
                batch.validate(full=True)  # text is UTF-8, and indices are those of a dictionary
                images = batch.column(self._image)
                images = images.field("bytes") if pa.types.is_struct(images.type) else images
                columns = [images, *(batch.column(name) for name in names[1:])]
            for place in range(batch.num_rows):
                image, label, *split = (column[place].as_py() for column in columns)
                row = self._row(index, image, label, split)
                total += len(row.image)
                if total > allowed:
                    raise too_much(allowed, row.where)
                yield row
                index += 1
        if index != self.num_rows:
            raise self._refused("damaged_parquet", f"the file has {index} rows and claims {self.num_rows}")

    def _row(self, index: int, image: bytes | None, label: str | int | None, split: list[str | None]) -> Row:
        where = f"{self._member}:row {index}" if self._member else f"row {index}"
        if not image:
            raise Refused("missing_image", f"the row has no bytes in the column {self._image!a}", where)
        if len(image) > self._limits.max_member_bytes:
            raise too_large(self._limits, where)
        if isinstance(label, int) and (label < 0 or (self.class_names and label >= len(self.class_names))):
            raise Refused("label_range", f"the class {label} is negative or has no name; each row is to have a class", where)
        text = self.class_names[label] if isinstance(label, int) and self.class_names else label_text(label, where)
        named = (split[0] or "").strip().lower() if split else ""
        if named and named not in SPLITS:
            raise Refused("unknown_split", f"the split is to be one of {', '.join(SPLITS)}, or empty", where)
        return Row(where, image, text, SPLITS.get(named, ""))

    def _refused(self, code: str, message: str) -> Refused:
        return Refused(code, message, self._member)

    @contextmanager
    def _reading(self) -> Iterator[None]:
        """Refuse the file for whatever pyarrow says of it."""
        try:
            yield
        except (pa.ArrowException, OSError, ValueError, MemoryError) as error:
            if isinstance(error, OSError) and error.errno not in (None, errno.EINVAL):
                raise  # of the disk, and not of the file; EINVAL is the answer to an offset before its beginning
            raise self._refused("damaged_parquet", f"the file is damaged ({ascii(str(error))[1:-1][:120]})") from error

    def _require_footer(self, raw: pa.NativeFile) -> None:
        if self._size < 12:
            raise self._refused("damaged_parquet", "the file is shorter than any parquet file")
        raw.seek(self._size - 8)
        end: bytes = raw.read(8)
        if end[4:] != MAGIC:
            raise self._refused("damaged_parquet", "the file does not end as parquet does; it may be cut off, or encrypted")
        length = int.from_bytes(end[:4], "little")
        if length > min(MAX_FOOTER_BYTES, self._size - 12):
            raise self._refused("damaged_parquet", f"the footer claims {length} bytes, more than there are or may be")
        raw.seek(0)

    def _require_plausible(self, claims: list[tuple[int, int]]) -> None:
        """Compare rows and bytes of each row group, as the footer gives them, with the limits and with each other."""
        rows, sizes = [rows for rows, _ in claims], [size for _, size in claims]
        if min(rows + sizes, default=0) < 0 or sum(rows) != self.num_rows:
            raise self._refused("damaged_parquet", "the numbers in the footer contradict each other")
        if self.num_rows > self._limits.max_members:
            raise self._refused("too_many_images", f"there are {self.num_rows} rows; at most {self._limits.max_members} may be")
        if max(sizes, default=0) > MAX_ROW_GROUP_BYTES:
            raise self._refused(
                "row_group_too_large", f"a row group has {max(sizes)} bytes; at most {MAX_ROW_GROUP_BYTES} may be"
            )
        if sum(sizes) > (allowed := max_inflated(self._size, self._limits)):
            raise too_much(allowed, self._member)

    def _type(self, schema: pa.Schema, name: str) -> Any:
        """Type of a column, that of its values where it is a dictionary."""
        if schema.names.count(name) != 1:
            raise self._refused("missing_column", f"the file is to have one column {name!a}")
        kind = schema.field(name).type
        return kind.value_type if pa.types.is_dictionary(kind) else kind

    def _path_of_bytes(self, schema: pa.Schema) -> str:
        """Where encoded images lie: a column of bytes, or the `bytes` of a struct."""
        kind = self._type(schema, self._image)
        if _is_bytes(kind):
            return self._image
        if pa.types.is_struct(kind) and [_is_bytes(field.type) for field in kind if field.name == "bytes"] == [True]:
            return f"{self._image}.bytes"
        raise self._refused(
            "unsupported_column",
            f"the column {self._image!a} holds {_said(kind)}; images are bytes of PNG, JPEG or WebP, or a struct with `bytes`",
        )

    def _stated_names(self, schema: pa.Schema) -> tuple[str, ...]:
        stated = (schema.metadata or {}).get(b"huggingface", b"{}")
        if len(stated) > MAX_METADATA_BYTES:
            raise self._refused("damaged_parquet", f"the metadata of Hugging Face takes more than {MAX_METADATA_BYTES} bytes")
        try:
            found = json.loads(stated)
        except (ValueError, RecursionError) as error:
            raise self._refused("damaged_parquet", "the metadata of Hugging Face is not JSON") from error
        for key in ("info", "features", self._label, "names"):
            found = found.get(key) if isinstance(found, dict) else None
        if found is None:
            return ()
        named = isinstance(found, list) and all(isinstance(name, str) and name.isprintable() and name for name in found)
        if not named or len(set(found)) < len(found):
            raise self._refused("class_names", "the names of the classes in the metadata are no list of different names")
        return tuple(found)


def _said(kind: Any) -> str:
    """A type, for a message: names of fields are the user's."""
    return ascii(str(kind))[1:-1][:60]


def _is_text(kind: Any) -> bool:
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind))


def _is_bytes(kind: Any) -> bool:
    return bool(pa.types.is_binary(kind) or pa.types.is_large_binary(kind))
