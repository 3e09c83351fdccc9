from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

import pytest
import torch

from core.data.real_set import RealSet
from core.distillation.augmentation.dsa import DSA
from core.distillation.randomness import rng
from core.distillation.terms.class_centralization import ClassCentralization, spread
from core.experts import Pool
from core.networks.build import build_network
from core.specs.augmentation import DSASpec
from core.specs.network import ConvNetSpec
from core.specs.terms import ClassCentralizationSpec
from tests.unit.core.distillation.steps import NUM_CLASSES, real_images, step_for

pytestmark = pytest.mark.unit


class TestSpread:
    def test_by_hand(self) -> None:
        features = torch.tensor([[[0.0, 1.0], [4.0, 1.0]], [[0.0, 0.0], [0.0, 6.0]]])
        assert spread(features).tolist() == [8.0, 18.0]

    def test_is_number_times_variance(self) -> None:
        features = torch.randn(3, 5, 4, dtype=torch.float64)
        expected = 5 * (features.square().sum(2).mean(1) - features.mean(1).square().sum(1))
        torch.testing.assert_close(spread(features), expected)

    def test_gradcheck(self) -> None:
        assert torch.autograd.gradcheck(spread, (torch.randn(2, 3, 4, dtype=torch.float64, requires_grad=True),))

    def test_one_image_gives_exactly_nothing(self) -> None:
        features = torch.randn(3, 1, 4, requires_grad=True)
        value = spread(features)
        (gradient,) = torch.autograd.grad(value.sum(), features)
        assert not value.any()
        assert not gradient.any()


def pool_of(data: RealSet, norm: Any = "instance", count: int = 3) -> Pool:
    net = build_network(ConvNetSpec(width=5, depth=1, norm=norm), data.info)
    params = torch.stack([net.init(rng(n, "pool")) for n in range(count)])
    buffers = {name: value + 0.1 * torch.arange(count).view(-1, *[1] * value.ndim)
               for name, value in net.init_buffers().items()}
    return Pool(net, params, torch.zeros(count), buffers)


@pytest.fixture
def pool(digits: RealSet) -> Pool:
    return pool_of(digits)


def term(pool: Pool) -> ClassCentralization:
    return ClassCentralization(ClassCentralizationSpec(), pool, seed=3)


class TestTerm:
    @pytest.mark.parametrize("norm", ["instance", "batch"])
    def test_value_is_the_spread_under_the_network_drawn(self, digits: RealSet, norm: str) -> None:
        """Under batch norm this is the evaluation mode: images do not see each other."""
        pool = pool_of(digits, norm)
        loss = term(pool)
        step = step_for([loss], digits, number=4, augmentation=DSA(DSASpec()))
        index = int(torch.randint(3, (), generator=rng(3, "centralization", 4)))
        buffers = {name: value[index] for name, value in pool.buffers.items()}
        found = loss.value(step)
        for label, images in enumerate(step.augmented("syn")):
            features = torch.cat([pool.net(pool.params[index], buffers, image[None], ("flat",))["flat"] for image in images])
            expected = sum(((row - features.mean(0)) ** 2).sum() for row in features)
            assert found[label].item() == pytest.approx(float(cast(torch.Tensor, expected).detach()), rel=1e-4)

    def test_every_network_has_its_turn(self, pool: Pool) -> None:
        loss = term(pool)
        indices = [loss._draw(number).index for number in range(40)]
        assert set(indices) == {0, 1, 2}
        assert indices == [term(pool)._draw(number).index for number in range(40)]

    def test_gradient_reaches_the_images_and_not_the_pool(self, digits: RealSet, pool: Pool) -> None:
        loss = term(pool)
        step = step_for([loss], digits)
        loss.value(step).sum().backward()
        assert step.syn.images.grad is not None
        assert (step.syn.images.grad.flatten(1).abs().sum(1) > 0).all()
        assert pool.params.grad is None

    def test_no_gradient_at_one_image_per_class(self, digits: RealSet, pool: Pool) -> None:
        loss = term(pool)
        step = step_for([loss], digits, images=digits.gather(real_images(digits, 1)).flatten(0, 1))
        loss.value(step).sum().backward()
        assert step.syn.images.grad is not None
        assert not step.syn.images.grad.any()

    def test_asks_for_no_real_images_and_no_matching_network(self, digits: RealSet, pool: Pool) -> None:
        loss = term(pool)
        step = step_for([loss], digits, forward=SimpleNamespace(), real_index=None)
        assert loss.plan().real is None
        assert loss.value(step).shape == (NUM_CLASSES,)
