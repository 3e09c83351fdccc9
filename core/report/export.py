"""The distilled dataset in three forms: safetensors in network space, a folder of PNGs in a zip, and parquet.

Network space is (x / 255 - mean) / std for each channel, or whitened. Only `data.safetensors` holds it; the PNGs, and the
parquet file that carries the same PNGs, hold its inverse, clamped and rounded to 8 bits. Equal arrays give equal bytes.
Shapes: N images, C channels, H W pixels.
"""

from __future__ import annotations

import io
import json
import re
import struct
import unicodedata
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray
from PIL import Image

from core.report.outcome import Outcome

_EPOCH = (1980, 1, 1, 0, 0, 0)  # the earliest time a zip file can hold
_DTYPES = {"<f4": "F32", "<i8": "I64"}


class Picture(NamedTuple):
    """One synthetic image as the 8-bit files hold it."""

    path: str
    """`<class folder>/<k>.png`, the same in the zip file and in the parquet column."""
    label: int
    png: bytes


def to_8bit(images: NDArray[np.float32], mean: Sequence[float], std: Sequence[float]) -> NDArray[np.uint8]:
    """Undo the normalisation, scale to 255, round and clamp, in the float32 steps by which the 8-bit score was measured.

    Args:
        images: (N, C, H, W) float32 in network space, finite.
        mean: per channel, of images scaled to [0, 1].
        std: per channel, likewise.

    Returns:
        (N, C, H, W) uint8.
    """
    assert np.isfinite(images).all(), "a diverged set is never exported"
    scale, shift = (np.asarray(values, np.float32).reshape(1, -1, 1, 1) for values in (std, mean))
    pixels: NDArray[np.float32] = np.rint((images * scale + shift) * np.float32(255.0)).clip(0.0, 255.0)
    return pixels.astype(np.uint8)


def to_pillow(image: NDArray[np.uint8]) -> Image.Image:
    """(C, H, W) uint8 with 1 or 3 channels as a Pillow image of mode L or RGB."""
    return Image.fromarray(image[0] if image.shape[0] == 1 else np.ascontiguousarray(image.transpose(1, 2, 0)))


def png_bytes(image: Image.Image) -> bytes:
    """Encode as PNG, without any metadata."""
    buffer = io.BytesIO()
    image.save(buffer, format="PNG")
    return buffer.getvalue()


def class_folder(index: int, name: str, num_classes: int) -> str:
    """Folder name of a class: its index, padded so that folders sort by class, and its name in safe ASCII."""
    plain = unicodedata.normalize("NFKD", name).encode("ascii", "ignore").decode()
    safe = re.sub(r"[^A-Za-z0-9.-]+", "_", plain).strip("._-")[:40]
    number = f"{index:0{len(str(num_classes - 1))}d}"
    return f"{number}_{safe}" if safe else number


def pictures(images: NDArray[np.uint8], labels: NDArray[np.int64], classes: Sequence[str]) -> Iterator[Picture]:
    """Name and encode every image, in the order of the arrays; k counts within a class."""
    width = len(str(max(np.bincount(labels).max() - 1, 0)))
    seen = [0] * len(classes)
    for image, label in zip(images, labels.tolist(), strict=True):
        path = f"{class_folder(label, classes[label], len(classes))}/{seen[label]:0{width}d}.png"
        seen[label] += 1
        yield Picture(path, label, png_bytes(to_pillow(image)))


def facts(outcome: Outcome) -> dict[str, Any]:
    """What every data file carries about itself, so that it never travels bare."""
    info = outcome.info
    about: dict[str, Any] = {"classes": list(info.classes), "dataset": info.name, "ipc": outcome.spec.ipc}
    if outcome.whitened is None:
        about |= {"mean": list(info.mean), "std": list(info.std)}
    else:
        about |= {"preprocessing": normalisation(outcome)["formula"]}
    return about if outcome.learned_rate is None else about | {"learned_rate": outcome.learned_rate}


