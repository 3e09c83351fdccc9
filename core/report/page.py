"""`report.html`: the same facts as one page that works without a network.

Images are data URIs, styles are inside, and a content security policy forbids everything else. Every text is escaped.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from numpy.typing import NDArray

from core.report import curves, numbers
from core.report.comparison import cautions, cost_of_8bit, difference, find, published_rows
from core.report.export import Picture, normalisation, png_bytes, to_pillow
from core.report.layout import Cut
from core.report.loading import snippets
from core.report.outcome import Outcome, ScoreName
from core.report.pictures import short
from core.report.report import budget, size
from core.specs.method import MethodSpec
from core.specs.recipes import RECIPES

_MAX_PAIRS = 20
_SCORE_TITLES: dict[ScoreName, str] = {
    "distilled": "This set, float32", "distilled_8bit": "This set, 8-bit files", "random": "Random real images, same budget",
    "mosaic": "Mosaic of random real images, same budget", "herding": "Coreset: herding", "k_center": "Coreset: k-center",
    "forgetting": "Coreset: most forgotten",
}

_ENVIRONMENT = Environment(
    loader=FileSystemLoader(Path(__file__).parent), autoescape=True, undefined=StrictUndefined,
    trim_blocks=True, lstrip_blocks=True,
)
_ENVIRONMENT.filters |= {
    "percent": numbers.percent, "small_percent": numbers.small_percent, "bytes": numbers.bytes_text,
}


class Row(NamedTuple):
    """A line of the accuracy table; fractions."""

    title: str
    note: str
    mean: float
    std: float | None
    n: int | None
    gain: float | None
    """Mean minus that of random selection with the same network."""
    kind: Literal["ours", "baseline", "published"]


class Shown(NamedTuple):
    """A class with some of its images, as data URIs."""

    name: str
    images: list[str]


def _uri(png: bytes) -> str:
    return "data:image/png;base64," + base64.b64encode(png).decode()


def _rows(outcome: Outcome) -> list[Row]:
    rows = []
    for score in outcome.scores:
        baseline = find(outcome, "random", score.network)
        gain = difference(score, baseline)["difference"] if baseline is not None and score.name != "random" else None
        drawn = score.name in {"random", "mosaic"}
        draws = f", {score.num_sets} {'draw' if score.num_sets == 1 else 'draws'}" if drawn else ""
        std = score.std if score.n > 1 else None
        kind: Literal["ours", "baseline"] = "ours" if score.name in {"distilled", "distilled_8bit"} else "baseline"
        rows.append(Row(_SCORE_TITLES[score.name], score.network + draws, score.mean, std, score.n, gain, kind))
    for row in published_rows(outcome):
        title = "Published: random selection" if row["recipe"] == "random" else f"Published: {row['recipe']}"
        note = f"{row['network']}; {row['paper']}, table {row['table']}, protocol {row['protocol']}"
        note += f"; {row['note']}" if row["note"] else ""
        rows.append(Row(title, note, row["mean"], row["std"], row["n"], None, "published"))
    return rows


def _borrowed(outcome: Outcome) -> str:
    """The published row whose values the job took; empty where it is the job's own."""
    spec = outcome.spec
    return "" if spec.defaults_from == f"{outcome.info.name} ipc {spec.ipc}" else spec.defaults_from


def _shown(items: Sequence[Picture], cut: Cut, classes: tuple[str, ...]) -> list[Shown]:
    return [
        Shown(short(classes[row], 40), [_uri(items[position].png) for position in positions])
        for row, positions in enumerate(cut.rows)
    ]


def _title(outcome: Outcome) -> str:
    plural = "image" if outcome.spec.ipc == 1 else "images"
    budget = "a budget of " if outcome.factors else ""
    return f"{outcome.info.title}, {budget}{outcome.spec.ipc} {plural} per class"


def _length(method: MethodSpec) -> str:
    """How long it ran, in what the method counts."""
    if method.num_iterations is None:
        return f"{method.num_networks:,} matching networks"
    return f"{method.num_iterations:,} iterations"


