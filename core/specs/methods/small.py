"""Scale `small`: every recipe in at most three minutes of distillation on two CPU cores (Fashion-MNIST, width 32).

A cap lowers a number and never raises one; what a recipe needs otherwise is set anew. `*` in a path stands for every item of a
list. Rates and weights were looked at on Fashion-MNIST at ipc 10 (seed 0, one network): within 300 iterations M3D's rate of
20 reached 76.0 % and 5 reached 81.4 %; IDM's printed rate moves packed images twenty times more slowly than DM's (75.6 %), and
at rate 5 its cross-entropy outweighs the features of a narrow network: weights of 50, 5 and 0 reached 75.5, 77.5 and 80.9 %.
"""

from __future__ import annotations

from typing import Any

from core.specs.evaluation import EvaluationSpec
from core.specs.method import MethodSpec
from core.specs.methods.common import Resolved

_METHOD: dict[str, float] = {
    "num_iterations": 300,
    "num_networks": 30,
    "optimizer.lr_img": 5.0,
    "network.width": 32,
    "selection.real_batch_per_class": 64,
    "models.num_networks": 3,
    "models.training.num_epochs": 1,
    "models.capacity": 20,
    "models.num_trained": 1,
    "models.num_steps": 2,
    "models.batch_size": 128,
    "models.max_steps_per_network": 10,
    "models.max_epochs": 5,
    "models.num_watched": 16,
    "models.window": 4,
    "terms.*.start_iteration": 60,
    "terms.*.num_networks": 1,
    "terms.*.training.num_epochs": 1,
    "terms.*.network.width": 8,
    "init.training.num_epochs": 3,
}
_EVALUATION: dict[str, float] = {
    "network.width": 32,
    "num_eval": 3,
    "num_epochs": 300,
    "baseline_training.num_epochs": 3,
}
_SET_ANEW: dict[str, dict[str, float]] = {
    "idm": {"optimizer.lr_img": 5.0, "terms.0.weight": 1.0},
    "iid_idm": {"optimizer.lr_img": 5.0, "terms.0.weight": 1.0},
}
"""By recipe."""

_CANDIDATES = 600
"""Images of a class among which `representative` selection seeks clusters; there 0 means all, which is more than any number."""


def at_small_scale(recipe: str, resolved: Resolved) -> Resolved:
    """A recipe at small scale, with a note `field: from -> to` for everything that was changed."""
    notes: list[str] = []
    method, evaluation = resolved.method.model_dump(mode="json"), resolved.evaluation.model_dump(mode="json")
    for tree, caps, name in ((method, _METHOD, "method"), (evaluation, _EVALUATION, "evaluation")):
        for path, cap in caps.items():
            _lower(tree, path.split("."), cap, name, notes)
    for path, value in _SET_ANEW.get(recipe, {}).items():
        _set(method, path.split("."), value, "method", notes)
    selection = method["selection"]
    if selection.get("num_candidates") == 0:
        selection["num_candidates"] = _CANDIDATES
        notes.append(f"method.selection.num_candidates: 0 -> {_CANDIDATES}")
    return Resolved(
        MethodSpec.model_validate(method, strict=False), EvaluationSpec.model_validate(evaluation, strict=False), tuple(notes)
    )


def _lower(tree: Any, path: list[str], cap: float, name: str, notes: list[str]) -> None:
    key, rest = path[0], path[1:]
    if key == "*":
        for i, item in enumerate(tree):
            _lower(item, rest, cap, f"{name}.{i}", notes)
        return
    value = tree.get(key)
    if rest and value is not None:
        _lower(value, rest, cap, f"{name}.{key}", notes)
    elif not rest and value is not None and value > cap:
        _set(tree, path, cap, name, notes)


def _set(tree: Any, path: list[str], value: float, name: str, notes: list[str]) -> None:
    *parents, last = path
    for key in parents:
        tree = tree[int(key)] if isinstance(tree, list) else tree[key]
    notes.append(f"{'.'.join((name, *path))}: {tree[last]} -> {value}")
    tree[last] = value