def normalisation(outcome: Outcome) -> dict[str, Any]:
    """From the pixels of the 8-bit files to network space and back, for a person; and the constants, where they are few."""
    if outcome.whitened is None:
        return {
            "mean": list(outcome.info.mean), "std": list(outcome.info.std),
            "formula": "(pixel / 255 - mean) / std, per channel",
            "inverse": "clamp(round((value * std + mean) * 255), 0, 255), per channel",
        }
    return {
        "spec": outcome.spec.method.preprocessing.model_dump(mode="json"),
        "formula": "(pixel / 255 - whitening_mean) @ whitening_matrix, pixels flattened from (C, H, W); both arrays are in "
        "data.safetensors",
        "inverse": "clamp(round((value @ inverse(whitening_matrix) + whitening_mean) * 255), 0, 255)",
    }


def _compact(value: Any) -> str:
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False)


def write_safetensors(path: Path, arrays: Mapping[str, NDArray[Any]], metadata: Mapping[str, str]) -> None:
    """Write the safetensors format with a sorted header.

    The library keeps metadata in a hash map, so that its header differs from run to run. The format is a length, a JSON
    header padded to 8 bytes, and the arrays one after the other.
    """
    header: dict[str, Any] = {"__metadata__": dict(metadata)}
    offset = 0
    blobs = []
    for name in sorted(arrays):
        array = np.ascontiguousarray(arrays[name])
        array = array.astype(array.dtype.newbyteorder("<"), copy=False)
        end = offset + array.nbytes
        header[name] = {"dtype": _DTYPES[array.dtype.str], "shape": list(array.shape), "data_offsets": [offset, end]}
        offset = end
        blobs.append(array)
    text = _compact(header).encode()
    text += b" " * (-len(text) % 8)
    with path.open("wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        for array in blobs:
            file.write(array.tobytes())


def write_zip(path: Path, items: Sequence[Picture], about: Mapping[str, Any], soft: NDArray[np.float32] | None) -> None:
    """Write the PNGs uncompressed, with a fixed time; the archive's comment says how to normalise them.

    Soft labels, (N, K), stand in `soft_labels.csv` at the root: the path of an image and a number for each class.
    """
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as archive:
        # Class names stand in the folders, and a comment is limited to 64 KiB.
        archive.comment = _compact({key: value for key, value in about.items() if key != "classes"}).encode()
        files = [(item.path, item.png) for item in items]
        if soft is not None:
            rows = [",".join((item.path, *map(str, row))) for item, row in zip(items, soft, strict=True)]
            files.append(("soft_labels.csv", "".join(f"{row}\n" for row in rows).encode()))
        for name, content in files:
            entry = zipfile.ZipInfo(name, date_time=_EPOCH)
            entry.create_system = 3  # Unix, on every system
            entry.external_attr = 0o100644 << 16
            archive.writestr(entry, content)


def write_parquet(path: Path, items: Sequence[Picture], about: Mapping[str, Any], soft: NDArray[np.float32] | None) -> None:
    """Write columns `image` and `label` as Hugging Face's `datasets` reads them: PIL images and a class label with names.

    Soft labels, (N, K), are a third column, `soft_label`.
    """
    features: dict[str, Any] = {
        "image": {"_type": "Image"}, "label": {"names": list(about["classes"]), "_type": "ClassLabel"},
    }
    fields = [
        pa.field("image", pa.struct([pa.field("bytes", pa.binary()), pa.field("path", pa.string())])),
        pa.field("label", pa.int64()),
    ]
    columns: list[list[Any]] = [[{"bytes": item.png, "path": item.path} for item in items], [item.label for item in items]]
    if soft is not None:
        features["soft_label"] = {"feature": {"dtype": "float32", "_type": "Value"}, "length": soft.shape[1], "_type": "List"}
        fields.append(pa.field("soft_label", pa.list_(pa.float32(), soft.shape[1])))
        columns.append(list(soft))
    metadata = {"huggingface": json.dumps({"info": {"features": features}}), "distill": _compact(about)}
    schema = pa.schema(fields, metadata=metadata)
    arrays = [pa.array(column, type=field.type) for column, field in zip(columns, schema, strict=True)]
    # PNGs do not compress again, and a dictionary of distinct images is the column itself.
    pq.write_table(pa.Table.from_arrays(arrays, schema=schema), path, compression="none", use_dictionary=["label"])