def _facts(outcome: Outcome) -> dict[str, str]:
    """Provenance, as label and text."""
    spec = outcome.spec
    recipe = RECIPES.get(spec.recipe)
    facts = {
        "Recipe": f"{spec.recipe} ({recipe.title}; {recipe.paper})" if recipe else spec.recipe or "own composition",
        "Job": f"{outcome.job_id}, attempt {outcome.attempt}",
        "Seed": str(spec.seed),
        "Length": _length(spec.method),
        "Data set": f"{outcome.info.name}, digest {outcome.dataset_digest}{'' if outcome.info.verified else ' (unverified)'}",
        "Split": outcome.info.split_rule,
        "Specification digest": spec.science_digest(),
        "Device": outcome.device,
        "Peak memory": numbers.bytes_text(outcome.peak_memory_bytes),
        "Time per iteration": numbers.seconds_text(outcome.seconds_per_iteration),
        "Time by phase": ", ".join(f"{name} {numbers.seconds_text(value)}" for name, value in outcome.seconds.items()),
        "Code revision": outcome.code_revision,
        "Versions": ", ".join(f"{name} {version}" for name, version in outcome.versions.items()),
    }
    if outcome.learned_rate is not None:
        used = "used" if spec.evaluation.use_learned_rate else "not used"
        facts["Learned rate"] = f"{outcome.learned_rate:.4g}, {used} in the evaluation"
    if outcome.soft_labels is not None:
        facts["Labels"] = f"soft, {spec.method.labels.kind}"
    if spec.dataset.held_out_fraction:
        facts["Held out"] = f"{spec.dataset.held_out_fraction:.3g} of each training class"
    if outcome.resumed_from_step:
        facts["Resumed"] = f"from step {outcome.resumed_from_step:,}"
    if spec.tags:
        facts["Tags"] = ", ".join(f"{key} = {value}" for key, value in spec.tags.items())
    return {label: text for label, text in facts.items() if text}


def render(
    outcome: Outcome,
    items: Sequence[Picture],
    initial: NDArray[np.uint8],
    cut: Cut,
    drawn: Sequence[bytes],
    files: Sequence[Path],
) -> str:
    """Render the page.

    Args:
        outcome: the job.
        items: the N distilled images, encoded.
        initial: (N / variants, C, H, W) uint8 images it started from.
        cut: which of them to show.
        drawn: the curves for a light page; this function adds those for a dark one.
        files: the artifacts written so far, whose bytes it states.
    """
    info = outcome.info
    shown = _shown(items, cut, info.classes)
    rows = _rows(outcome)
    main = find(outcome, "distilled")
    dark_drawn = curves.draw_each(outcome, curves.DARK)
    published = [row for row in published_rows(outcome) if row["recipe"] == outcome.spec.recipe]
    context: dict[str, Any] = {
        "title": _title(outcome),
        "outcome": outcome,
        "info": info,
        "spec": outcome.spec,
        "distilled": outcome.spec.method.max_iterations > 0,
        "length": _length(outcome.spec.method),
        "rows": rows,
        "main": main,
        "main_gain": next((row.gain for row in rows if row.kind == "ours" and row.gain is not None), None),
        "explained": any(score.name == "mosaic" for score in outcome.scores),
        "random": find(outcome, "random", main.network) if main else None,
        "cautions": cautions(outcome),
        "borrowed": _borrowed(outcome),
        "departures": published[0]["setting_differs"] if published else [],
        "cost_of_8bit": cost_of_8bit(outcome),
        "budget": budget(outcome),
        "size": size(outcome),
        "shown": shown,
        "columns": cut.columns,
        "cut_note": cut.note,
        "pairs": [
            (row.name, _uri(png_bytes(to_pillow(initial[positions[0] // outcome.variants]))), row.images[0])
            for row, positions in zip(shown[:_MAX_PAIRS], cut.rows, strict=False) if positions
        ],
        "curves": [(_uri(light), _uri(dark)) for light, dark in zip(drawn, dark_drawn, strict=True)],
        "normalisation": normalisation(outcome),
        "facts": _facts(outcome),
        "load": snippets(
            info, soft=outcome.soft_labels is not None, whitened=outcome.whitened is not None, factored=bool(outcome.factors)
        ),
        "files": {path.name: path.stat().st_size for path in files},
        "spec_json": json.dumps(outcome.spec.model_dump(mode="json"), indent=2, ensure_ascii=False),
    }
    return _ENVIRONMENT.get_template("report.html.j2").render(context)
