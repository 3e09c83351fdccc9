"""Readers as the child uses them, in this process: a spec of any format, and what became of its files."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import pytest

from core.errors import DatasetRejectedError
from core.ingest.build import reader_of
from core.ingest.convert import Converted, assemble, decode_all
from core.ingest.samples import Reader, Refused
from core.ingest.verdict import problems_of, rejected
from core.progress import Hooks
from core.specs.ingest import Format, IngestLimits, IngestProblem, IngestSpec
from tests.unit.core.ingest.files import left_in


def ingest(content: bytes, format: Format, **conversion: Any) -> IngestSpec:
    return IngestSpec.model_validate({
        "dataset_id": "ds_1", "title": "Mine", "upload_id": "upl_1", "filename": "mine.zip", "size_bytes": len(content),
        "sha256": hashlib.sha256(content).hexdigest(), "format": format, "conversion": conversion,
    })


def reader(folder: Path, content: bytes, format: Format, limits: IngestLimits | None = None, **conversion: Any) -> Reader:
    path = folder / "upload"
    path.write_bytes(content)
    return reader_of(ingest(content, format, **conversion), path, limits or IngestLimits())


def converted(
    folder: Path, content: bytes, format: Format, limits: IngestLimits | None = None, threads: int = 1, **conversion: Any
) -> Converted:
    """The arrays, which are maps of files in the folder."""
    spec, limits = ingest(content, format, **conversion), limits or IngestLimits()
    try:
        made = reader(folder, content, format, limits, **conversion)
        decoded = decode_all(made, spec.conversion, limits, folder / "images", Hooks(), threads)
    except Refused as refusal:
        raise rejected([refusal.problem], limits) from refusal
    return assemble(decoded, spec.conversion, folder / "images", Hooks())


def problems(
    folder: Path, content: bytes, format: Format, limits: IngestLimits | None = None, **conversion: Any
) -> list[IngestProblem]:
    """Why the files are refused; nothing but the upload and decoded images lies in the folder then."""
    with pytest.raises(DatasetRejectedError) as caught:
        converted(folder, content, format, limits, **conversion)
    assert set(left_in(folder)) <= {"upload", "images"}
    return problems_of(caught.value)
