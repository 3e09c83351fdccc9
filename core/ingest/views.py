"""What a person sees of a data set: `samples.json`, single images of each class, and `samples.png`, a grid of them.

Shapes: N images, C channels, S height and width in pixels. Of two channels the first is shown, of four the first three.
"""

from __future__ import annotations

import base64
import io
from collections.abc import Iterator, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from core.data.named.raw import RawSplits
from core.specs.ingest import SampleView

PER_CLASS = 16
"""Images of each class and split in `samples.json`."""
MAX_VIEWS = 4000
MAX_VIEW_BYTES = 8 << 20
"""Pixels of all views together: large images get fewer."""

_COLUMNS, _ROWS = 10, 20
_TILE = 56
"""Side of an image in the grid, in pixels, at least; small ones are enlarged by a whole factor."""
_GAP, _MARGIN, _LABEL = 4, 16, 150
_FONT_SIZE = 13
_MAX_LABEL = 22
_PAPER, _INK = (255, 255, 255), (29, 33, 41)


class _View(NamedTuple):
    rank: int
    """Within its class and split, from 0."""
    split: Literal["train", "test"]
    label: int
    position: int
    """In the arrays of its split."""


def write_samples(splits: RawSplits, num_classes: int, path: Path) -> None:
    """Write `samples.json`: the first images of each class and split, as many of each as fit into all limits."""
    views = [
        _View(rank, split, label, position)
        for split, labels in _labels(splits)
        for label, positions in enumerate(first_of_each(labels, num_classes, PER_CLASS))
        for rank, position in enumerate(positions.tolist())
    ]
    # By rank, so that a limit takes the last image of every class before it takes the second of any.
    views.sort(key=lambda view: (view.rank, view.split == "test", view.label))
    shown = views[: min(MAX_VIEWS, MAX_VIEW_BYTES // splits.train_images[0].nbytes)]
    shown.sort(key=lambda view: (view.split == "test", view.label, view.rank))
    with path.open("w") as file:
        for at, view in enumerate(shown):
            images = splits.train_images if view.split == "train" else splits.test_images
            png = base64.b64encode(_png(images[view.position])).decode()
            file.write(("," if at else "[") + SampleView(split=view.split, label=view.label, png=png).model_dump_json())
        file.write("]")


def write_grid(splits: RawSplits, classes: Sequence[str], path: Path) -> None:
    """Write `samples.png`: a row with the name and the first training images of each class, of the first classes."""
    side = splits.train_images.shape[2]
    tile = side * max(1, _TILE // side) if side <= _TILE else _TILE
    rows = first_of_each(splits.train_labels, len(classes), _COLUMNS)[:_ROWS]
    width = 2 * _MARGIN + _LABEL + max(map(len, rows)) * (tile + _GAP) - _GAP
    grid = Image.new("RGB", (width, 2 * _MARGIN + len(rows) * (tile + _GAP) - _GAP), _PAPER)
    draw, font = ImageDraw.Draw(grid), ImageFont.load_default(_FONT_SIZE)
    smooth = Image.Resampling.NEAREST if side <= _TILE else Image.Resampling.LANCZOS
    for row, positions in enumerate(rows):
        y = _MARGIN + row * (tile + _GAP)
        draw.text((_MARGIN + _LABEL - 2 * _GAP, y + tile / 2), _short(classes[row]), fill=_INK, font=font, anchor="rm")
        for column, position in enumerate(positions.tolist()):
            image = _pillow(splits.train_images[position]).resize((tile, tile), smooth)
            grid.paste(image.convert("RGB"), (_MARGIN + _LABEL + column * (tile + _GAP), y))
    grid.save(path, format="PNG")


def first_of_each(labels: NDArray[np.int64], num_classes: int, count: int) -> list[NDArray[np.intp]]:
    """Positions of the first `count` images of each class."""
    order = np.argsort(labels, kind="stable")
    starts = np.searchsorted(labels[order], np.arange(num_classes + 1))
    return [order[first : min(first + count, end)] for first, end in pairwise(starts.tolist())]


def _labels(splits: RawSplits) -> Iterator[tuple[Literal["train", "test"], NDArray[np.int64]]]:
    yield "train", splits.train_labels
    yield "test", splits.test_labels


def _pillow(image: NDArray[np.uint8]) -> Image.Image:
    if len(image) in (1, 2):
        return Image.fromarray(np.ascontiguousarray(image[0]))
    return Image.fromarray(np.ascontiguousarray(image[:3].transpose(1, 2, 0)))


def _png(image: NDArray[np.uint8]) -> bytes:
    buffer = io.BytesIO()
    _pillow(image).save(buffer, format="PNG")
    return buffer.getvalue()


def _short(name: str) -> str:
    return name if len(name) <= _MAX_LABEL else name[: _MAX_LABEL - 3].rstrip() + "..."
