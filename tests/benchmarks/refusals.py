"""Every upload that the unit tests know to be refused: the attacks, and what the readers of arrays, rows and sounds refuse.

The latter are the tables of parametrised tests, read where they are, so that what is added there is measured as well.
"""

from __future__ import annotations

import json
import struct
import tempfile
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from core.specs.ingest import Format
from tests.unit.core.ingest import test_arrays as arrays
from tests.unit.core.ingest import test_audio as audio
from tests.unit.core.ingest import test_parquet as rows
from tests.unit.core.ingest.attacks import ARCHIVES, IMAGES
from tests.unit.core.ingest.files import zipped


class Refusal(NamedTuple):
    name: str
    format: Format
    make: Callable[[], bytes]
    code: str
    """Of the first problem."""


def every_refusal() -> Iterator[Refusal]:
    """All of them, in the order of the tests."""
    for name, attack in (ARCHIVES | IMAGES).items():
        yield Refusal(name, attack.format, attack.make, attack.code)
    yield from _of_arrays()
    yield from _of_rows()
    yield from _of_sounds()


def _table(test: Callable[..., Any]) -> Iterator[tuple[int, Any]]:
    """The rows of the only table of a parametrised test, numbered from 1."""
    (mark,) = [mark for mark in vars(test)["pytestmark"] if mark.name == "parametrize"]
    return enumerate(mark.args[1], 1)


def _file(write: Callable[[Path], object], name: str) -> bytes:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, name)
        write(path)
        return path.read_bytes()


def _of_arrays() -> Iterator[Refusal]:
    both, npz, safetensors = arrays.TestBothKinds, arrays.TestNpz, arrays.TestSafetensors
    kinds: tuple[Format, ...] = ("npz", "safetensors")
    for kind in kinds:
        def made(content: arrays.Arrays, kind: Format = kind) -> bytes:
            return _file(lambda path: arrays.write(path, content), f"x.{kind}")

        for number, (images, code) in _table(both.test_what_is_no_stack_of_images_is_refused):
            content = arrays.labelled(images, np.zeros(len(images), np.int64))
            yield Refusal(f"{kind}: no stack of images {number}", kind, partial(made, content), code)
        for number, (labels, code, _) in _table(both.test_labels_that_are_no_classes_are_refused):
            yield Refusal(f"{kind}: labels {number}", kind, partial(made, arrays.labelled(None, labels)), code)
    for number, (text, code) in _table(npz.test_hostile_headers_are_refused_before_the_data):
        members = arrays.npz_content() | {"images.npy": arrays.npy_claim(text, b"\0" * 540)}
        yield Refusal(f"npz: header {number}", "npz", partial(_npz_of, members), code)
    for number, (names, _) in _table(npz.test_names_that_name_nothing_are_refused):
        named = arrays.labelled() | {"class_names": names}
        yield Refusal(f"npz: names {number}", "npz", partial(_npz, named), "class_names")
    for number, (entries, code, _) in _table(safetensors.test_headers_that_lie_are_refused):
        said = {name: dict(zip(("dtype", "shape", "data_offsets"), entry, strict=True)) for name, entry in entries.items()}
        yield Refusal(f"safetensors: header {number}", "safetensors", partial(_raw, json.dumps(said).encode(), 588), code)
    for number, text in _table(safetensors.test_headers_of_another_form_are_refused):
        yield Refusal(f"safetensors: form {number}", "safetensors", partial(_raw, text, 0), "damaged_safetensors")


def _npz_of(members: dict[str, bytes]) -> bytes:
    return _file(lambda path: arrays.npz_of(path, members), "x.npz")


def _npz(content: arrays.Arrays) -> bytes:
    return _file(lambda path: arrays.npz(path, content), "x.npz")


def _raw(text: bytes, size: int) -> bytes:
    return struct.pack("<Q", len(text)) + text + b"\0" * size


def _of_rows() -> Iterator[Refusal]:
    one = rows.TestOneFile
    for number, (content, code) in _table(one.test_a_row_that_lacks_something_is_named):
        yield Refusal(f"parquet: row {number}", "parquet", partial(rows.content_of, content), code)
    for number, (metadata, code) in _table(one.test_names_that_name_nothing_are_refused):
        named = rows.table().replace_schema_metadata(metadata)
        yield Refusal(f"parquet: names {number}", "parquet", partial(rows.content_of, named), code)


def _of_sounds() -> Iterator[Refusal]:
    for kind, test in (
        ("damaged", audio.TestWav.test_damaged_files_are_corrupt_and_named),
        ("rule", audio.TestWav.test_files_beyond_the_rules_are_refused_and_named),
    ):
        for number, (content, code) in _table(test):
            yield Refusal(f"audio: {kind} {number}", "audiofolder_zip", partial(_recordings, content), code)


def _recordings(other: bytes) -> bytes:
    """Two classes, and one recording more."""
    sound = audio.wav(audio.pcm16(audio.noise(2000)))
    return zipped({f"{label}/{i}.wav": sound for label in "ab" for i in range(3)} | {"a/9.wav": other})
