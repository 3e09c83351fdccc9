"""Coresets against loops over single images, hand-made features, and the properties that define them."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor

from core.data.real_set import RealSet
from core.distillation import embedding
from core.distillation.embedding import Embedding, members
from core.distillation.init.forgetting import ForgettingInit
from core.distillation.init.greedy import GreedyInit
from core.distillation.init.herding import herd
from core.distillation.init.k_center import spread
from core.distillation.init.k_means import KMeansInit
from core.distillation.randomness import rng
from core.experts import Pool
from core.networks.build import build_network
from core.networks.network import Forward
from core.specs.network import ConvNetSpec
from tests.unit.core.distillation.real_sets import real_set

pytestmark = pytest.mark.unit
COUNTS = (12, 9, 15)


@pytest.fixture(scope="module")
def data() -> RealSet:
    return real_set(COUNTS, (1, 8, 8))


@pytest.fixture(scope="module")
def pool(data: RealSet) -> Pool:
    return pool_of(data)


def pool_of(data: RealSet, **fields: Any) -> Pool:
    net = build_network(ConvNetSpec(width=3, depth=1, **fields), data.info)
    params = torch.stack([net.init(rng(0, "w", n)) for n in range(2)])
    buffers = {name: torch.stack([value, value + 1]) for name, value in net.init_buffers().items()}
    counts = torch.randint(4, (sum(data.counts),), generator=rng(0, "f"))
    return Pool(net, params, torch.zeros(2), buffers, counts)


def features_of(pool: Pool, data: RealSet) -> list[Tensor]:
    """(N, D) float64 of each class, in one plain pass."""
    buffers = {name: value[0] for name, value in pool.buffers.items()}
    return [pool.net(pool.params[0], buffers, data.gather(m), ("flat",))["flat"].double() for m in members(data)]


def rows_of(images: Tensor, data: RealSet) -> list[list[int]]:
    """For chosen (K, n, C, H, W) images, their rows in their class."""
    found = []
    for label, positions in enumerate(members(data)):
        mine = data.gather(positions).flatten(1)
        found.append([int((mine == image.flatten()).all(1).nonzero()[0]) for image in images[label]])
    return found


INITS: list[Any] = [partial(GreedyInit, rule=herd), partial(GreedyInit, rule=spread), ForgettingInit, KMeansInit]


@pytest.mark.parametrize("kind", INITS)
class TestEveryCoreset:
    def test_refuses_more_images_than_the_smallest_class_has(self, kind: Any, data: RealSet, pool: Pool) -> None:
        with pytest.raises(ValueError, match="10 images are wanted of each class, but class 1 has 9"):
            kind(pool).choose(data, 10, rng(0, "init"))

    @pytest.mark.parametrize("per_class", [1, 4, 9])
    def test_takes_different_real_images_of_each_class(self, kind: Any, per_class: int, data: RealSet, pool: Pool) -> None:
        images = kind(pool).choose(data, per_class, rng(0, "init"))
        assert images.shape == (3, per_class, 1, 8, 8)
        assert images.dtype == torch.float32
        assert all(len(set(rows)) == per_class for rows in rows_of(images, data))

    def test_repeats(self, kind: Any, data: RealSet, pool: Pool) -> None:
        a, b = (kind(pool).choose(data, 4, rng(0, "init")) for _ in range(2))
        assert torch.equal(a, b)


class TestHerding:
    def test_equals_the_loop(self, data: RealSet, pool: Pool) -> None:
        found = rows_of(GreedyInit(pool, herd).choose(data, 6, rng(0, "init")), data)
        for rows, features in zip(found, features_of(pool, data), strict=True):
            chosen: list[int] = []
            for k in range(6):
                target = (k + 1) * features.mean(0) - features[chosen].sum(0)
                free = [i for i in range(len(features)) if i not in chosen]
                chosen.append(min(free, key=lambda i: float((features[i] - target).norm())))
            assert rows == chosen

    def test_by_hand(self) -> None:
        features = torch.tensor([[0.0], [4.0], [5.0], [12.0], [14.0]])  # mean 7: 5, then 14 - 5 = 9 -> 12, then 21 - 17 -> 4
        assert herd(features, 3).tolist() == [2, 3, 1]

    def test_nearest_and_not_farthest(self) -> None:
        """The published code of DeepCore has the orientation wrong; then the first choice would be the outlier."""
        assert herd(torch.tensor([[-1.0], [0.0], [1.0], [100.0], [-100.0]]), 1).tolist() == [1]

    def test_mean_of_the_chosen_stays_on_the_mean(self) -> None:
        features = torch.randn(200, 8, generator=rng(0, "x"))
        herded = (features[herd(features, 20)].mean(0) - features.mean(0)).norm()
        random = [
            (features[torch.randperm(200, generator=rng(0, "y", n))[:20]].mean(0) - features.mean(0)).norm() for n in range(20)
        ]
        assert herded < 0.5 * min(random)

    def test_fewer_are_the_beginning_of_more(self) -> None:
        features = torch.randn(50, 4, generator=rng(0, "x"))
        assert herd(features, 10).tolist() == herd(features, 25)[:10].tolist()

    def test_of_equal_images_the_first(self) -> None:
        features = torch.randn(3, 700, generator=rng(0, "x"))[[0, 1, 1, 2, 1]]
        assert [row for row in herd(features, 5).tolist() if row in (1, 2, 4)] == [1, 2, 4]


class TestKCenter:
    def test_equals_the_loop(self, data: RealSet, pool: Pool) -> None:
        found = rows_of(GreedyInit(pool, spread).choose(data, 6, rng(0, "init")), data)
        for rows, features in zip(found, features_of(pool, data), strict=True):
            chosen = [int((features - features.mean(0)).norm(dim=1).argmin())]
            while len(chosen) < 6:
                reach = [min(float((f - features[c]).norm()) for c in chosen) for f in features]
                chosen.append(reach.index(max(reach)))
            assert rows == chosen

    def test_by_hand(self) -> None:
        assert spread(torch.tensor([[0.0], [1.0], [4.0], [10.0]]), 4).tolist() == [2, 3, 0, 1]  # the mean is 3.75

    def test_covering_radius(self) -> None:
        features = torch.randn(120, 3, generator=rng(0, "x"))

        def radius(rows: Tensor) -> Tensor:
            return torch.cdist(features, features[rows]).min(1).values.max()

        chosen = spread(features, 30)
        for count in range(2, 30):
            # Greedy choice is within twice the best radius: count + 1 points are pairwise farther apart than `radius`.
            apart = torch.cdist(features[chosen[: count + 1]], features[chosen[: count + 1]])
            assert apart[~torch.eye(count + 1, dtype=torch.bool)].min() >= radius(chosen[:count]) - 1e-4
            assert radius(chosen[: count + 1]) <= radius(chosen[:count])
        assert radius(chosen) < min(radius(torch.randperm(120, generator=rng(0, "y", n))[:30]) for n in range(20))

    def test_of_equally_far_images_the_first_and_copies_last(self) -> None:
        assert spread(torch.tensor([[0.0], [3.0], [-3.0], [0.0], [3.0]]), 5).tolist()[:3] == [0, 1, 2]
        assert sorted(spread(torch.ones(4, 2), 4).tolist()) == [0, 1, 2, 3]


class TestForgetting:
    def test_refuses_a_pool_that_did_not_count(self, pool: Pool) -> None:
        with pytest.raises(ValueError, match="forgetting counts"):
            ForgettingInit(replace(pool, forgetting=None))

    def test_most_forgotten_first(self, data: RealSet, pool: Pool) -> None:
        found = rows_of(ForgettingInit(pool).choose(data, 9, rng(0, "init")), data)
        assert pool.forgetting is not None
        for rows, positions in zip(found, members(data), strict=True):
            counts = pool.forgetting[positions]
            assert counts[rows].tolist() == counts.sort(descending=True).values[:9].tolist()

    def test_ties_are_drawn(self, data: RealSet, pool: Pool) -> None:
        equal = ForgettingInit(replace(pool, forgetting=torch.zeros(sum(COUNTS), dtype=torch.int64)))
        seen = {tuple(rows_of(equal.choose(data, 1, rng(seed, "init")), data)[0]) for seed in range(60)}
        assert len(seen) == COUNTS[0]


class TestKMeans:
    def test_covers_the_groups_of_a_class(self) -> None:
        data = real_set((40, 40), (1, 8, 8))
        generator = rng(0, "groups")
        for positions in members(data):  # four pictures with a little noise in each class, in any order
            pictures = torch.randint(0, 240, (4, 1, 8, 8), generator=generator)
            noise = torch.randint(0, 3, (40, 1, 8, 8), generator=generator)
            data.images[positions] = (pictures[torch.arange(40) % 4] + noise).to(torch.uint8)
        found = rows_of(KMeansInit(pool_of(data)).choose(data, 4, rng(0, "init")), data)
        assert [sorted(row % 4 for row in rows) for rows in found] == [[0, 1, 2, 3]] * 2


class TestEmbedding:
    @pytest.mark.parametrize("norm", ["instance", "batch"])
    def test_is_the_flat_tap_in_evaluation_mode_of_the_first_network(self, norm: Any, data: RealSet, monkeypatch: Any) -> None:
        monkeypatch.setattr(embedding, "BLOCK_IMAGES", 7)
        pool = pool_of(data, norm=norm)
        found = [Embedding.of_pool(pool, data).features(positions) for positions in members(data)]
        for ours, expected in zip(found, features_of(pool, data), strict=True):
            assert ours.dtype == torch.float32
            assert not ours.requires_grad
            torch.testing.assert_close(ours.double(), expected, rtol=0, atol=1e-5)

    def test_a_compiled_pass_sees_one_shape(self, data: RealSet, pool: Pool, monkeypatch: Any) -> None:
        monkeypatch.setattr(embedding, "CHUNK_IMAGES", 8)
        forward = Forward(pool.net, compile_passes=False, chunk=8)
        forward.compiled = True
        shapes: set[int] = set()

        def call(params: Tensor, buffers: Any, images: Tensor) -> tuple[Tensor, ...]:
            shapes.add(len(images))
            return (pool.net(params, buffers, images, ("flat",))["flat"],)

        forward._calls[("flat",)] = call
        looking = Embedding(forward, pool.params[0], {}, data)
        found = [looking.features(positions) for positions in members(data)]
        assert shapes == {8}
        for ours, expected in zip(found, features_of(pool, data), strict=True):
            torch.testing.assert_close(ours.double(), expected, rtol=0, atol=1e-5)
