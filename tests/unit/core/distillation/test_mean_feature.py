"""DM: values by hand, and value and update of the whole iteration against a per-class loop in float64."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from core.data.real_set import RealSet
from core.distillation.build import build
from core.distillation.engine import Engine
from core.distillation.objectives.mean_feature import squared_mean_distance
from core.distillation.randomness import rng
from core.experts import TrainedHere
from core.progress import Record

pytestmark = pytest.mark.unit


class TestLoss:
    def test_by_hand(self) -> None:
        real = torch.tensor([[[1.0, 0.0], [3.0, 2.0]], [[0.0, 0.0], [0.0, 4.0]]])  # means (2, 1) and (0, 2)
        syn = torch.tensor([[[0.0, 1.0]], [[1.0, 5.0]]])
        assert squared_mean_distance(real, syn).tolist() == [4.0, 10.0]

    def test_shares_weigh_the_real_images(self) -> None:
        real, syn = torch.tensor([[[1.0, 0.0], [5.0, 4.0]]]), torch.tensor([[[0.0, 1.0]]])
        assert squared_mean_distance(real, syn, torch.tensor([[0.75, 0.25]])).tolist() == [4.0]  # mean (2, 1)
        assert squared_mean_distance(real, syn, torch.tensor([[0.5, 0.5]])).equal(squared_mean_distance(real, syn))

    def test_is_zero_where_the_sets_are_equal(self) -> None:
        features = torch.randn(3, 5, 7)
        assert squared_mean_distance(features, features).tolist() == [0.0, 0.0, 0.0]

    def test_gradient(self) -> None:
        real, syn = (torch.randn(2, n, 3, dtype=torch.float64, requires_grad=True) for n in (4, 2))
        assert torch.autograd.gradcheck(lambda s: squared_mean_distance(real.detach(), s), (syn,))


def engine_for(spec: Any, data: RealSet, num_iterations: int = 4) -> Engine:
    parts = build(spec, data, TrainedHere(data))
    return Engine(parts, data, seed=spec.seed, num_iterations=num_iterations, record=Record(), compiled=False)


def real_index(engine: Engine, number: int) -> Tensor:
    """Positions of the real images of an iteration."""
    index = engine._prepare(number)[0].real_index
    assert index is not None
    return index


def naive_loss(engine: Engine, images: Tensor, number: int) -> Tensor:
    """One class after another, in float64, with the draws of the engine's iteration."""
    parts, data, seed = engine.parts, engine.data, engine.seed
    params = parts.net.init(rng(seed, "network", number)).double()
    index = real_index(engine, number)
    transform = parts.augmentation.draw(data.num_classes, rng(seed, "augmentation", number))
    total = torch.zeros((), dtype=torch.float64)
    for label in range(data.num_classes):
        one = transform.narrow(label, label + 1)
        mine = images.view(data.num_classes, -1, *images.shape[1:])[label]
        real = one.apply(data.gather(index[label]).double()[None])[0]
        features = [parts.net(params, {}, x[None], ("flat",))["flat"][0] for x in real]
        mean = sum(features[1:], features[0]) / len(features)
        syn = [parts.net(params, {}, x[None], ("flat",))["flat"][0] for x in one.apply(mine[None])[0]]
        total = total + ((mean - sum(syn[1:], syn[0]) / len(syn)) ** 2).sum()
    return total


@pytest.mark.parametrize("chunk", [2, 6, 1000])
@pytest.mark.parametrize("augmentation", ["dsa", "none"])
def test_iteration_equals_a_loop_over_classes(digits: RealSet, small_spec: Any, augmentation: str, chunk: int) -> None:
    spec = small_spec(method={"augmentation": {"kind": augmentation}})
    engine = engine_for(spec, digits, num_iterations=1)
    engine.chunk_images = chunk
    start = engine.initial.double().requires_grad_()
    loss = naive_loss(engine, start, 0)
    (gradient,) = torch.autograd.grad(loss, start)
    engine.iterate()
    moved = engine.initial - engine.decoded()[0]
    assert float((moved.double() - gradient).norm() / gradient.norm()) < 1e-5
    assert float(engine._pending[0][1]) == pytest.approx(float(loss.detach()), rel=1e-5)


def test_loss_is_zero_when_the_synthetic_set_is_the_real_batch(digits: RealSet, small_spec: Any) -> None:
    spec = small_spec(ipc=6, method={"augmentation": {"kind": "dsa"}, "selection": {"real_batch_per_class": 6}})
    engine = engine_for(spec, digits, num_iterations=1)
    batch = digits.gather(real_index(engine, 0))
    engine.parts.parameterization.fill(batch)
    engine.iterate()
    assert float(engine._pending[0][1]) < 1e-9
    torch.testing.assert_close(engine.decoded()[0], batch.flatten(0, 1), rtol=0, atol=1e-5)
