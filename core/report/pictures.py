"""`preview.png` and `preview_initial.png`: one row per class, enlarged without smoothing."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import matplotlib
import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from core.report.export import to_pillow
from core.report.layout import Cut

_TILE = 72
"""Side that small images are enlarged to, in pixels; larger sets get smaller tiles."""
_GAP = 4
_MARGIN = 20
_LABEL_GAP = 10
_BLOCK_GAP = 28
_MAX_LABEL = 22
_WIDE = 1.5
"""Wanted width over height."""
_PAPER, _INK, _FAINT = (255, 255, 255), (29, 33, 41), (105, 112, 125)


def _font(size: int, face: str = "DejaVuSans") -> ImageFont.FreeTypeFont:
    # matplotlib carries DejaVu Sans, so that the picture looks the same on every machine.
    file = Path(matplotlib.get_data_path()) / "fonts" / "ttf" / f"{face}.ttf"
    return ImageFont.truetype(file, size, layout_engine=ImageFont.Layout.BASIC)


def short(name: str, limit: int = _MAX_LABEL) -> str:
    """A class name on one line, without control characters."""
    line = " ".join("".join(c if c.isprintable() else " " for c in name).split())
    return line if len(line) <= limit else line[: limit - 3].rstrip() + "..."


def _scale(height: int, width: int, num_tiles: int) -> int:
    """Whole factor of enlargement: near `_TILE` for few images, smaller for many."""
    wanted = _TILE if num_tiles <= 150 else 48 if num_tiles <= 400 else 32
    return max(1, round(wanted / max(height, width)))


def preview(images: NDArray[np.uint8], cut: Cut, classes: Sequence[str], title: str) -> Image.Image:
    """Draw the shown part of a set.

    Rows run down in as many blocks side by side as make the picture pleasantly wide, so that a hundred classes, or
    classes of one image, do not become a tower.

    Args:
        images: (N, C, H, W) uint8.
        cut: which of them to show.
        classes: name of each class, drawn beside its row.
        title: line above the grid.
    """
    height, width = images.shape[2:]
    scale = _scale(height, width, sum(len(row) for row in cut.rows))
    tile_w, tile_h = width * scale, height * scale
    size = 14 if tile_h >= 28 else 11
    font, small, bold = _font(size), _font(12), _font(16, "DejaVuSans-Bold")
    names = [short(classes[row]) for row in range(len(cut.rows))]
    label_w = int(max(font.getlength(name) for name in names)) + _LABEL_GAP
    step_x, step_y = tile_w + _GAP, max(tile_h, size + 4) + _GAP
    block_w = label_w + cut.columns * step_x - _GAP
    head = 54 if cut.note else 34

    def extent(blocks: int) -> tuple[int, int]:
        rows = -(-len(cut.rows) // blocks)
        return blocks * (block_w + _BLOCK_GAP) - _BLOCK_GAP, rows * step_y - _GAP

    def ugliness(blocks: int) -> float:
        across, down = extent(blocks)
        holes = blocks * -(-len(cut.rows) // blocks) - len(cut.rows)
        return abs(math.log(across / (down * _WIDE))) + 6.0 * holes / len(cut.rows)

    blocks = min(range(1, len(cut.rows) + 1), key=ugliness)
    rows_per_block = -(-len(cut.rows) // blocks)
    across, down = extent(blocks)
    text_w = int(max(bold.getlength(title), small.getlength(cut.note)))
    canvas = Image.new("RGB", (max(across, text_w) + 2 * _MARGIN, down + head + 2 * _MARGIN), _PAPER)
    draw = ImageDraw.Draw(canvas)
    draw.text((_MARGIN, _MARGIN - 2), title, font=bold, fill=_INK)
    if cut.note:
        draw.text((_MARGIN, _MARGIN + 22), cut.note, font=small, fill=_FAINT)
    for row, positions in enumerate(cut.rows):
        x = _MARGIN + (row // rows_per_block) * (block_w + _BLOCK_GAP)
        y = _MARGIN + head + (row % rows_per_block) * step_y
        draw.text((x + label_w - _LABEL_GAP, y + tile_h / 2), names[row], font=font, fill=_INK, anchor="rm")
        for column, position in enumerate(positions):
            tile = to_pillow(images[position]).convert("RGB").resize((tile_w, tile_h), Image.Resampling.NEAREST)
            canvas.paste(tile, (x + label_w + column * step_x, y))
    return canvas
