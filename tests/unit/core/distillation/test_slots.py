from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from core.data.real_set import RealSet
from core.distillation.build import build
from core.distillation.init.noise import NoiseInit
from core.distillation.init.random import RandomInit
from core.distillation.models.fresh_random import FreshRandom
from core.distillation.optimizer import SGD
from core.distillation.parameterizations.pixels import Pixels
from core.distillation.plan import Draw, Plan, merge
from core.distillation.randomness import rng
from core.distillation.selection.uniform import Uniform
from core.distillation.step import take
from core.experts import TrainedHere
from core.networks.build import build_network
from core.specs.models import FreshRandomSpec
from core.specs.network import ConvNetSpec
from core.specs.selection import UniformSpec
from core.specs.synthetic import PixelsSpec, SGDSpec
from tests.unit.core.distillation.real_sets import real_set

pytestmark = pytest.mark.unit
CPU = torch.device("cpu")


def pick(selection: Uniform, draw: Draw, number: int) -> Tensor:
    """Positions at an iteration; a uniform selection asks nothing else of a step."""
    step: Any = SimpleNamespace(number=number)
    index, share = selection.pick(draw, step)
    assert share is None
    return index


class TestRandomness:
    def test_seed_name_and_step_all_matter(self) -> None:
        draws = {tuple(torch.rand(4, generator=rng(s, n, t)).tolist()) for s in (0, 1) for n in "ab" for t in (0, 1)}
        assert len(draws) == 8

    def test_repeats(self) -> None:
        assert torch.equal(torch.rand(4, generator=rng(5, "x", 9)), torch.rand(4, generator=rng(5, "x", 9)))

    def test_value_is_fixed_for_ever(self) -> None:
        assert rng(0, "real", 0).initial_seed() == 5578033119968497332


class TestUniform:
    def test_has_no_image_twice_and_only_its_class(self, digits: RealSet) -> None:
        index = pick(Uniform(UniformSpec(real_batch_per_class=100), digits, 0), Draw(), 4)
        assert index.shape == (10, 100)
        for label, row in enumerate(index):
            assert len(row.unique()) == 100
            assert (digits.labels[row] == label).all()

    def test_clips_to_the_smallest_class(self, digits: RealSet) -> None:
        selection = Uniform(UniformSpec(real_batch_per_class=256), digits, 0)
        assert pick(selection, Draw(), 0).shape == (10, 131)
        assert "131" in selection.warning()
        assert Uniform(UniformSpec(real_batch_per_class=131), digits, 0).warning() == ""

    def test_draws_anew_at_each_iteration(self, digits: RealSet) -> None:
        selection = Uniform(UniformSpec(real_batch_per_class=8), digits, 0)
        assert not torch.equal(pick(selection, Draw(), 0), pick(selection, Draw(), 1))
        assert torch.equal(pick(selection, Draw(), 1), pick(Uniform(UniformSpec(real_batch_per_class=8), digits, 0), Draw(), 1))

    def test_reaches_every_image(self, digits: RealSet) -> None:
        selection = Uniform(UniformSpec(real_batch_per_class=131), digits, 0)
        seen = torch.cat([pick(selection, Draw(), n).flatten() for n in range(6)]).unique()
        assert len(seen) == sum(digits.counts)

    def test_draws_without_classes(self, digits: RealSet) -> None:
        index = pick(Uniform(UniformSpec(), digits, 0), Draw("minibatch", 32), 0)
        assert index.shape == (32,)
        assert len(index.unique()) == 32


class TestInit:
    def test_random_takes_different_real_images_of_each_class(self, digits: RealSet) -> None:
        images = RandomInit().choose(digits, 5, rng(0, "init"))
        assert images.shape == (10, 5, 1, 8, 8)
        for label in range(10):
            members = digits.gather(torch.arange(digits.counts[label]) + digits.offsets[label])
            places = [(members == image).flatten(1).all(1).nonzero() for image in images[label]]
            assert all(len(place) for place in places)
            assert len({int(place[0]) for place in places}) == 5

    def test_noise_is_standard_normal(self, digits: RealSet) -> None:
        images = NoiseInit().choose(digits, 50, rng(0, "init"))
        assert images.shape == (10, 50, 1, 8, 8)
        assert abs(float(images.mean())) < 0.03
        assert float(images.std()) == pytest.approx(1.0, abs=0.03)


