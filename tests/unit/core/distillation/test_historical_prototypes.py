from __future__ import annotations

import pytest
import torch
from torch import Tensor

from core.data.real_set import RealSet
from core.distillation.augmentation.dsa import DSA
from core.distillation.objectives.mean_feature import MeanFeature
from core.distillation.randomness import rng
from core.distillation.step import Step
from core.distillation.terms.historical_prototypes import HistoricalPrototypes, squared_distance
from core.specs.augmentation import DSASpec
from core.specs.objective import MeanFeatureSpec
from core.specs.terms import HistoricalPrototypesSpec
from tests.unit.core.distillation.steps import IPC, NUM_CLASSES, real_images, step_for

pytestmark = pytest.mark.unit


def term(**fields: object) -> HistoricalPrototypes:
    return HistoricalPrototypes(HistoricalPrototypesSpec.model_validate({"start_iteration": 2, "decay": 0.75, **fields}))


def sets(data: RealSet, number: int) -> Tensor:
    return data.gather(real_images(data, IPC, first=7 * number)).flatten(0, 1)


def means(step: Step) -> Tensor:
    """Class means of the set of a step, as it is."""
    net, images = step.weights.net, step.syn.images.detach()
    return net(step.weights.params, {}, images, ("flat",))["flat"].view(NUM_CLASSES, IPC, -1).mean(1)


class TestDistance:
    @pytest.mark.parametrize(("per_feature", "expected"), [(False, 13.0), (True, 6.5)])
    def test_by_hand(self, per_feature: bool, expected: float) -> None:
        features, prototypes = torch.tensor([[[1.0, 0.0], [3.0, 4.0]]]), torch.tensor([[0.0, 5.0]])
        assert squared_distance(features, prototypes, per_feature=per_feature).tolist() == [expected]

    def test_gradcheck(self) -> None:
        features = torch.randn(2, 3, 4, dtype=torch.float64, requires_grad=True)
        prototypes = torch.randn(2, 4, dtype=torch.float64)
        assert torch.autograd.gradcheck(lambda x: squared_distance(x, prototypes, per_feature=True), (features,))


class TestAverage:
    def test_starts_at_the_first_mean_and_decays(self, digits: RealSet) -> None:
        loss = term()
        assert loss.state() == {}
        expected: Tensor | None = None
        for number in range(3):
            step = step_for([loss], digits, images=sets(digits, number), number=number)
            loss.update(step)
            mean = means(step)
            expected = mean if expected is None else 0.75 * expected + 0.25 * mean
            torch.testing.assert_close(loss.state()["average"], expected, rtol=1e-5, atol=1e-6)
        assert not loss.state()["average"].requires_grad

    def test_sees_the_updated_set(self, digits: RealSet) -> None:
        loss = term()
        step = step_for([loss], digits)
        step.parameterization.images = sets(digits, 5)  # type: ignore[attr-defined]
        loss.update(step)
        expected = means(step_for([loss], digits, images=sets(digits, 5)))
        torch.testing.assert_close(loss.state()["average"], expected, rtol=1e-5, atol=1e-6)

    def test_is_taken_under_a_draw_of_its_own(self, digits: RealSet) -> None:
        loss = term()
        step = step_for([loss], digits, augmentation=DSA(DSASpec()))
        loss.update(step)
        transform = step.augmentation.draw(NUM_CLASSES, rng(3, "history/augmentation", 0))
        images = transform.apply(step.images("syn", step.plan.syn[0]).detach())
        expected = step.taps(step.weights, step.forward, images, ("flat",))["flat"].mean(1)
        torch.testing.assert_close(loss.state()["average"], expected)
        assert not torch.allclose(expected, step.features("syn")["flat"].mean(1))

    def test_returns_from_a_checkpoint(self, digits: RealSet) -> None:
        whole, first, second = term(), term(), term()
        steps = [step_for([whole], digits, images=sets(digits, n), number=n) for n in range(4)]
        for step in steps:
            whole.update(step)
        for step in steps[:2]:
            first.update(step)
        second.load({name: value.clone() for name, value in first.state().items()})
        assert torch.equal(second.value(steps[2]), first.value(steps[2]))
        for step in steps[2:]:
            second.update(step)
        assert torch.equal(second.state()["average"], whole.state()["average"])
        second.load({})
        assert second.state() == {}


class TestValue:
    def test_is_zero_and_harmless_before_the_start(self, digits: RealSet) -> None:
        loss, objective = term(), MeanFeature(MeanFeatureSpec())
        step = step_for([objective, loss], digits, number=1)
        total = torch.stack([part.weight * part.value(step).sum() for part in (objective, loss)]).sum()
        total.backward()
        assert not loss.value(step).any()
        assert total.item() == pytest.approx(objective.value(step).sum().item())
        assert step.syn.images.grad is not None

    @pytest.mark.parametrize("per_feature", [True, False])
    def test_is_the_distance_from_the_average_afterwards(self, digits: RealSet, per_feature: bool) -> None:
        loss = term(per_feature=per_feature)
        loss.update(step_for([loss], digits, images=sets(digits, 0), number=0))
        average = loss.state()["average"]
        step = step_for([loss], digits, images=sets(digits, 1), number=2)
        value = loss.value(step)
        squares = (means(step) - average).square()
        torch.testing.assert_close(value, squares.mean(1) if per_feature else squares.sum(1), rtol=1e-4, atol=1e-7)
        value.sum().backward()
        assert step.syn.images.grad is not None
        assert (step.syn.images.grad.flatten(1).abs().sum(1) > 0).all()

    def test_is_zero_where_nothing_moved(self, digits: RealSet) -> None:
        loss = term()
        step = step_for([loss], digits, number=2)
        loss.update(step)
        assert loss.value(step).max() < 1e-10
