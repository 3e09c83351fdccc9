"""Scale `small`: every recipe in at most three minutes of distillation on two CPU cores (Fashion-MNIST, width 32).

That holds for ipc 1 and 10. A cap lowers a number and never raises one; `*` in a path stands for every item of a list. What so
few iterations need otherwise is scaled, as looked at on Fashion-MNIST at ipc 10 (seed 0, one network): M3D's rate of 20 reached
76.0 % and 5 reached 81.4 %; IDM's printed rate moves packed images twenty times more slowly than DM's (75.6 %), and at rate 5
its cross-entropy outweighs the features of a narrow network: weights of 50, 5, 1 and 0 reached 75.5, 77.5, 78.5 and 80.9 %.
HaBa's rates of 100, published for CIFAR-10, made images of 1e5 in 24 iterations. With 10 for bases and 0.01 for hallucinators
it reached 78.1 %; from hallucinators near the identity 78.7, then with 3 for bases 79.9, with 100 69.9, and with 3 and 0.1 for
hallucinators 76.3 % (MTT 78.7). The rate of IDC and DREAM is made for 200,000 steps and hardly moves an image in 300: ten, a
hundred and a thousand times that rate reached 77.4, 79.3 and 75.0 %.
MIM4DD's weight of 0.8, on DM, cost two and a half points (77.0 beside 79.4 %), a tenth of it none (79.4 %).
DC does not get from noise to what random real images reach (74.0 %) in 300 steps: its rate, ten and a hundred times that
reached 70.3, 74.6 and 75.1 %. What starts from noise starts from real images here; DC then reached 78.5 %.
Ten steps at the rate from which MTT learns its own (0.001) are far from an epoch of an expert (235 steps at 0.01); it begins at
0.02 here, where MTT reached 78.7 % (from 0.05: 76.9 %).
"""

from __future__ import annotations

from typing import Any

from core.specs.evaluation import EvaluationSpec
from core.specs.init import RandomInitSpec
from core.specs.method import MethodSpec
from core.specs.methods.common import Resolved
from core.specs.models import CountedNetworksSpec

_METHOD: dict[str, float] = {
    "num_iterations": 300,
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
_OF_OBJECTIVE: dict[str, dict[str, float]] = {
    "gradient": {"selection.real_batch_per_class": 32, "parameterization.max_per_class": 16},
    "trajectory": {
        "num_iterations": 250,
        "selection.real_batch_per_class": 32,
        "models.num_networks": 5,
        "models.training.num_epochs": 8,
        "models.span_epochs": 1,
        "models.min_start_epoch": 2,
        "models.initial_max_start_epoch": 3,
        "models.max_start_epoch": 6,
        "models.growth_iterations": 60,
        "objective.num_steps": 10,
    },
}
"""Caps of some objectives, in place of the common ones. Matching gradients takes about three times as long for each image as
matching features does. An iteration of a trajectory was measured to take 1.1 s of CPU time; ten steps do not reach as far as
two epochs of an expert, and get closer to one."""

_EVALUATION: dict[str, float] = {
    "network.width": 32,
    "num_eval": 3,
    "num_epochs": 300,
    "baseline_training.num_epochs": 3,
}
_IDM = {"optimizer.lr_img": 12.5, "terms.0.weight": 0.02}
_IDC = {"optimizer.lr_img": 100.0}
_HABA = {"optimizer.lr_img": 0.03, "optimizer.lr_hallucinator": 1e-4}
_FACTORS: dict[str, dict[str, float]] = {
    "m3d": {"optimizer.lr_img": 0.25}, "idm": _IDM, "iid_idm": _IDM, "idc": _IDC, "dream": _IDC, "dream_mim4dd": _IDC,
    "haba": _HABA, "dm_mim4dd": {"terms.0.weight": 0.1},
}
"""By recipe."""

_CHOICES = {"haba": {"parameterization.start": "near_identity"}}
"""By recipe."""

_LEAST_RATE = 0.02
"""At which trajectory matching begins to learn the rate of its steps."""

_WHERE_ZERO_MEANS_ALL: dict[str, int] = {"selection.num_candidates": 600, "objective.batch_size": 40}
"""Numbers of images for which 0 means all, which is more than any number: those among which `representative` selection seeks
clusters in a class, and those of a training step on the synthetic set."""


def at_small_scale(recipe: str, resolved: Resolved) -> Resolved:
    """A recipe at small scale, with a note `field: from -> to` for everything that was changed."""
    notes: list[str] = []
    method, evaluation = resolved.method.model_dump(mode="json"), resolved.evaluation.model_dump(mode="json")
    for tree, caps, name in ((method, _caps(resolved.method), "method"), (evaluation, _EVALUATION, "evaluation")):
        for path, cap in caps.items():
            _lower(tree, path.split("."), cap, name, notes)
    for path, factor in _FACTORS.get(recipe, {}).items():
        _scale(method, path.split("."), factor, "method", notes)
    for path, choice in _CHOICES.get(recipe, {}).items():
        slot, field = path.split(".")
        notes.append(f"method.{path}: {method[slot][field]} -> {choice}")
        method[slot][field] = choice
    if method["objective"]["kind"] == "trajectory" and method["objective"]["lr_net"] < _LEAST_RATE:
        notes.append(f"method.objective.lr_net: {method['objective']['lr_net']} -> {_LEAST_RATE}")
        method["objective"]["lr_net"] = _LEAST_RATE
    if method["init"]["kind"] == "noise":
        method["init"] = RandomInitSpec().model_dump(mode="json")
        notes.append("method.init.kind: noise -> random")
    for path, most in _WHERE_ZERO_MEANS_ALL.items():
        slot, field = path.split(".")
        value = method[slot].get(field)
        if value is not None and (value == 0 or value > most):
            method[slot][field] = most
            notes.append(f"method.{path}: {value} -> {most}")
    return Resolved(
        MethodSpec.model_validate(method, strict=False), EvaluationSpec.model_validate(evaluation, strict=False), tuple(notes)
    )


def _caps(method: MethodSpec) -> dict[str, float]:
    """Those of a method; one that counts networks gets as many as serve the iterations of the others."""
    caps = _METHOD | _OF_OBJECTIVE.get(method.objective.kind, {})
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


def _scale(tree: Any, path: list[str], factor: float, name: str, notes: list[str]) -> None:
    for key in path[:-1]:
        tree = tree[int(key)] if isinstance(tree, list) else tree[key]
    value = tree[path[-1]]
    tree[path[-1]] = scaled = float(f"{value * factor:.12g}")  # 0.08, not 0.08000000000000002
    notes.append(f"{'.'.join((name, *path))}: {value} -> {scaled}")
