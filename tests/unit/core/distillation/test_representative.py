"""Representative selection: what is chosen, how long it is kept, and that a resumed run keeps it too."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from core.data.real_set import RealSet
from core.distillation.clustering import representatives
from core.distillation.embedding import members
from core.distillation.objectives.mean_feature import MeanFeature
from core.distillation.plan import Draw
from core.distillation.protocols import Weights
from core.distillation.randomness import rng
from core.distillation.selection.representative import Representative
from core.distillation.selection.uniform import Uniform
from core.distillation.step import Step
from core.networks.build import build_network
from core.networks.network import Forward
from core.specs.network import ConvNetSpec
from core.specs.objective import MeanFeatureSpec
from core.specs.selection import RepresentativeSpec, UniformSpec
from tests.unit.core.distillation.steps import step_for

pytestmark = pytest.mark.unit


def step(data: RealSet, number: int) -> Step:
    return step_for([MeanFeature(MeanFeatureSpec())], data, number=number)


def selection(data: RealSet, **fields: Any) -> Representative:
    return Representative(RepresentativeSpec(**{"real_batch_per_class": 6, "refresh_every": 3} | fields), data, 0)


class TestPick:
    def test_takes_the_images_nearest_to_the_centres(self, digits: RealSet) -> None:
        now = step(digits, 0)
        positions, shares = selection(digits).pick(Draw(), now)
        assert shares is None
        assert positions.shape == (10, 6)
        assert positions.dtype == torch.int64
        net, params = now.weights.net, now.weights.params
        features = [net(params, {}, digits.gather(m), ("flat",))["flat"].detach() for m in members(digits)]
        expected = representatives(features, 6, rng(0, "clusters", 0)).rows + torch.tensor(digits.offsets)[:, None]
        assert torch.equal(positions, expected)

    def test_has_no_image_twice_and_only_its_class(self, digits: RealSet) -> None:
        positions, _ = selection(digits, real_batch_per_class=100).pick(Draw(), step(digits, 0))
        for label, row in enumerate(positions):
            assert len(row.unique()) == 100
            assert (digits.labels[row] == label).all()

    def test_represents_better_than_random_images(self, digits: RealSet) -> None:
        now = step(digits, 0)
        positions, _ = selection(digits, real_batch_per_class=20).pick(Draw(), now)
        net, params = now.weights.net, now.weights.params

        def spread_of(chosen: torch.Tensor) -> float:
            total = 0.0
            for label, row in enumerate(chosen):
                everything = net(params, {}, digits.gather(members(digits)[label]), ("flat",))["flat"].detach()
                some = net(params, {}, digits.gather(row), ("flat",))["flat"].detach()
                total += float(torch.cdist(everything, some).min(1).values.square().sum())
            return total

        random = [Uniform(UniformSpec(real_batch_per_class=20), digits, s).pick(Draw(), now)[0] for s in range(3)]
        assert spread_of(positions) < 0.9 * min(spread_of(other) for other in random)

    def test_clusters_candidates_only(self, digits: RealSet) -> None:
        found = [selection(digits, num_candidates=12).pick(Draw(), step(digits, n))[0] for n in (0, 3)]
        for number, positions in zip((0, 3), found, strict=True):
            generator = rng(0, "candidates", number)
            for row, everything in zip(positions, members(digits), strict=True):
                assert set(row.tolist()) <= set(everything[torch.randperm(len(everything), generator=generator)[:12]].tolist())

    def test_fewer_candidates_than_clusters_are_raised_to_their_number(self, digits: RealSet) -> None:
        positions, _ = selection(digits, num_candidates=2).pick(Draw(), step(digits, 0))
        assert positions.shape == (10, 6)

    def test_shares_are_cluster_sizes(self, digits: RealSet) -> None:
        equal = selection(digits).pick(Draw(), step(digits, 0))[0]
        positions, shares = selection(digits, weighting="cluster_size").pick(Draw(), step(digits, 0))
        assert shares is not None
        assert torch.equal(positions, equal)
        assert shares.shape == (10, 6)
        torch.testing.assert_close(shares.sum(1), torch.ones(10))
        counts = shares * torch.tensor(digits.counts)[:, None]
        torch.testing.assert_close(counts, counts.round(), rtol=0, atol=1e-4)
        assert (counts.round() >= 1).all()
        assert len(shares.unique()) > 10

    def test_features_are_those_of_evaluation_mode(self, digits: RealSet) -> None:
        net = build_network(ConvNetSpec(width=4, depth=1, norm="batch"), digits.info)
        now = step_for([MeanFeature(MeanFeatureSpec())], digits)
        now.weights = Weights(net, net.init(rng(0, "w")))
        now.forward = Forward(net, compile_passes=False, chunk=None, training=True)
        positions, _ = selection(digits).pick(Draw(), now)
        features = [
            net(now.weights.params, net.init_buffers(), digits.gather(m), ("flat",))["flat"].detach() for m in members(digits)
        ]
        expected = representatives(features, 6, rng(0, "clusters", 0)).rows + torch.tensor(digits.offsets)[:, None]
        assert torch.equal(positions, expected)


class TestCount:
    def test_clips_to_the_smallest_class(self, digits: RealSet) -> None:
        clipped = selection(digits, real_batch_per_class=256)
        assert clipped.count(Draw()) == 1310
        assert "131" in clipped.warning()
        positions, _ = clipped.pick(Draw(), step(digits, 0))
        assert sorted(positions[8].tolist()) == members(digits)[8].tolist()  # the smallest class, whole
        assert selection(digits, real_batch_per_class=131).warning() == ""

    @pytest.mark.parametrize(("draw", "count"), [(Draw(), 60), (Draw("per_class", 4), 40), (Draw("minibatch", 32), 32)])
    def test_is_what_pick_answers(self, digits: RealSet, draw: Draw, count: int) -> None:
        made = selection(digits)
        assert made.count(draw) == made.pick(draw, step(digits, 0))[0].numel() == count

    def test_draws_without_classes_are_uniform(self, digits: RealSet) -> None:
        now = step(digits, 5)
        expected = Uniform(UniformSpec(real_batch_per_class=6), digits, 0).pick(Draw("minibatch", 32), now)[0]
        assert torch.equal(selection(digits).pick(Draw("minibatch", 32), now)[0], expected)


class TestRefresh:
    def test_keeps_the_choice_between_refreshes(self, digits: RealSet) -> None:
        made = selection(digits)
        picked = [made.pick(Draw(), step(digits, n))[0] for n in range(7)]
        assert torch.equal(picked[0], picked[2])
        assert torch.equal(picked[3], picked[5])
        assert not torch.equal(picked[2], picked[3])
        assert not torch.equal(picked[5], picked[6])

    def test_may_happen_at_each_iteration(self, digits: RealSet) -> None:
        made = selection(digits, refresh_every=1)
        picked = [made.pick(Draw(), step(digits, n))[0] for n in range(3)]
        assert not torch.equal(picked[0], picked[1])
        assert not torch.equal(picked[1], picked[2])

    def test_is_not_repeated_when_an_iteration_is_tried_before_it_runs(self, digits: RealSet, monkeypatch: Any) -> None:
        refreshed: list[int] = []
        plain = Representative._refresh

        def counted(made: Representative, now: Step, per_class: int) -> None:
            refreshed.append(now.number)
            plain(made, now, per_class)

        monkeypatch.setattr(Representative, "_refresh", counted)
        made = selection(digits)
        for number in (0, 0, 1, 2, 3, 3):
            made.pick(Draw(), step(digits, number))
        assert refreshed == [0, 3]
        made.load(made.state())
        made.pick(Draw(), step(digits, 3))
        assert refreshed == [0, 3, 3]

    @pytest.mark.parametrize("weighting", ["equal", "cluster_size"])
    @pytest.mark.parametrize("stop", [1, 3, 4])
    def test_resumes_exactly(self, digits: RealSet, weighting: str, stop: int) -> None:
        whole, first, second = (selection(digits, weighting=weighting) for _ in range(3))
        expected = [whole.pick(Draw(), step(digits, n)) for n in range(5)]
        for number in range(stop):
            first.pick(Draw(), step(digits, number))
        second.load({name: tensor.clone() for name, tensor in first.state().items()})
        for number in range(stop, 5):
            positions, shares = second.pick(Draw(), step(digits, number))
            assert torch.equal(positions, expected[number][0])
            assert (shares is None) == (weighting == "equal")
            if shares is not None:
                assert torch.equal(shares, expected[number][1])

    def test_has_no_state_before_the_first(self, digits: RealSet) -> None:
        made = selection(digits)
        assert made.state() == {}
        made.load({})
        assert made.pick(Draw(), step(digits, 0))[0].shape == (10, 6)
        assert set(made.state()) == {"positions"}
        assert made.parameters() == {}
