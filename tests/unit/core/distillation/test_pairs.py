"""A pairwise covering set of the slots' kinds: every two kinds that may meet take a few steps together, packed and unpacked.

Combinations are grown greedily from a fixed seed. What no combination covers must be a pair that is refused, by a message that
names both fields.
"""

from __future__ import annotations

import itertools
import random
from collections.abc import Iterator
from functools import cache
from typing import Any

import pytest
import torch

from core.data.real_set import RealSet
from core.distillation.distil import distil
from core.errors import SpecError
from core.experts import TrainedHere
from core.specs.job import DistillationSpec, JobRequest
from core.specs.resolve import resolve

pytestmark = pytest.mark.unit

TRAINED = {"training": {"num_epochs": 1}}
SPREAD_NETWORK = {"kind": "convnet", "width": 4, "depth": 1}
SLOTS: dict[str, dict[str, Any]] = {
    "objective": {
        **{name: {"kind": name} for name in ("mean_feature", "layerwise_feature", "rkhs", "gaussian")},
        "gradient": {"kind": "gradient"},
        "summed gradient": {"kind": "gradient", "grouping": "summed", "summed_from_step": 1, "feature_weight": 0.1},
        "convolutions": {"kind": "gradient", "distance": "squared", "parameters": "convolutions"},
        "trajectory": {"kind": "trajectory", "num_steps": 2, "batch_size": 4},
    },
    "terms": {
        "none": [],
        "class_centralization": [{"kind": "class_centralization", "num_networks": 1, "network": SPREAD_NETWORK, **TRAINED}],
        "local_covariance": [{"kind": "local_covariance"}],
        "historical_prototypes": [{"kind": "historical_prototypes", "start_iteration": 1}],
        "class_discriminative": [{"kind": "class_discriminative"}],
        "classification_regulariser": [{"kind": "classification_regulariser", "weight": 1.0}],
        "adversarial_contrast": [{"kind": "adversarial_contrast"}],
        "mutual_information": [{"kind": "mutual_information"}],
    },
    "models": {
        "fresh_random": {"kind": "fresh_random"},
        "pretrained_pool": {"kind": "pretrained_pool", "num_networks": 1, **TRAINED},
        "growing_queue": {"kind": "growing_queue", "num_steps": 1, "batch_size": 8},
        "dynamic_bilevel": {"kind": "dynamic_bilevel", "window": 2, "max_epochs": 1, "num_watched": 2},
        "trained_on_synthetic": {"kind": "trained_on_synthetic", "steps_per_network": 2, "num_epochs": 1},
        "trained_on_real": {"kind": "trained_on_real", "steps_per_network": 2, "num_images": 16},
        "expert_segments": {
            "kind": "expert_segments", "num_networks": 1, "span_epochs": 1, "max_start_epoch": 1, **TRAINED,
        },
    },
    "parameterization": {
        "pixels": {"kind": "pixels"}, "unit pixels": {"kind": "pixels", "space": "unit"},
        "multi_formation": {"kind": "multi_formation"},
        "time": {"kind": "multi_formation", "axes": "time", "space": "normalised"},
        "bases_hallucinators": {"kind": "bases_hallucinators", "num_hallucinators": 2, "hallucinators_per_basis": 2},
    },
    "selection": {
        "uniform": {"kind": "uniform", "real_batch_per_class": 6},
        "representative": {
            "kind": "representative", "real_batch_per_class": 6, "num_candidates": 20, "weighting": "cluster_size",
        },
    },
    "labels": {name: {"kind": name} for name in ("hard", "learned", "teacher")},
    "augmentation": {name: {"kind": name} for name in ("dsa", "idc", "none")},
    "init": {
        "random": {"kind": "random"}, "noise": {"kind": "noise"}, "k_means": {"kind": "k_means"},
        "correctly_classified": {"kind": "correctly_classified"},
        **{name: {"kind": name, **TRAINED} for name in ("herding", "k_center", "forgetting")},
    },
    "network": {
        "instance": {"kind": "convnet", "width": 4, "depth": 1}, "mlp": {"kind": "mlp", "width": 8},
        "batch": {"kind": "convnet", "width": 4, "depth": 2, "norm": "batch"},
    },
    "ipc": {"1": 1, "2": 2},
}
UNTRAINED = ("fresh_random", "growing_queue", "dynamic_bilevel", "trained_on_synthetic", "trained_on_real")
"""Kinds of models without a pool."""
TOGETHER = {"trajectory": {"models": "expert_segments"}, "expert_segments": {"objective": "trajectory"}}
"""Kinds that need one another."""
Combination = dict[str, str]
Pair = tuple[tuple[str, str], tuple[str, str]]
REFUSED: set[Pair] = {
    (("objective", "layerwise_feature"), ("network", "mlp")),
    (("objective", "convolutions"), ("network", "mlp")),
    (("terms", "local_covariance"), ("network", "mlp")),
    (("terms", "classification_regulariser"), ("models", "fresh_random")),
    (("terms", "classification_regulariser"), ("models", "dynamic_bilevel")),
    (("terms", "classification_regulariser"), ("models", "trained_on_synthetic")),
    (("terms", "classification_regulariser"), ("models", "trained_on_real")),
    (("terms", "adversarial_contrast"), ("parameterization", "pixels")),
    (("terms", "adversarial_contrast"), ("parameterization", "unit pixels")),
    (("terms", "adversarial_contrast"), ("parameterization", "multi_formation")),
    (("terms", "adversarial_contrast"), ("parameterization", "time")),
    (("terms", "classification_regulariser"), ("models", "expert_segments")),
    (("objective", "trajectory"), ("terms", "classification_regulariser")),
    (("objective", "trajectory"), ("network", "batch")),
    (("models", "expert_segments"), ("network", "batch")),
    *((("objective", "trajectory"), ("models", name)) for name in SLOTS["models"] if name != "expert_segments"),
    *((("objective", name), ("models", "expert_segments")) for name in SLOTS["objective"] if name != "trajectory"),
    *((("models", name), ("labels", kind)) for name in UNTRAINED for kind in ("learned", "teacher")),
    *((("models", name), ("init", "correctly_classified")) for name in UNTRAINED),
}
"""Pairs of kinds that mean nothing together; with ipc 1 and stored pixels there are triples, too."""


