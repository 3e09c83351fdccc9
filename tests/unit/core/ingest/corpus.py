"""Damaged uploads of every format, each decided by its number alone."""

from __future__ import annotations

import io
import random
import wave
from collections.abc import Callable
from functools import cache
from typing import Literal, get_args

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from safetensors.numpy import save

from core.specs.ingest import Format
from tests.unit.core.ingest.files import Content, encoded, folders, jpeg, pixels, png, tarred, zipped
from tests.unit.core.ingest.mutations import mutated

FORMATS: tuple[Format, ...] = get_args(Format)
_COMPRESSIONS: tuple[Literal["", "gz", "bz2", "xz"], ...] = ("", "gz", "bz2", "xz")


def _images() -> dict[str, bytes]:
    webp = {f"{k}/w.webp": encoded(pixels(13, 9, 3, seed), "WEBP") for seed, k in enumerate("ab")}
    return folders("ab", 2) | {"a/j.jpg": jpeg(3), "b/j.jpg": jpeg(4, 30, 50, 1), "LICENSE": b"mine"} | webp


def _labelled() -> dict[str, bytes]:
    images = {f"{i}.png": png(i) for i in range(4)}
    return images | {"labels.csv": b"file,label,split\n0.png,a,train\n1.png,b,train\n2.png,a,test\n3.png,b,test\n"}


def _labelled_in_json() -> dict[str, bytes]:
    rows = b", ".join(b'{"file": "%d.jpg", "label": %d}' % (i, i % 2) for i in range(4))
    return {f"{i}.jpg": jpeg(i) for i in range(4)} | {"labels.json": b"[" + rows + b"]"}


def _keys() -> dict[str, bytes]:
    said = [(f"{i}.cls", b"%d" % (i % 2)) if i % 3 else (f"{i}.json", b'{"label": %d}' % (i % 2)) for i in range(5)]
    return dict(part for i, label in enumerate(said) for part in ((f"{i}.jpg", jpeg(i)), label))


def _recordings() -> dict[str, bytes]:
    def recording(seed: int) -> bytes:
        stream = io.BytesIO()
        with wave.open(stream, "wb") as file:
            file.setparams((1, 2, 8000, 0, "NONE", ""))
            file.writeframes((np.sin(np.arange(2000) / (seed + 2)) * 9000).astype("<i2").tobytes())
        return stream.getvalue()

    return {f"{k}/{i}.wav": recording(2 * i + seed) for seed, k in enumerate("ab") for i in range(2)}


def _arrays() -> dict[str, np.ndarray]:
    return {"images": np.stack([pixels(9, 9, 1, i)[:, :, 0] for i in range(6)]), "labels": np.arange(6) % 2}


def _npz() -> bytes:
    stream = io.BytesIO()
    np.savez_compressed(stream, **_arrays())
    return stream.getvalue()


def _parquet() -> bytes:
    rows = [{"image": {"bytes": png(i), "path": f"{i}.png"}, "label": i % 2} for i in range(6)]
    stream = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(rows), stream)
    return stream.getvalue()


def _shards() -> dict[str, bytes]:
    return {"train-0.parquet": _parquet(), "test-0.parquet": _parquet()}


_ARCHIVED: dict[Format, Callable[[], Content]] = {
    "imagefolder_zip": _images, "imagefolder_tar": _images, "labels_zip": _labelled, "labels_tar": _labelled_in_json,
    "webdataset_tar": _keys, "parquet_tar": _shards, "audiofolder_zip": _recordings, "audiofolder_tar": _recordings,
}
_PLAIN: dict[Format, Callable[[], bytes]] = {"npz": _npz, "safetensors": lambda: save(_arrays()), "parquet": _parquet}


@cache
def _content(format: Format) -> Content:
    return _ARCHIVED[format]()


@cache
def _whole(format: Format, compression: Literal["", "gz", "bz2", "xz"] = "") -> bytes:
    if format in _PLAIN:
        return _PLAIN[format]()
    return zipped(_content(format)) if format.endswith("_zip") else tarred(_content(format), compression)


def whole(format: Format) -> bytes:
    """An upload that is well."""
    return _whole(format)


def fuzzed(number: int) -> tuple[Format, bytes]:
    """A format and an upload that is not."""
    rng = random.Random(number)
    format = FORMATS[number % len(FORMATS)]
    if format in _ARCHIVED and rng.random() < 0.4:
        return format, _with_a_broken_member(format, rng)
    content = _whole(format, rng.choice(_COMPRESSIONS) if format.endswith("_tar") else "")
    if rng.random() < 0.15:
        return format, _spliced(content, _whole(rng.choice(FORMATS)), rng)
    return format, next(mutated(content, rng.randrange(1 << 32), 1))


def _with_a_broken_member(format: Format, rng: random.Random) -> bytes:
    """What the checksums of the archive do not tell."""
    content = dict(_content(format))
    name = rng.choice(list(content))
    content[name] = next(mutated(content[name], rng.randrange(1 << 32), 1))
    return zipped(content) if format.endswith("_zip") else tarred(content)


def _spliced(one: bytes, other: bytes, rng: random.Random) -> bytes:
    """The beginning of one file, then some of another, then maybe the end of the first."""
    at, start = rng.randrange(len(one)), rng.randrange(len(other))
    piece = other[start : start + rng.choice((30, 512, 4096, 1 << 20))]
    return one[:at] + piece + (one[at + rng.choice((0, len(piece))) :] if rng.random() < 0.7 else b"")
