"""What a result is compared with: random selection in the same run, and the accuracies that papers print."""

from __future__ import annotations

import math
from typing import Any

from core.report.outcome import Outcome, Score
from core.specs.published import CONVNET, published
from core.specs.recipes import RECIPES

FEW_TEST_IMAGES = 500
_HOW_OFTEN = frozenset({
    "num_eval", "random_draws", "check_8bit", "held_out_every_iterations", "cross_networks", "baselines", "baseline_training",
})
"""Fields of a protocol that say what is measured beside the accuracy, or how often, and do not change its expectation."""


def score_entry(score: Score) -> dict[str, Any]:
    """One score; the standard deviation of a single network is null, because it is unknown and not 0."""
    return {
        "name": score.name, "network": score.network, "mean": score.mean, "std": score.std if score.n > 1 else None,
        "n": score.n, "num_sets": score.num_sets, "accuracies": list(score.accuracies),
    }


def find(outcome: Outcome, name: str, network: str = "") -> Score | None:
    """The first score with this name, and with this network if one is given."""
    return next((s for s in outcome.scores if s.name == name and network in ("", s.network)), None)


def difference(score: Score, baseline: Score) -> dict[str, float | None]:
    """Difference of the means, with its standard error over networks (null where a side has one network)."""
    error = None
    if score.n > 1 and baseline.n > 1:
        error = math.sqrt(score.std**2 / score.n + baseline.std**2 / baseline.n)
    return {"difference": score.mean - baseline.mean, "standard_error": error}


def against_random(outcome: Outcome) -> list[dict[str, Any]]:
    """Every other score minus random selection with the same network, budget and protocol."""
    entries = []
    for score in outcome.scores:
        baseline = find(outcome, "random", score.network)
        if score.name != "random" and baseline is not None:
            entries.append({"name": score.name, "network": score.network} | difference(score, baseline))
    return entries


def cautions(outcome: Outcome) -> list[str]:
    """What the accuracies cannot bear, in sentences: few test images, a single network, no better than chance or random."""
    score = find(outcome, "distilled")
    if score is None:
        return []
    found = []
    num_test = sum(outcome.info.test_per_class)
    if num_test < FEW_TEST_IMAGES:
        found.append(f"The test split has {num_test} images: each is worth {100 / num_test:.1f} points.")
    if score.n == 1:
        found.append("A single network was trained on the set: how much its accuracy varies is not known.")
    chance = 1.0 / outcome.info.num_classes
    if score.mean <= chance + 2.0 * math.sqrt(chance * (1.0 - chance) / num_test):
        found.append("Networks trained on the set are no better than chance.")
    baseline = find(outcome, "random", score.network)
    if baseline is not None and score.mean <= baseline.mean:
        found.append("Random real images at the same budget are as good or better.")
    return found


def cost_of_8bit(outcome: Outcome) -> dict[str, float | None] | None:
    """The 8-bit files minus the float32 set; None when one of them was not evaluated."""
    full = find(outcome, "distilled")
    files = find(outcome, "distilled_8bit", full.network) if full else None
    return difference(files, full) if full and files else None


def published_rows(outcome: Outcome) -> list[dict[str, Any]]:
    """Published accuracies of this recipe, data set and ipc; and of random selection, for a recipe that is another.

    Rows of other networks than the tables' ConvNet count only where this job trained such a network too; ablations never do.
    `setting_differs` lists how this job's setting departs from the recipe's, so that nobody compares a capped run with a table.
    """
    spec = outcome.spec
    departures = departures_from_recipe(outcome)
    networks = {CONVNET, spec.evaluation.network.kind, *(network.kind for network in spec.evaluation.cross_networks)}
    return [
        {
            "recipe": row.recipe, "mean": row.mean, "std": row.std or None, "n": row.n or None, "paper": row.paper,
            "table": row.table, "protocol": row.protocol, "network": row.network, "note": row.note or None,
            "measured_here": False, "setting_differs": departures,
        }
        for row in published()
        if spec.recipe and row.recipe in {spec.recipe, "random"} and (row.dataset, row.ipc) == (outcome.info.name, spec.ipc)
        and row.network in networks and not row.variant
    ]


def departures_from_recipe(outcome: Outcome) -> list[str]:
    """Fields whose value is not the recipe's, each as `field: recipe -> job`."""
    spec = outcome.spec
    if spec.recipe not in RECIPES:
        return []
    recipe = RECIPES[spec.recipe].build(outcome.info, spec.ipc)
    found = _departures(recipe.method.model_dump(mode="json"), spec.method.model_dump(mode="json"), "method")
    theirs = {k: v for k, v in recipe.evaluation.model_dump(mode="json").items() if k not in _HOW_OFTEN}
    ours = {k: v for k, v in spec.evaluation.model_dump(mode="json").items() if k not in _HOW_OFTEN}
    found += _departures(theirs, ours, "evaluation")
    if spec.dataset.held_out_fraction:
        found.append(f"dataset.held_out_fraction: 0.0 -> {spec.dataset.held_out_fraction}")
    return found


def _departures(theirs: Any, ours: Any, path: str) -> list[str]:
    if isinstance(theirs, dict) and isinstance(ours, dict) and theirs.get("kind") == ours.get("kind"):
        keys = list(theirs) + [key for key in ours if key not in theirs]
        return [line for key in keys for line in _departures(theirs.get(key), ours.get(key), f"{path}.{key}")]
    return [] if theirs == ours else [f"{path}: {_name(theirs)} -> {_name(ours)}"]


def _name(value: Any) -> str:
    return str(value.get("kind", value)) if isinstance(value, dict) else str(value)
