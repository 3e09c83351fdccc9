"""The artifacts of a finished job: every file a user downloads, in one call.

| file | kind | holds |
|---|---|---|
| data.safetensors | dataset | images in network space, float32, labels; soft labels and whitening where there are any |
| factors.safetensors | dataset | bases and hallucinators, where the images are made of such |
| decode_factors.py | dataset | a program that makes the images of them |
| data.parquet | dataset | 8-bit PNG images and class labels, as Hugging Face's `datasets` reads them |
| images.zip | images | the same PNG images, one folder per class |
| preview.png, preview_initial.png | preview | the set and what it started from, for a person |
| curves.png | curves | losses and accuracies |
| report.json, report.html | report | everything measured, for a program and for a person |
| manifest.json | manifest | specification, versions, normalisation, and a checksum of every other file |

Equal outcomes give equal bytes: nothing here reads a clock or draws a random number.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from core.report import curves, decode_factors, page
from core.report.export import facts, pictures, to_8bit, write_parquet, write_safetensors, write_zip
from core.report.layout import cut
from core.report.manifest import build_manifest
from core.report.numbers import write_json
from core.report.outcome import Outcome
from core.report.pictures import preview
from core.report.report import build_report
from core.specs.report import ArtifactLine

TABLE: dict[str, tuple[str, str]] = {
    "data.safetensors": ("dataset", "application/octet-stream"),
    "factors.safetensors": ("dataset", "application/octet-stream"),
    "decode_factors.py": ("dataset", "text/x-python; charset=utf-8"),
    "data.parquet": ("dataset", "application/vnd.apache.parquet"),
    "images.zip": ("images", "application/zip"),
    "preview.png": ("preview", "image/png"),
    "preview_initial.png": ("preview", "image/png"),
    "curves.png": ("curves", "image/png"),
    "report.json": ("report", "application/json"),
    "report.html": ("report", "text/html; charset=utf-8"),
    "manifest.json": ("manifest", "application/json"),
}
"""Kind and media type of every file, in the order they are written."""

FACTORED = ("factors.safetensors", "decode_factors.py")
"""Files of sets that store more than their images."""


def write_artifacts(outcome: Outcome, out: Path) -> list[ArtifactLine]:
    """Write all files into `out`, the manifest last, and announce them.

    Returns:
        One line for each file, in the order of `TABLE`; `file` is relative to the parent of `out`, the job directory.
    """
    out.mkdir(parents=True, exist_ok=True)
    table = {name: entry for name, entry in TABLE.items() if outcome.factors or name not in FACTORED}
    info = outcome.info
    about = facts(outcome)
    if outcome.whitened is None:
        final = to_8bit(outcome.images, info.mean, info.std)
        initial = to_8bit(outcome.initial_images, info.mean, info.std)
    else:
        final, initial = outcome.whitened.pixels, outcome.whitened.initial_pixels

    arrays: dict[str, NDArray[Any]] = {"images": outcome.images, "labels": outcome.labels}
    if outcome.soft_labels is not None:
        arrays["soft_labels"] = outcome.soft_labels
    if outcome.whitened is not None:
        arrays |= {"whitening_mean": outcome.whitened.mean, "whitening_matrix": outcome.whitened.matrix}
    metadata = {key: value if isinstance(value, str) else json.dumps(value) for key, value in about.items()}
    write_safetensors(out / "data.safetensors", arrays, metadata)
    if outcome.factors:
        write_safetensors(out / "factors.safetensors", outcome.factors, metadata)
        shutil.copyfile(decode_factors.__file__, out / "decode_factors.py")
    items = list(pictures(final, outcome.labels, info.classes))
    write_parquet(out / "data.parquet", items, about, outcome.soft_labels)
    write_zip(out / "images.zip", items, about, outcome.soft_labels)

    shown = cut(outcome.labels, info.num_classes, info.height, info.width)
    made = "distilled" if outcome.spec.method.max_iterations else "selected"
    preview(final, shown, info.classes, f"{info.title}, {made}").save(out / "preview.png")
    before = cut(outcome.labels[:: outcome.variants], info.num_classes, info.height, info.width)
    preview(initial, before, info.classes, f"{info.title}, before distillation").save(out / "preview_initial.png")
    drawn = curves.draw_each(outcome)
    (out / "curves.png").write_bytes(curves.compose(drawn))

    data_files = [out / name for name in table if (out / name).suffix not in {".json", ".html"}]
    write_json(out / "report.json", build_report(outcome, data_files))
    html = page.render(outcome, items, initial, shown, drawn, data_files)
    (out / "report.html").write_text(html, encoding="utf-8")

    files = [(out / name, table[name][1]) for name in table if name != "manifest.json"]
    write_json(out / "manifest.json", build_manifest(outcome, files))
    return [
        ArtifactLine(kind=kind, name=name, file=f"{out.name}/{name}", media_type=media_type)
        for name, (kind, media_type) in table.items()
    ]
