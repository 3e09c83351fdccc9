"""Recipes: one function for each published method, each returning one complete method and evaluation protocol.

Hyper-parameters that depend on data set or ipc are looked up; what a paper does not say about a set comes from the row
named in the recipe. Published accuracies stand in `published.toml`. `scale="small"` caps cost and says what it capped.
"""

from __future__ import annotations

import tomllib
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

from core.catalogue import DatasetInfo, convnet_depth
from core.errors import UnknownMethodError
from core.specs.augmentation import OPERATIONS, DSASpec
from core.specs.evaluation import EvaluationSpec, dm_protocol
from core.specs.job import Scale
from core.specs.method import MethodSpec
from core.specs.models import FreshRandomSpec
from core.specs.network import ConvNetSpec
from core.specs.objective import MeanFeatureSpec
from core.specs.selection import UniformSpec
from core.specs.synthetic import RandomInitSpec, SGDSpec


class Resolved(NamedTuple):
    """What a recipe returns: the method, its evaluation protocol, and what `small` lowered."""

    method: MethodSpec
    evaluation: EvaluationSpec
    capped: tuple[str, ...] = ()


class Recipe(NamedTuple):
    """A published method by its usual abbreviation."""

    name: str
    title: str
    paper: str
    build: Callable[[DatasetInfo, int], Resolved]


def _dm_lr_img(ipc: int) -> float:
    """DM's image learning rate by ipc: 1 up to 50, 10 from 100 on (readme of the published code, CIFAR-10)."""
    return 10.0 if ipc >= 100 else 1.0


def dm(info: DatasetInfo, ipc: int) -> Resolved:
    """DM: Zhao & Bilen, "Dataset Condensation with Distribution Matching", WACV 2023, table 1.

    20,000 iterations, 256 real images per class, a fresh ConvNet at each iteration, SGD(lr 1, momentum 0.5), from real
    images. Published on CIFAR-10 at ipc 10: 48.9 +- 0.6 % (5 sets x 20 networks). The same values serve every data set.
    """
    network = ConvNetSpec(width=128, depth=convnet_depth(min(info.height, info.width)))
    method = MethodSpec(
        network=network,
        objective=MeanFeatureSpec(),
        models=FreshRandomSpec(),
        selection=UniformSpec(real_batch_per_class=256),
        augmentation=DSASpec(strategy=tuple(op for op in OPERATIONS if op != "flip" or info.mirrored)),
        init=RandomInitSpec(),
        optimizer=SGDSpec(lr_img=_dm_lr_img(ipc), momentum=0.5),
        num_iterations=20_000,
    )
    return Resolved(method, dm_protocol(info, network))


def random(info: DatasetInfo, ipc: int) -> Resolved:
    """Random selection: DM with 0 iterations, so the set is what `init` drew. The baseline of every table of the field."""
    method, evaluation, _ = dm(info, ipc)
    return Resolved(method.model_copy(update={"num_iterations": 0}), evaluation.model_copy(update={"random_draws": 0}))


RECIPES: dict[str, Recipe] = {
    recipe.name: recipe
    for recipe in (
        Recipe("dm", "Distribution matching", "Zhao & Bilen, WACV 2023, arXiv:2110.04181", dm),
        Recipe("random", "Random selection of real images", "baseline of every comparison table", random),
    )
}


def recipe_by_name(name: str) -> Recipe:
    """Look a recipe up.

    Raises:
        UnknownMethodError: no recipe has this name.
    """
    try:
        return RECIPES[name]
    except KeyError:
        raise UnknownMethodError.at("/recipe", f"unknown recipe {name!r}; known: {', '.join(RECIPES)}") from None


# `small`: the largest values that keep every recipe under three minutes of distillation on two cores (Fashion-MNIST, width 32).
_SMALL_METHOD: dict[tuple[str, ...], int] = {
    ("num_iterations",): 300,
    ("network", "width"): 32,
    ("selection", "real_batch_per_class"): 64,
}
_SMALL_EVALUATION: dict[tuple[str, ...], int] = {("network", "width"): 32, ("num_eval",): 3, ("num_epochs",): 300}


def capped_for(scale: Scale, resolved: Resolved) -> Resolved:
    """Apply the caps of `small`; `paper` returns the recipe as it is."""
    if scale == "paper":
        return resolved
    notes: list[str] = []
    method = _lower(resolved.method.model_dump(mode="json"), _SMALL_METHOD, "method", notes)
    evaluation = _lower(resolved.evaluation.model_dump(mode="json"), _SMALL_EVALUATION, "evaluation", notes)
    return Resolved(
        MethodSpec.model_validate(method, strict=False), EvaluationSpec.model_validate(evaluation, strict=False), tuple(notes)
    )


def _lower(tree: dict[str, Any], caps: dict[tuple[str, ...], int], prefix: str, notes: list[str]) -> dict[str, Any]:
    for path, cap in caps.items():
        parent = tree
        for key in path[:-1]:
            parent = parent.get(key, {})
        value = parent.get(path[-1])
        if value is not None and value > cap:
            parent[path[-1]] = cap
            notes.append(f"{prefix}.{'.'.join(path)}: {value} -> {cap}")
    return tree


class PublishedRow(NamedTuple):
    """One accuracy of one paper's table, as a fraction; `std` and `n` are 0 where the paper gives none."""

    recipe: str
    dataset: str
    ipc: int
    mean: float
    std: float
    n: int
    paper: str
    table: str
    protocol: str


@cache
def published() -> tuple[PublishedRow, ...]:
    """Every row of `published.toml`."""
    document = tomllib.loads((Path(__file__).parent / "published.toml").read_text())
    return tuple(PublishedRow(**row) for row in document["row"])
