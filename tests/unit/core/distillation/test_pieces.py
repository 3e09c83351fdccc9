"""Losses that couple classes are computed whole and the others in chunks, to the gradient of all of them at once."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from core.data.real_set import RealSet
from core.distillation.build import build
from core.distillation.engine import Engine
from core.distillation.step import Step
from core.distillation.terms.adversarial_contrast import AdversarialContrast
from core.distillation.terms.mutual_information import MutualInformation
from core.experts import TrainedHere
from core.progress import Record
from tests.unit.core.distillation.steps import doubled

pytestmark = pytest.mark.unit

GRADIENT = {"kind": "gradient"}
SUMMED = {"kind": "gradient", "grouping": "summed", "summed_from_step": 0}
WITH_FEATURES = {"kind": "gradient", "feature_weight": 0.5}
MEANS = {"kind": "mean_feature"}
CONTRAST = {"kind": "mutual_information", "embedding_width": 5}
DISCRIMINATIVE = {"kind": "class_discriminative"}
ADVERSARY = {"kind": "adversarial_contrast"}
CENTRALIZATION = {
    "kind": "class_centralization", "network": {"kind": "convnet", "width": 4, "depth": 1}, "num_networks": 1,
    "training": {"num_epochs": 0},
}
FACTORS = {"kind": "bases_hallucinators", "num_bases_per_class": 3, "num_hallucinators": 2}
EXPERTS = {
    "kind": "expert_segments", "num_networks": 1, "training": {"num_epochs": 1}, "span_epochs": 1, "max_start_epoch": 1,
}


@pytest.fixture
def engine_of(digits: RealSet, small_spec: Any) -> Any:
    def make(objective: dict[str, Any], *terms: dict[str, Any], **method: Any) -> Engine:
        method |= {"objective": objective, "terms": list(terms)}
        if ADVERSARY in terms:
            method["parameterization"] = FACTORS
        parts = build(small_spec(method=method), digits, TrainedHere(digits))
        return Engine(parts, digits, seed=0, num_iterations=4, record=Record(), compiled=False)

    return make


@pytest.mark.parametrize(("losses", "whole", "cut"), [
    ((MEANS,), (), (0,)),
    ((GRADIENT, CENTRALIZATION), (), (0, 1)),
    ((GRADIENT, CONTRAST), (1,), (0,)),
    ((WITH_FEATURES, CONTRAST), (1,), (0,)),
    ((MEANS, CONTRAST), (0, 1), ()),
    ((MEANS, DISCRIMINATIVE, CENTRALIZATION), (0, 1), (2,)),
    ((MEANS, ADVERSARY), (1,), (0,)),
    ((MEANS, ADVERSARY, CONTRAST), (0, 1, 2), ()),
], ids=lambda value: ",".join(loss["kind"] for loss in value) if value and isinstance(value[0], dict) else "")
def test_which_losses_are_cut(engine_of: Any, losses: Any, whole: tuple[int, ...], cut: tuple[int, ...]) -> None:
    engine = engine_of(*losses)
    found = {piece.cut: [engine.parts.losses.index(loss) for loss in piece.losses] for piece in engine.pieces}
    assert found == {key: list(places) for key, places in ((False, whole), (True, cut)) if places}
    assert [piece.cut for piece in engine.pieces] == sorted(found)  # what is kept for updates is computed first
    for piece in engine.pieces:
        assert engine.num_images(piece.plan) <= engine.num_virtual


def test_a_trajectory_is_never_cut_and_what_stands_beside_it_is(engine_of: Any) -> None:
    engine = engine_of({"kind": "trajectory", "num_steps": 2}, CENTRALIZATION, models=EXPERTS)
    assert [(len(piece.losses), piece.cut) for piece in engine.pieces] == [(1, False), (1, True)]


def test_nothing_is_cut_where_images_of_a_pass_mix(engine_of: Any) -> None:
    engine = engine_of(GRADIENT, CONTRAST, network={"kind": "convnet", "width": 4, "depth": 1, "norm": "batch"})
    assert [(len(piece.losses), piece.cut) for piece in engine.pieces] == [(2, False)]


def in_float64(engine: Engine) -> Step:
    for loss in engine.parts.losses:
        if isinstance(loss, MutualInformation):
            loss._heads = loss._heads.double()
        if isinstance(loss, AdversarialContrast):
            loss._params = loss._params.double()
    return doubled(engine._prepare(0)[0])


@pytest.mark.parametrize("losses", [
    (GRADIENT, CONTRAST), (SUMMED, CONTRAST), (WITH_FEATURES, CONTRAST), (MEANS, CONTRAST), (MEANS, ADVERSARY),
    (GRADIENT, ADVERSARY, CONTRAST),
], ids=lambda losses: ",".join(loss["kind"] for loss in losses))
@pytest.mark.parametrize("limit", [3, 1000])
def test_pieces_add_up_to_the_gradient_of_all_losses_at_once(engine_of: Any, losses: Any, limit: int) -> None:
    engine = engine_of(*losses)
    step = in_float64(engine)
    value = torch.stack([loss.weight * loss.value(step).sum() for loss in engine.parts.losses]).sum()
    (wanted,) = torch.autograd.grad(value, step.syn.images)
    engine.chunk_images = limit
    seen = [_watch(loss) for loss in engine.parts.losses]
    step = in_float64(engine)
    total = engine._to_the_leaves(step)
    found = step.syn.images.grad
    assert found is not None
    torch.testing.assert_close(total, value.detach(), rtol=1e-9, atol=0)
    torch.testing.assert_close(found, wanted, rtol=1e-9, atol=1e-12 * float(wanted.abs().max()))
    cut = [loss for piece in engine.pieces if piece.cut for loss in piece.losses]
    for loss, spans in zip(engine.parts.losses, seen, strict=True):
        assert [start for start, _ in spans] == [0, *(stop for _, stop in spans[:-1])]
        assert spans[-1][1] == 10
        assert (len(spans) > 1) == (loss in cut and limit < 1000)


def _watch(loss: Any) -> list[tuple[int, int]]:
    """The classes of each step that a loss sees from now on."""
    original, spans = loss.value, []

    def value(step: Step) -> Tensor:
        spans.append((step.start, step.stop))
        found: Tensor = original(step)
        return found

    loss.value = value
    return spans


def test_the_update_that_follows_sees_the_features_of_the_iteration(engine_of: Any) -> None:
    """Heads learn from what moved the set; it is not computed again."""
    engine = engine_of(GRADIENT, CONTRAST)
    engine.chunk_images = 4
    step, _ = engine._gradient(0)
    assert set(step._features) == {("syn", step.plan.per_class), ("real", step.plan.per_class)}
    before = engine.parts.losses[1].state()["heads"]
    engine.parts.losses[1].update(step)
    assert not torch.equal(engine.parts.losses[1].state()["heads"], before)
