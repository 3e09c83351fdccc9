"""Arrays of images and labels, in an npz or a safetensors file.

Headers and labels are read first, so that a file is refused before one of its images is read. Images then come in blocks, once
from the beginning to the end: what is in memory does not grow with the file.

Shapes: N images, H W pixels, C channels.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from core.ingest.array_header import ArrayFile, ArrayHeader
from core.ingest.folders import SPLITS
from core.ingest.npz_file import NpzFile
from core.ingest.safetensors_file import SafetensorsFile
from core.ingest.samples import Refused, Sample, Size, Split
from core.specs.ingest import MIN_SIDE, ConversionSpec, IngestLimits

BLOCK_BYTES = 4 << 20
"""Of images that are in memory at once, as they are stored; at least one image."""
MAX_CHANNELS = 4
MAX_LABEL = 2**31 - 1
UNSPLIT = "images"
CLASS_NAMES = "class_names"


class _Part(NamedTuple):
    """The images of one split, or all of them."""

    images: ArrayHeader
    labels: ArrayHeader
    split: Split
    size: Size
    channels_first: bool


class _ArrayReader:
    """What both kinds of file have in common."""

    def __init__(self, file: ArrayFile, limits: IngestLimits) -> None:
        """Check every header and read the labels.

        Raises:
            Refused: arrays are missing, unknown, do not fit each other, or break a limit.
        """
        self._file = file
        self._parts = _parts(file.headers, limits)
        self._labels = [_labels(file, part) for part in self._parts]
        validation = [part.images.name for part in self._parts if part.split == "test" and part.images.name != "test_images"]
        self.notes = tuple(f"{name} belongs to the test split." for name in validation)
        numbers = sorted({int(label) for labels in self._labels for label in np.unique(labels)})
        if len(numbers) > limits.max_classes:
            raise Refused(
                "too_many_classes", f"the labels have {len(numbers)} different values; at most {limits.max_classes} may be"
            )
        self._names = _names(file, numbers, limits)
        self.class_names: tuple[str, ...] = tuple(self._names.values()) if CLASS_NAMES in file.headers else ()

    def samples(self) -> Iterator[Sample]:
        """Every image of the training arrays, then of the others.

        Raises:
            Refused: the file is damaged, or a floating-point image has a value outside [0, 1].
        """
        for part, labels in zip(self._parts, self._labels, strict=True):
            for index, (image, label) in enumerate(zip(self._images(part), labels.tolist(), strict=True)):
                yield Sample(
                    f"{part.images.name}[{index}]", self._names[label], part.split, part.size, partial(_decoded, image, part)
                )

    def _images(self, part: _Part) -> Iterator[NDArray[Any]]:
        """Each image as it is stored, without its N."""
        header = part.images
        row = header.dtype.itemsize * math.prod(header.shape[1:])
        rows = max(1, BLOCK_BYTES // row)
        with self._file.open(header.name) as stream:
            for first in range(0, header.shape[0], rows):
                count = min(rows, header.shape[0] - first)
                block = _elements(stream.read, header, count * row).reshape(count, *header.shape[1:])
                _require_unit_range(block, header.name, first)
                yield from block


class NpzReader(_ArrayReader):
    """A `.npz` file, compressed or not."""

    def __init__(self, path: Path, _conversion: ConversionSpec, limits: IngestLimits) -> None:
        """Check every header and read the labels.

        Raises:
            Refused: the file, one of its headers or its labels break a rule.
        """
        super().__init__(NpzFile(path, limits), limits)


class SafetensorsReader(_ArrayReader):
    """A `.safetensors` file. Its classes have no names: it cannot hold text."""

    def __init__(self, path: Path, _conversion: ConversionSpec, limits: IngestLimits) -> None:
        """Check every header and read the labels.

        Raises:
            Refused: the file, one of its headers or its labels break a rule.
        """
        super().__init__(SafetensorsFile(path, limits), limits)


def _parts(headers: dict[str, ArrayHeader], limits: IngestLimits) -> list[_Part]:
    expected = {f"{split}_images": f"{split}_labels" for split in SPLITS} | {UNSPLIT: "labels"}
    for name in sorted(headers):
        if name not in {*expected, *expected.values(), CLASS_NAMES}:
            raise Refused(
                "unknown_array",
                "no array may have this name; known are train_images, train_labels, the same with test and val, images, labels "
                "and class_names",
                name,
            )
    present = [images for images, labels in expected.items() if images in headers or labels in headers]
    if UNSPLIT in present and len(present) > 1:
        raise Refused("mixed_splits", "the file has images of named splits, such as train_images, and others", UNSPLIT)
    if UNSPLIT not in present and "train_images" not in present:
        raise Refused("missing_array", "the file has neither train_images and train_labels nor images and labels")
    parts = []
    for images in present:
        for name in (images, expected[images]):
            if name not in headers:
                raise Refused("missing_array", f"the file has {images} or {expected[images]}, but not both", name)
        split = SPLITS[images.removesuffix("_images")] if images != UNSPLIT else ""
        parts.append(_part(headers[images], headers[expected[images]], split, limits))
    count = sum(part.images.shape[0] for part in parts)
    elements = sum(math.prod(part.images.shape) for part in parts)
    if count > limits.max_members:
        raise Refused("too_many_images", f"the file has {count} images; at most {limits.max_members} may be")
    if elements > limits.max_canonical_bytes:
        raise Refused(
            "too_large", f"the images have {elements} values of a byte each; at most {limits.max_canonical_bytes} may be"
        )
    return parts


def _part(images: ArrayHeader, labels: ArrayHeader, split: Split, limits: IngestLimits) -> _Part:
    if images.dtype.kind not in "uf" or (images.dtype.kind == "u" and images.dtype.itemsize > 1):
        raise Refused("unsupported_dtype", f"images are uint8 or float16 to float64, not {images.dtype.name}", images.name)
    if labels.dtype.kind not in "ui":
        raise Refused("unsupported_dtype", f"labels are whole numbers, not {labels.dtype.name}", labels.name)
    if images.fortran_order:
        raise Refused("fortran_order", "the images are in Fortran order; save numpy.ascontiguousarray of them", images.name)
    size, channels_first = _size(images, limits)
    count = images.shape[0]
    if count == 0:
        raise Refused("empty_array", "the array has no images", images.name)
    if labels.shape not in ((count,), (count, 1)):
        raise Refused("label_count", f"the labels are {_text(labels.shape)}; {count} images need ({count})", labels.name)
    return _Part(images, labels, split, size, channels_first)


def _size(images: ArrayHeader, limits: IngestLimits) -> tuple[Size, bool]:
    """Size of each image, and whether channels come before pixels."""
    channels_first = False
    match images.shape:
        case (_, height, width):
            size = Size(height, width, 1)
        case (_, first, middle, last):
            channels_first = 1 <= first <= MAX_CHANNELS
            if channels_first and 1 <= last <= MAX_CHANNELS:
                raise Refused(
                    "ambiguous_layout",
                    f"the shape {_text(images.shape)} does not tell channels from pixels: the first and the last axis of an "
                    f"image are both {MAX_CHANNELS} or less",
                    images.name,
                )
            if not channels_first and not 1 <= last <= MAX_CHANNELS:
                raise Refused(
                    "unsupported_shape",
                    f"the shape {_text(images.shape)} has no axis of 1 to {MAX_CHANNELS} channels, second or last",
                    images.name,
                )
            size = Size(middle, last, first) if channels_first else Size(first, middle, last)
        case _:
            raise Refused(
                "unsupported_shape",
                f"the shape {_text(images.shape)} is none of (N, H, W), (N, H, W, C) and (N, C, H, W)",
                images.name,
            )
    if not all(MIN_SIDE <= side <= limits.max_side for side in size[:2]) or size.height * size.width > limits.max_pixels:
        raise Refused(
            "image_size",
            f"the images have {_text(size[:2])} pixels; {MIN_SIDE} to {limits.max_side} a side may be, and {limits.max_pixels} "
            "in all",
            images.name,
        )
    return size, channels_first


def _labels(file: ArrayFile, part: _Part) -> NDArray[np.int64]:
    """(N,) int64, none of them negative."""
    header = part.labels
    with file.open(header.name) as stream:
        stored = _elements(stream.read, header, part.images.shape[0] * header.dtype.itemsize)
    unfit = np.flatnonzero((stored < 0) | (stored > MAX_LABEL))
    if unfit.size:
        raise Refused(
            "label_range", f"the label is {stored[unfit[0]]}; labels are 0 to {MAX_LABEL}", f"{header.name}[{unfit[0]}]"
        )
    return stored.astype(np.int64)


def _names(file: ArrayFile, numbers: list[int], limits: IngestLimits) -> dict[int, str]:
    """The name of each class that occurs, in the order of their numbers."""
    if CLASS_NAMES not in file.headers:
        return {number: str(number) for number in numbers}
    header = file.headers[CLASS_NAMES]
    if header.dtype.kind != "U" or len(header.shape) != 1:
        raise Refused("class_names", "class_names is a row of text of fixed width", CLASS_NAMES)
    if header.dtype.itemsize > 4 * limits.max_class_name:
        raise Refused("class_names", f"names of classes have at most {limits.max_class_name} characters", CLASS_NAMES)
    if header.shape[0] > limits.max_classes:
        raise Refused("too_many_classes", f"it has {header.shape[0]} names; at most {limits.max_classes} may be", CLASS_NAMES)
    width, order = header.dtype.itemsize, "be" if header.dtype.str[0] == ">" else "le"
    with file.open(CLASS_NAMES) as stream:
        stored = _exactly(stream.read, CLASS_NAMES, header.shape[0] * width)
    names: list[str] = []
    for index in range(header.shape[0]):
        try:  # numpy's own conversion fails with SystemError where a code is none of Unicode's
            name = stored[index * width : (index + 1) * width].decode(f"utf-32-{order}").rstrip("\0")
        except UnicodeDecodeError as error:
            raise Refused("class_names", "the name is no text", f"{CLASS_NAMES}[{index}]") from error
        if not name or not name.isprintable() or name in names:
            raise Refused("class_names", "the name is empty, not printable, or there twice", f"{CLASS_NAMES}[{index}]")
        names.append(name)
    if numbers[-1] >= len(names):
        raise Refused("class_names", f"the label {numbers[-1]} has no name; there are {len(names)}, from 0 on", CLASS_NAMES)
    return {number: names[number] for number in numbers}


def _elements(read: Callable[[int], bytes], header: ArrayHeader, size: int) -> NDArray[Any]:
    """The next `size` bytes of an array, flat."""
    return np.frombuffer(_exactly(read, header.name, size), header.dtype)


def _exactly(read: Callable[[int], bytes], name: str, size: int) -> bytes:
    data = read(size)
    if len(data) != size:
        raise Refused("truncated_array", "the array ends before its last element", name)
    return data


def _require_unit_range(block: NDArray[Any], name: str, first: int) -> None:
    """Refuse floating-point images with a value that is not in [0, 1]; (N, ...), the first of them number `first`."""
    if block.dtype.kind != "f":
        return
    with np.errstate(invalid="ignore"):
        fine = ((block >= 0) & (block <= 1)).reshape(len(block), -1).all(axis=1)  # False for NaN
    if not fine.all():
        index = int(np.argmin(fine))
        finite = bool(np.isfinite(block[index]).all())
        reason = "a value outside [0, 1]; divide by the largest possible one, or store uint8" if finite else "a NaN or infinity"
        raise Refused("value_range", f"the image has {reason}", f"{name}[{first + index}]")


def _decoded(stored: NDArray[Any], part: _Part) -> NDArray[np.uint8]:
    """(H, W, C) uint8 from an image as it is stored."""
    image = stored.reshape(part.size) if stored.ndim == 2 else np.moveaxis(stored, 0, -1) if part.channels_first else stored
    if image.dtype.kind == "f":
        # Half precision alone would be off by up to 1/16 after the product.
        image = np.rint(image.astype(np.promote_types(image.dtype, np.float32)) * 255)
    return np.array(image, dtype=np.uint8, order="C")


def _text(shape: tuple[int, ...]) -> str:
    """At most five axes, for a message."""
    return " x ".join([*map(str, shape[:5]), *["..."] * (len(shape) > 5)]) or "of no axis"