def specification(choice: Combination) -> DistillationSpec:
    method = {slot: SLOTS[slot][kind] for slot, kind in choice.items() if slot != "ipc"}
    method |= {"num_iterations": 3, "optimizer": {"kind": "sgd", "lr_img": 0.01, "lr_hallucinator": 1e-4}}
    body = {
        "dataset": {"name": "digits"}, "ipc": SLOTS["ipc"][choice["ipc"]], "method": method,
        "evaluation": {"network": SPREAD_NETWORK},
    }
    return resolve(JobRequest.model_validate(body, strict=False))


def kind_of(slot: str, name: str) -> str:
    choice = SLOTS[slot][name]
    return str(choice["kind"]) if isinstance(choice, dict) else name


def pairs_of(choice: Combination) -> Iterator[Pair]:
    yield from itertools.combinations(choice.items(), 2)


@cache
def is_legal(choice: tuple[tuple[str, str], ...]) -> bool:
    try:
        specification(dict(choice))
    except SpecError:
        return False
    return True


@cache
def covering() -> tuple[tuple[Combination, ...], frozenset[Pair]]:
    """Combinations that cover every pair that can be covered, and the pairs that cannot."""
    draw = random.Random(0)
    missing = {
        ((a, x), (b, y)) for a, b in itertools.combinations(SLOTS, 2) for x, y in itertools.product(SLOTS[a], SLOTS[b])
    }
    found: list[Combination] = []
    impossible: set[Pair] = set()
    while missing - impossible:
        pair = min(missing - impossible)
        best: Combination | None = None
        for _ in range(60):
            choice = {slot: draw.choice(list(kinds)) for slot, kinds in SLOTS.items()}
            for _, kind in pair:
                choice |= TOGETHER.get(kind, {})
            choice |= dict(pair)
            if is_legal(tuple(choice.items())) and (
                best is None or len(missing & set(pairs_of(choice))) > len(missing & set(pairs_of(best)))
            ):
                best = choice
        if best is None:
            impossible.add(pair)
            continue
        found.append(best)
        missing -= set(pairs_of(best))
    return tuple(found), frozenset(impossible)


@pytest.fixture(scope="module")
def experts(digits: RealSet) -> TrainedHere:
    return TrainedHere(digits)


def test_exactly_the_known_pairs_are_refused() -> None:
    assert covering()[1] == REFUSED


@pytest.mark.parametrize("pair", sorted(REFUSED), ids=lambda pair: f"{pair[0][1]}-{pair[1][1]}")
def test_refusal_names_both_fields(pair: Pair) -> None:
    (first, x), (second, y) = pair
    plain = {slot: next(iter(kinds)) for slot, kinds in SLOTS.items()} | {"ipc": "2"}
    plain |= TOGETHER.get(x, {}) | TOGETHER.get(y, {})
    with pytest.raises(SpecError) as caught:
        specification(plain | {first: x, second: y})
    (problem,) = caught.value.problems
    assert kind_of(first, x) in problem.message
    assert kind_of(second, y) in problem.message


def test_every_pair_takes_a_few_steps(digits: RealSet, experts: TrainedHere) -> None:
    combinations, _ = covering()
    assert len(combinations) > 30
    for choice in combinations:
        result = distil(specification(choice), digits, experts, compiled=False)
        assert result.images.isfinite().all(), choice
        assert not torch.equal(result.images.flatten(0, 0), torch.zeros_like(result.images)), choice
        assert result.engine.completed == 3, choice