class TestPixels:
    def test_stores_what_it_was_filled_with(self) -> None:
        pixels = Pixels(PixelsSpec(), 3, real_set((3, 3), (1, 4, 4)))
        images = torch.randn(2, 3, 1, 4, 4)
        pixels.fill(images)
        found, classes = pixels.decode(torch.tensor([4, 0]))
        assert torch.equal(found, images.flatten(0, 1)[[4, 0]])
        assert classes.tolist() == [1, 0]
        assert pixels.storage() == {"pixels": 96}

    @pytest.mark.parametrize(
        ("draw", "shape"),
        [(Draw(), (2, 3)), (Draw("per_class", 2), (2, 2)), (Draw("all"), (6,)), (Draw("minibatch", 4), (4,))],
    )
    def test_answers_draws_without_repeating(self, draw: Draw, shape: tuple[int, ...]) -> None:
        index = Pixels(PixelsSpec(), 3, real_set((3, 3), (1, 4, 4))).indices(draw, rng(0, "d"))
        assert tuple(index.shape) == shape
        assert len(index.unique()) == index.numel()
        if index.ndim == 2:
            assert (index // 3 == torch.tensor([[0], [1]])).all()


class TestFreshRandom:
    def test_a_network_serves_its_iterations(self, digits: RealSet) -> None:
        net = build_network(ConvNetSpec(width=2, depth=1), digits.info)
        models = FreshRandom(FreshRandomSpec(iterations_per_network=3), net, 0, CPU)
        weights = [models.next(n) for n in range(7)]
        assert [w.index for w in weights] == [0, 0, 0, 1, 1, 1, 2]
        assert [w.age for w in weights] == [0, 1, 2, 0, 1, 2, 0]
        assert torch.equal(weights[0].params, weights[2].params)
        assert not torch.equal(weights[2].params, weights[3].params)
        resumed = FreshRandom(FreshRandomSpec(iterations_per_network=3), net, 0, CPU).next(4)
        assert torch.equal(resumed.params, weights[4].params)


class TestSGD:
    def test_equals_pytorchs(self) -> None:
        ours, theirs = (torch.ones(5, requires_grad=True) for _ in range(2))
        optimizer = SGD(SGDSpec(lr_img=0.3, momentum=0.5), {"pixels": [ours]})
        reference = torch.optim.SGD([theirs], lr=0.3, momentum=0.5)
        for n in range(4):
            gradient = torch.randn(5, generator=rng(0, "g", n))
            ours.grad, theirs.grad = gradient.clone(), gradient.clone()
            optimizer.step(torch.tensor(True), 0.0)
            reference.step()
        torch.testing.assert_close(ours, theirs)

    def test_changes_nothing_where_not_allowed(self) -> None:
        x = torch.ones(3, requires_grad=True)
        optimizer = SGD(SGDSpec(), {"pixels": [x]})
        x.grad = torch.full((3,), torch.nan)
        optimizer.step(torch.tensor(False), 0.0)
        assert x.tolist() == [1, 1, 1]
        assert optimizer.state()["pixels.0"].tolist() == [0, 0, 0]


class TestMerge:
    def test_joins_what_losses_need(self) -> None:
        a = Plan(real=Draw("per_class", 4), taps=("flat",))
        b = Plan(syn=(Draw("all"), Draw()), real=Draw("per_class", 9), taps=("block1", "flat"), separable=False)
        assert merge([a, b]) == Plan((Draw(), Draw("all")), Draw("per_class", 9), ("block1", "flat"), False)

    def test_graphs_add_up_to_the_largest(self) -> None:
        whole, steps = Plan(), Plan(syn=(Draw("all"),), graph_images=40, graph_copies=2.0)
        assert (merge([steps]).graph_images, merge([steps]).graph_copies) == (40, 2.0)
        assert (merge([whole, steps]).graph_images, merge([whole, steps]).graph_copies) == (0, 2.0)
        assert merge([steps, whole]).per_class == Draw()

    def test_refuses_real_images_in_two_forms(self) -> None:
        with pytest.raises(ValueError, match="different forms"):
            merge([Plan(real=Draw()), Plan(real=Draw("all"))])


@pytest.mark.parametrize("rows", [[[2, 3], [4, 5]], [[2, 5], [0, 2]]])
def test_take_equals_indexing(rows: list[list[int]]) -> None:
    images = torch.randn(6, 1, 2, 2)
    assert torch.equal(take(images, torch.tensor(rows)), images[torch.tensor(rows)])


def test_every_slot_with_state_is_in_the_checkpoint(digits: RealSet, small_spec: Any) -> None:
    assert set(build(small_spec(), digits, TrainedHere(digits)).parts()) == {
        "parameterization", "labels", "models", "selection", "optimizer", "loss0",
    }
