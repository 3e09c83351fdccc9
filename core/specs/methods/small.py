"""Scale `small`: every recipe in at most three minutes of distillation on two CPU cores (Fashion-MNIST, width 32).

That holds for ipc 1 and 10. A cap lowers a number and never raises one. `*` in a path stands for every item of a list. The
rate has one, too: within 300 iterations M3D's 20 (ipc 10) left Fashion-MNIST at 76.0 %, 5 brought it to 81.4 % (one set, one
network each).
"""

from __future__ import annotations

from typing import Any

from core.specs.evaluation import EvaluationSpec
from core.specs.method import MethodSpec
from core.specs.methods.common import Resolved
from core.specs.models import CountedNetworksSpec
from core.specs.objective import GradientSpec

_METHOD: dict[str, float] = {
    "num_iterations": 300,
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
    "models.steps_per_network": 10,
    "models.num_epochs": 5,
    "models.num_images": 128,
    "terms.*.start_iteration": 60,
    "terms.*.num_networks": 1,
    "terms.*.training.num_epochs": 1,
    "terms.*.network.width": 8,
    "init.training.num_epochs": 3,
}
_SECOND_ORDER: dict[str, float] = {"selection.real_batch_per_class": 32, "parameterization.max_per_class": 16}
"""Matching gradients takes about three times as long for each image as matching features does."""

_EVALUATION: dict[str, float] = {
    "network.width": 32,
    "num_eval": 3,
    "num_epochs": 300,
    "baseline_training.num_epochs": 3,
}
_CANDIDATES = 600
"""Images of a class among which `representative` selection seeks clusters; there 0 means all, which is more than any number."""


def capped(resolved: Resolved) -> Resolved:
    """The recipe at small scale, with a note `field: from -> to` for everything that was lowered."""
    notes: list[str] = []
    method, evaluation = resolved.method.model_dump(mode="json"), resolved.evaluation.model_dump(mode="json")
    for tree, caps, name in ((method, _caps(resolved.method), "method"), (evaluation, _EVALUATION, "evaluation")):
        for path, cap in caps.items():
            _lower(tree, path.split("."), cap, name, notes)
    selection = method["selection"]
    if selection.get("num_candidates") == 0:
        selection["num_candidates"] = _CANDIDATES
        notes.append(f"method.selection.num_candidates: 0 -> {_CANDIDATES}")
    return Resolved(
        MethodSpec.model_validate(method, strict=False), EvaluationSpec.model_validate(evaluation, strict=False), tuple(notes)
    )


def _caps(method: MethodSpec) -> dict[str, float]:
    """Those of a method; one that counts networks gets as many as serve the iterations of the others."""
    caps = _METHOD | (_SECOND_ORDER if isinstance(method.objective, GradientSpec) else {})
    if not isinstance(method.models, CountedNetworksSpec):
        return caps
    limits = (cap for path, cap in _METHOD.items() if path.endswith("steps_per_network"))
    return {"num_networks": _METHOD["num_iterations"] // min(method.models.most_steps_per_network, *limits), **caps}


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
        tree[key] = cap
        notes.append(f"{name}.{key}: {value} -> {cap}")
