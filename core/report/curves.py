"""`curves.png`: the losses and accuracies of a job over time, and the test accuracy of every network.

matplotlib is used through its objects and the Agg canvas; no global state is touched, so that a thread or a service may draw.
"""

from __future__ import annotations

import io
import math
import textwrap
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from PIL import Image

from core.report.export import png_bytes
from core.report.outcome import Outcome, Score, ScoreName

Series = Sequence[tuple[int, float]]
MAX_PANELS = 6
MAX_LINES = 8
_LOG_FROM = 20.0
"""A positive curve whose values span at least this factor gets a logarithmic axis."""

STEPS = {"distillation": "iteration", "held_out": "iteration", "evaluation": "epoch"}
"""What the steps of a series count, by the first part of its name."""

TITLES = {
    "evaluation/train_loss": "training loss of the first network",
    "evaluation/train_accuracy": "training accuracy of the first network",
    "held_out/accuracy": "held-out accuracy",
}
"""Titles of series whose name alone may mislead."""

SCORE_TITLES: dict[ScoreName, str] = {
    "distilled": "distilled", "distilled_8bit": "8-bit files", "random": "random real", "mosaic": "mosaic",
    "herding": "herding", "k_center": "k-center", "forgetting": "forgetting",
}


class Theme(NamedTuple):
    """Colours of one drawing."""

    paper: str
    ink: str
    faint: str
    grid: str
    lines: tuple[str, ...]


LIGHT = Theme(
    "#ffffff", "#1d2129", "#69707d", "#e6e8ec",
    ("#1f5fbf", "#c2571a", "#2b8a57", "#8a4fbf", "#b5932a", "#b03a5b", "#3d9aa6", "#69707d"),
)
DARK = Theme(
    "#191c22", "#e7e9ee", "#9aa1ae", "#2c313a",
    ("#7fb0ff", "#f0a06a", "#6fd09b", "#c49bf2", "#e0c060", "#f08aa6", "#74cfd9", "#9aa1ae"),
)


class Panel(NamedTuple):
    """One pair of axes."""

    title: str
    is_fraction: bool
    lines: Mapping[str, Series]
    steps: str
    """What the horizontal axis counts."""
    hidden: int
    """Lines left out."""


def panels(series: Mapping[str, Series]) -> list[Panel]:
    """Group series by what they measure: names that differ in a number share a panel."""
    groups: dict[tuple[int, str], dict[str, Series]] = {}
    for name in sorted(series):
        title = TITLES.get(name) or " ".join(part for part in name.split("/") if not part.isdigit()).replace("_", " ")
        rank = 0 if "loss" in name else 1 if "accuracy" in name else 2
        groups.setdefault((rank, title), {})[name] = series[name]
    found = []
    for (rank, title), lines in sorted(groups.items()):
        kept = dict(list(lines.items())[:MAX_LINES])
        steps = STEPS.get(next(iter(lines)).split("/")[0], "step")
        found.append(Panel(title, rank == 1, kept, steps, len(lines) - len(kept)))
    return found[: MAX_PANELS - 1]


def draw_each(outcome: Outcome, theme: Theme = LIGHT) -> list[bytes]:
    """Draw every panel as its own PNG, all of one size, for a page that arranges them."""
    main = [score for score in outcome.scores if score.network == outcome.scores[0].network]
    drawn = [_draw(partial(_draw_panel, panel=panel), theme) for panel in panels(outcome.series)]
    drawn.append(_draw(partial(_draw_scores, scores=main), theme))
    if len(main) < len(outcome.scores):
        drawn.append(_draw(partial(_draw_architectures, scores=outcome.scores), theme, left=0.38))
    return drawn


