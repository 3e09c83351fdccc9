"""From the format of an upload to its reader."""

from __future__ import annotations

from pathlib import Path
from typing import Protocol, assert_never, runtime_checkable

from core.ingest.imagefolder import ImageFolderReader
from core.ingest.labels import LabelsReader
from core.ingest.samples import Reader
from core.ingest.webdataset import WebDatasetReader
from core.specs.ingest import IngestLimits, IngestSpec


@runtime_checkable
class Noting(Protocol):
    """A reader that has something to say to the user when all samples were read."""

    notes: tuple[str, ...]


def reader_of(spec: IngestSpec, path: Path, limits: IngestLimits) -> Reader:
    """The reader of an upload that lies at `path`. Libraries that only one format needs are loaded for that format alone."""
    conversion = spec.conversion
    match spec.format:
        case "imagefolder_zip":
            return ImageFolderReader(path, "zip", conversion, limits)
        case "imagefolder_tar":
            return ImageFolderReader(path, "tar", conversion, limits)
        case "labels_zip":
            return LabelsReader(path, "zip", conversion, limits)
        case "labels_tar":
            return LabelsReader(path, "tar", conversion, limits)
        case "webdataset_tar":
            return WebDatasetReader(path, conversion, limits)
        case "npz":
            from core.ingest.arrays import NpzReader

            return NpzReader(path, conversion, limits)
        case "safetensors":
            from core.ingest.arrays import SafetensorsReader

            return SafetensorsReader(path, conversion, limits)
        case "parquet" | "parquet_tar":
            from core.ingest.parquet import ParquetReader

            return ParquetReader(path, conversion, limits, tar=spec.format == "parquet_tar")
        case "audiofolder_zip" | "audiofolder_tar":
            from core.ingest.audio import AudioReader

            return AudioReader(path, "zip" if spec.format == "audiofolder_zip" else "tar", conversion, limits)
        case _:
            assert_never(spec.format)


def notes_of(reader: Reader) -> tuple[str, ...]:
    """What the reader says when all its samples were read."""
    return reader.notes if isinstance(reader, Noting) else ()
