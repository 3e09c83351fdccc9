"""Where the numbers of a recipe come from when no paper knows the data: the nearest published row, and how near that is."""

from __future__ import annotations

from core.catalogue import CATALOGUE, DatasetInfo
from core.specs.methods.common import Published, nearest_key
from core.specs.published import published
from core.specs.recipes import recipe_by_name

FAR = 2.0
"""Ratio of sides or of ipcs from which on published numbers are told to be far from a request."""


def published_row(recipe: str, info: DatasetInfo, ipc: int) -> Published | None:
    """Data set and ipc whose published hyper-parameters a recipe takes; None where it has none, or was never published.

    Raises:
        UnknownMethodError: no recipe has this name.
    """
    rows = recipe_by_name(recipe).rows
    if rows is None:
        rows = {(row.dataset, row.ipc) for row in published() if row.recipe == recipe}
    return nearest_key(sorted(rows), info, ipc) if rows else None


def defaults_from(recipe: str, info: DatasetInfo, ipc: int) -> str:
    """The same for people, as `cifar10 ipc 10`; empty where there is no such row."""
    row = published_row(recipe, info, ipc)
    return "" if row is None else f"{row[0]} ipc {row[1]}"


def warning_of(recipe: str, info: DatasetInfo, ipc: int) -> str:
    """What to say where that row is far from what is asked for; empty where it is near."""
    row = published_row(recipe, info, ipc)
    if row is None:
        return ""
    known, far = CATALOGUE[row[0]], []
    if _ratio(known.height, info.height) >= FAR:
        far.append(f"images of {known.height} px (here {info.height})")
    if _ratio(row[1], ipc) >= FAR:
        far.append(f"ipc {row[1]} (here {ipc})")
    if not far:
        return ""
    return f"the hyper-parameters of {recipe} come from {row[0]} with {' and '.join(far)}: expect to have to tune them"


def _ratio(a: int, b: int) -> float:
    return max(a, b) / min(a, b)