def compose(drawn: Sequence[bytes]) -> bytes:
    """Arrange the panels of `draw_each` in one PNG."""
    images = [Image.open(io.BytesIO(png)).convert("RGB") for png in drawn]
    columns = min(len(images), 2 if len(images) in {2, 4} else 3)
    width, height = images[0].size
    canvas = Image.new("RGB", (columns * width, math.ceil(len(images) / columns) * height), LIGHT.paper)
    for place, image in enumerate(images):
        canvas.paste(image, (place % columns * width, place // columns * height))
    return png_bytes(canvas)


def _draw(paint: Callable[[Axes, Theme], None], theme: Theme, *, left: float = 0.13) -> bytes:
    figure = Figure(figsize=(4.4, 3.3), dpi=140, facecolor=theme.paper)
    FigureCanvasAgg(figure)
    # Fixed margins: laying out by the size of every label takes longer than drawing.
    figure.subplots_adjust(left=left, right=0.96, bottom=0.19, top=0.87)
    paint(figure.add_subplot(), theme)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", metadata={"Software": None})
    return buffer.getvalue()


def _style(axis: Axes, title: str, theme: Theme) -> None:
    axis.set_title(title, loc="left", fontsize=11, color=theme.ink, pad=10, parse_math=False)
    axis.set_facecolor(theme.paper)
    axis.grid(axis="y", color=theme.grid, linewidth=0.8)
    axis.set_axisbelow(True)
    axis.tick_params(colors=theme.faint, labelsize=9, length=0)
    for side, spine in axis.spines.items():
        spine.set_visible(side == "bottom")
        spine.set_color(theme.grid)


def _draw_panel(axis: Axes, theme: Theme, panel: Panel) -> None:
    _style(axis, panel.title + (" (%)" if panel.is_fraction else ""), theme)
    factor = 100.0 if panel.is_fraction else 1.0
    values: list[float] = []
    for place, (name, points) in enumerate(panel.lines.items()):
        steps = [step for step, _ in points]
        heights = [factor * y if math.isfinite(y) else math.nan for _, y in points]
        values += [y for y in heights if not math.isnan(y)]
        marker = "o" if len(points) <= 30 else ""
        axis.plot(steps, heights, color=theme.lines[place], linewidth=1.6, marker=marker, markersize=3.5, label=name)
    if not values:
        axis.text(0.5, 0.5, "no finite values", color=theme.faint, ha="center", va="center", transform=axis.transAxes)
        return
    if min(values) > 0 and max(values) / min(values) >= _LOG_FROM:
        axis.set_yscale("log")
        axis.tick_params(which="minor", length=0)
    axis.xaxis.set_major_locator(MaxNLocator(nbins=6, integer=True))
    left_out = f"; {panel.hidden} more lines not drawn" if panel.hidden else ""
    axis.set_xlabel(panel.steps + left_out, fontsize=9, color=theme.faint)
    if len(panel.lines) > 1:
        _legend(axis, theme)


def _draw_scores(axis: Axes, theme: Theme, scores: Sequence[Score]) -> None:
    """One dot for each network of one architecture, with mean and standard deviation beside them."""
    _style(axis, "test accuracy (%), one dot per network", theme)
    if not scores:
        axis.text(0.5, 0.5, "no network was evaluated", color=theme.faint, ha="center", va="center", transform=axis.transAxes)
        axis.set_xticks([])
        axis.set_yticks([])
        return
    for place, score in enumerate(scores):
        color = theme.lines[list(SCORE_TITLES).index(score.name)]
        middle = (score.n - 1) / 2
        spread = [place + 0.05 * (i - middle) / max(1.0, score.n / 8) for i in range(score.n)]
        axis.scatter(spread, [100 * a for a in score.accuracies], s=22, color=color, alpha=0.75, linewidths=0, zorder=3)
        bar = 100 * score.std if score.n > 1 else None
        axis.errorbar(place + 0.32, 100 * score.mean, yerr=bar, color=color, fmt="_", markersize=11, capsize=3, linewidth=1.4)
    labels, crowded = [SCORE_TITLES[score.name] for score in scores], len(scores) > 4
    axis.set_xticks(
        range(len(scores)), labels, fontsize=8 if crowded else 9, color=theme.ink, rotation=25 if crowded else 0,
    )
    axis.set_xlim(-0.6, len(scores) - 0.3)
    axis.margins(y=0.15)


def _draw_architectures(axis: Axes, theme: Theme, scores: Sequence[Score]) -> None:
    """Mean and standard deviation on each architecture: of the distilled set, and of random selection below it."""
    _style(axis, "across architectures (%)", theme)
    networks = list(dict.fromkeys(score.network for score in scores))
    sides: tuple[tuple[ScoreName, float], ...] = (("distilled", -0.13), ("random", 0.13))
    for name, offset in sides:
        shown = [score for score in scores if score.name == name]
        axis.errorbar(
            [100 * score.mean for score in shown], [networks.index(score.network) + offset for score in shown],
            xerr=[100 * score.std for score in shown], color=theme.lines[list(SCORE_TITLES).index(name)], fmt="o",
            markersize=4, capsize=2, linewidth=1.2, label=SCORE_TITLES[name],
        )
    labels = [textwrap.fill(network, 26) for network in networks]
    axis.set_yticks(range(len(networks)), labels, fontsize=8 if len(networks) <= 8 else 6, color=theme.ink)
    axis.set_ylim(len(networks) - 0.4, -0.6)
    _legend(axis, theme)


def _legend(axis: Axes, theme: Theme) -> None:
    legend: Any = axis.legend(frameon=False, fontsize=8)
    for text in legend.get_texts():
        text.set_color(theme.ink)
