"""The adversary's losses by hand and against loops, who moves whom, and that it gets better at its own game."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from core.data.real_set import RealSet
from core.distillation.build import build
from core.distillation.engine import Engine
from core.distillation.plan import Draw
from core.distillation.step import Step, take
from core.distillation.terms.adversarial_contrast import AdversarialContrast, cosine, supervised_contrast
from core.errors import SpecError
from core.experts import TrainedHere
from core.progress import Record

pytestmark = pytest.mark.unit
PAIRED = {"kind": "bases_hallucinators", "num_bases_per_class": 2, "num_hallucinators": 3}


def engine_of(digits: RealSet, small_spec: Any, **term: Any) -> tuple[Engine, AdversarialContrast]:
    method = {
        "parameterization": PAIRED, "terms": [{"kind": "adversarial_contrast", **term}],
        "optimizer": {"lr_img": 0.01, "lr_hallucinator": 1e-3},
    }
    engine = Engine(
        build(small_spec(method=method), digits, TrainedHere(digits)), digits, seed=0, num_iterations=4, record=Record()
    )
    loss = engine.parts.losses[1]
    assert isinstance(loss, AdversarialContrast)
    return engine, loss


def own_loss(loss: AdversarialContrast, step: Step) -> Tensor:
    """What the adversary minimises, on the pairs of a step."""
    rows = step.syn.rows[step.syn.draws.index(Draw("pairs"))]
    return loss._loss(loss.state()["params"], take(step.syn.images.detach(), rows), take(step.syn.classes, rows[0]), step)


def naive_contrast(embeddings: Tensor, classes: list[int], temperature: float) -> float:
    unit = [row / row.norm() for row in embeddings.double()]
    total = 0.0
    for i, anchor in enumerate(unit):
        others = [k for k in range(len(unit)) if k != i]
        below = sum(math.exp(float(anchor @ unit[k]) / temperature) for k in others)
        positive = [k for k in others if classes[k] == classes[i]]
        total -= sum(math.log(math.exp(float(anchor @ unit[k]) / temperature) / below) for k in positive) / len(positive)
    return total / len(unit)


class TestLosses:
    def test_cosine_by_hand(self) -> None:
        first = torch.tensor([[1.0, 0.0], [3.0, 4.0], [1.0, 0.0]])
        second = torch.tensor([[0.0, 2.0], [6.0, 8.0], [-5.0, 0.0]])
        torch.testing.assert_close(cosine(first, second), torch.tensor([0.0, 1.0, -1.0]))

    def test_contrast_by_hand(self) -> None:
        """Two classes of two equal views, orthogonal to each other: each anchor gives ln (e + 2) - 1."""
        embeddings = torch.tensor([[1.0, 0.0], [0.0, 3.0], [2.0, 0.0], [0.0, 1.0]])
        found = supervised_contrast(embeddings, torch.tensor([0, 1, 0, 1]), 1.0)
        assert found.item() == pytest.approx(math.log(math.e + 2) - 1)

    def test_contrast_equals_a_loop(self) -> None:
        embeddings = torch.randn(8, 5, generator=torch.Generator().manual_seed(0))
        classes = [0, 1, 2, 0, 1, 2, 0, 0]
        found = supervised_contrast(embeddings, torch.tensor(classes), 0.5)
        assert found.item() == pytest.approx(naive_contrast(embeddings, classes, 0.5), rel=1e-5)

    def test_gradcheck(self) -> None:
        embeddings = torch.randn(6, 3, dtype=torch.float64, requires_grad=True)
        classes = torch.tensor([0, 1, 0, 1, 1, 0])
        assert torch.autograd.gradcheck(lambda x: supervised_contrast(x, classes, 0.5), (embeddings,))
        assert torch.autograd.gradcheck(lambda x: cosine(x[:3], x[3:]), (embeddings,))


class TestSide:
    def test_equal_views_cost_one_and_orthogonal_ones_a_half(
        self, digits: RealSet, small_spec: Any, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        engine, loss = engine_of(digits, small_spec)
        step, _ = engine._prepare(0)
        views = F.one_hot(torch.arange(20) % 4).float()
        for second, expected in ((views, 1.0), (views.roll(1, 1), 0.5), (-views, 0.0)):
            seen = {"flat": torch.stack([views, second])}
            monkeypatch.setattr(loss, "_look", lambda *_, seen=seen: seen)
            assert loss.value(step).item() == pytest.approx(expected)

    def test_pairs_show_one_basis_through_two_hallucinators(self, digits: RealSet, small_spec: Any) -> None:
        engine, loss = engine_of(digits, small_spec)
        step, _ = engine._prepare(0)
        rows = step.syn.rows[step.syn.draws.index(Draw("pairs"))]
        assert rows.shape == (2, 20)
        assert torch.equal(take(step.syn.classes, rows[0]), take(step.syn.classes, rows[1]))
        assert not torch.equal(take(step.syn.images, rows[0]), take(step.syn.images, rows[1]))
        assert engine.num_virtual == 20 + 40
        assert not loss.plan().separable
        assert list(step.chunks(1)) == [step]

    def test_gradient_reaches_the_images_alone(self, digits: RealSet, small_spec: Any) -> None:
        engine, loss = engine_of(digits, small_spec)
        step, _ = engine._prepare(0)
        loss.value(step).backward()
        assert step.syn.images.grad is not None
        rows = step.syn.rows[step.syn.draws.index(Draw("pairs"))].flatten()
        assert (step.syn.images.grad[rows].flatten(1).abs().sum(1) > 0).all()
        assert not any(tensor.requires_grad for tensor in loss.state().values())

    def test_some_bases_are_enough(self, digits: RealSet, small_spec: Any) -> None:
        engine, _ = engine_of(digits, small_spec, num_bases=7)
        assert engine.num_virtual == 20 + 14
        engine.iterate()


class TestAdversary:
    def test_moves_in_update_alone(self, digits: RealSet, small_spec: Any) -> None:
        engine, loss = engine_of(digits, small_spec)
        before = {name: value.clone() for name, value in loss.state().items()}
        engine.trial()
        assert all(torch.equal(value, before[name]) for name, value in loss.state().items())
        engine.iterate()
        assert all(not torch.equal(value, before[name]) for name, value in loss.state().items())

    def test_its_loss_is_the_weighted_sum(self, digits: RealSet, small_spec: Any) -> None:
        values = []
        for weights in ((1.0, 0.0, 0.0), (0.0, 1.0, 0.0), (0.0, 0.0, 1.0), (1.0, 0.1, 0.1)):
            names = ("classification_weight", "contrast_weight", "alignment_weight")
            engine, loss = engine_of(digits, small_spec, **dict(zip(names, weights, strict=True)))
            values.append(own_loss(loss, engine._prepare(0)[0]).item())
        assert values[3] == pytest.approx(values[0] + 0.1 * values[1] + 0.1 * values[2], rel=1e-5)
        assert values[0] == pytest.approx(math.log(10), rel=0.2)
        assert 0.0 <= values[2] <= 1.0

    def test_step_is_that_of_pytorchs_sgd(self, digits: RealSet, small_spec: Any) -> None:
        engine, loss = engine_of(digits, small_spec, lr_net=0.1)
        params = loss.state()["params"].clone().requires_grad_()
        optimizer = torch.optim.SGD([params], lr=0.1, momentum=0.9)
        for number in range(3):
            step, _ = engine._prepare(number)
            rows = step.parameterization.indices(Draw("pairs"), step.rng("adversary/draw"))
            images, classes = step.parameterization.decode(rows.flatten())
            own = loss._loss(params, images.detach().unflatten(0, rows.shape), classes[:20], step)
            params.grad = torch.autograd.grad(own, params)[0]
            optimizer.step()
            loss.update(step)
            torch.testing.assert_close(loss.state()["params"], params.detach())

    def test_it_improves_its_own_loss(self, digits: RealSet, small_spec: Any) -> None:
        engine, loss = engine_of(digits, small_spec, lr_net=0.05)
        fixed, _ = engine._prepare(99)
        before = own_loss(loss, fixed).item()
        for number in range(15):
            loss.update(engine._prepare(number)[0])
        assert own_loss(loss, fixed).item() < 0.8 * before

    def test_the_set_makes_its_views_less_alike(self, digits: RealSet, small_spec: Any) -> None:
        """Alone against an adversary that stands still, it lowers the cosine."""
        both, loss = engine_of(digits, small_spec, weight=100.0, lr_net=1e-9)
        alone = replace(both.parts, losses=(loss,))
        engine = Engine(alone, digits, seed=0, num_iterations=12, record=Record(), compiled=False)

        def alike() -> float:
            return sum(loss.value(engine._prepare(number)[0]).item() for number in range(50, 56)) / 6

        before = alike()
        for _ in range(12):
            engine.iterate()
        assert alike() < before - 0.02


@pytest.mark.parametrize(("parameterization", "pointer", "words"), [
    ({"kind": "pixels"}, "/method/terms/0", ("adversarial_contrast", "pixels")),
    ({"kind": "multi_formation"}, "/method/terms/0", ("adversarial_contrast", "multi_formation")),
    ({"kind": "bases_hallucinators", "num_hallucinators": 1}, "/method/parameterization/num_hallucinators",
     ("adversarial_contrast", "parameterization.num_hallucinators is 1")),
])
def test_refused_without_pairs(small_spec: Any, parameterization: Any, pointer: str, words: tuple[str, ...]) -> None:
    with pytest.raises(SpecError) as caught:
        small_spec(method={"parameterization": parameterization, "terms": [{"kind": "adversarial_contrast"}]})
    found = {problem.pointer: problem.message for problem in caught.value.problems}
    assert all(word in found[pointer] for word in words)
