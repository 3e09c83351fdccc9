"""Scale `small`: what it changes, and that it says so."""

from __future__ import annotations

import json
from typing import Any

import pytest

from core.specs.job import DistillationSpec, JobRequest
from core.specs.models import TrainedOnSyntheticSpec
from core.specs.resolve import resolve

pytestmark = pytest.mark.unit


def job(recipe: str, scale: str = "small", ipc: int = 10, **method: Any) -> DistillationSpec:
    body = {"dataset": {"name": "fashion-mnist"}, "ipc": ipc, "recipe": recipe, "scale": scale, "method": method}
    return resolve(JobRequest.model_validate_json(json.dumps(body)))


def test_caps_lower_and_are_noted() -> None:
    small = job("dm")
    assert small.method.num_iterations == 300
    assert "method.num_iterations: 20000 -> 300" in small.capped
    assert job("dm", "paper").capped == ()


def test_caps_never_raise() -> None:
    small = job("dc", ipc=1)
    assert isinstance(small.method.models, TrainedOnSyntheticSpec)
    assert small.method.models.steps_per_network == 1
    assert not any("steps_per_network" in note for note in small.capped)


@pytest.mark.parametrize("ipc", [1, 10])
def test_what_is_scaled_is_noted(ipc: int) -> None:
    small = job("m3d", ipc=ipc)
    assert small.method.optimizer.lr_img == 0.5 * ipc
    assert f"method.optimizer.lr_img: {2.0 * ipc} -> {0.5 * ipc}" in small.capped


@pytest.mark.parametrize("recipe", ["idm", "iid_idm"])
def test_a_term_is_scaled_alone(recipe: str) -> None:
    small = job(recipe)
    assert small.method.optimizer.lr_img == 5.0
    assert {"method.optimizer.lr_img: 0.4 -> 5.0", "method.terms.0.weight: 50.0 -> 1.0"} <= set(small.capped)
    assert [term.weight for term in small.method.terms[1:]] == [term.weight for term in job(recipe, "paper").method.terms[1:]]


def test_hallucinators_move_more_slowly_under_trajectories() -> None:
    small = job("haba")
    assert (small.method.optimizer.lr_img, small.method.optimizer.lr_hallucinator) == (3.0, 0.01)
    assert {
        "method.optimizer.lr_hallucinator: 100.0 -> 0.01", "method.parameterization.start: random -> near_identity",
    } <= set(small.capped)
    assert small.method.parameterization.kind == "bases_hallucinators"
    assert small.method.parameterization.start == "near_identity"


def test_a_choice_of_small_scale_can_be_overruled() -> None:
    found = job("haba", parameterization={"start": "random"})
    assert found.method.parameterization.kind == "bases_hallucinators"
    assert found.method.parameterization.start == "random"
    assert not any("parameterization.start" in note for note in found.capped)


def test_caps_of_terms_are_noted_until_the_request_replaces_them() -> None:
    note = "method.terms.0.start_iteration: 2001 -> 60"
    assert note in job("dsdm").capped
    assert note not in job("dsdm", terms=[{"kind": "historical_prototypes", "start_iteration": 5}]).capped
    assert note not in job("dsdm", terms=[]).capped
