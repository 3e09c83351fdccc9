"""Seeding, Lloyd's steps and medoids against loops over single points, and against scikit-learn."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from sklearn.cluster import KMeans
from torch import Tensor

from core.distillation import clustering
from core.distillation.clustering import k_means, nearest_distinct, representatives, spread_out
from core.distillation.randomness import rng

pytestmark = pytest.mark.unit


def blobs(count: int, num_blobs: int, dimensions: int = 4, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Tight groups of points far from each other, and the group of each."""
    generator = rng(seed, "blobs")
    centres = torch.randn(num_blobs, dimensions, generator=generator) * 50
    group = torch.randint(num_blobs, (count,), generator=generator)
    group[:num_blobs] = torch.arange(num_blobs)
    return centres[group] + torch.randn(count, dimensions, generator=generator) * 0.1, group


def inertia(points: Tensor, centres: Tensor) -> float:
    return float(torch.cdist(points.double(), centres.double()).square().min(1).values.sum())


def naive_k_means(points: Tensor, centres: Tensor, num_steps: int) -> tuple[Tensor, Tensor]:
    points, centres = points.double(), centres.double().clone()
    for _ in range(num_steps):
        distances = torch.stack([(points - centre).square().sum(1) for centre in centres])
        nearest, owner = distances.min(0)
        far = iter(nearest.argsort(descending=True).tolist())
        for number in range(len(centres)):
            mine = points[owner == number]
            centres[number] = mine.mean(0) if len(mine) else points[next(far)]
    return centres, torch.stack([(points - centre).square().sum(1) for centre in centres]).argmin(0)


class TestKMeans:
    def test_by_hand(self) -> None:
        points = torch.tensor([[[0.0], [1.0], [9.0], [11.0]]])
        centres, owner = k_means(points, torch.tensor([[0, 1]]))
        assert centres[0].tolist() == [[0.5], [10.0]]
        assert owner.tolist() == [[0, 0, 1, 1]]

    @pytest.mark.parametrize("num_steps", [1, 2, 10])
    def test_equals_the_loop_for_every_class(self, num_steps: int) -> None:
        points = torch.randn(3, 80, 5, generator=rng(0, "p"))
        seeds = torch.stack([torch.randperm(80, generator=rng(0, "s", n))[:7] for n in range(3)])
        centres, owner = k_means(points, seeds, num_steps)
        for label in range(3):
            expected, theirs = naive_k_means(points[label], points[label][seeds[label]], num_steps)
            torch.testing.assert_close(centres[label].double(), expected, rtol=0, atol=1e-5)
            assert torch.equal(owner[label], theirs)

    def test_equals_scikit_learn_from_the_same_seeds(self) -> None:
        points = torch.randn(1, 300, 8, generator=rng(0, "p"))
        seeds = torch.randperm(300, generator=rng(0, "s"))[None, :12]
        centres, owner = k_means(points, seeds, 5)
        theirs = KMeans(12, init=points[0][seeds[0]].numpy(), n_init=1, max_iter=5, tol=0.0).fit(points[0].numpy())
        torch.testing.assert_close(centres[0], torch.from_numpy(theirs.cluster_centers_), rtol=1e-4, atol=1e-5)
        assert np.array_equal(owner[0].numpy(), theirs.labels_)

    def test_empty_clusters_go_on_from_the_farthest_points(self) -> None:
        points = torch.tensor([[[0.0], [0.0], [0.0], [5.0], [7.0]]])
        seeds = torch.tensor([[0, 1, 2]])  # one place for three centres: the second and third own nothing
        centres, _ = k_means(points, seeds, 1)
        assert centres[0, 1:].tolist() == [[7.0], [5.0]]
        centres, owner = k_means(points, seeds, 2)
        assert centres[0].tolist() == [[0.0], [7.0], [5.0]]
        assert owner.tolist() == [[0, 0, 0, 2, 1]]

    def test_does_not_mind_fewer_places_than_clusters(self) -> None:
        centres, owner = k_means(torch.ones(2, 6, 3), torch.arange(4).repeat(2, 1))
        assert centres.isfinite().all()
        assert owner.unique().tolist() == [0]


class TestSpreadOut:
    def test_finds_one_seed_for_each_blob(self) -> None:
        points, group = blobs(200, 9)
        for seed in range(5):
            rows = spread_out(points[None], 9, rng(seed, "s"))
            assert sorted(group[rows[0]].tolist()) == list(range(9))

    def test_never_takes_a_point_twice_while_others_are_elsewhere(self) -> None:
        points = torch.arange(8.0).view(1, 8, 1)
        for seed in range(5):
            assert sorted(spread_out(points, 8, rng(seed, "s"))[0].tolist()) == list(range(8))

    def test_first_seed_is_uniform(self) -> None:
        first = torch.cat([spread_out(torch.randn(50, 4, 2), 1, rng(seed, "s")) for seed in range(20)])
        counts = torch.bincount(first.flatten(), minlength=4)
        assert (counts > 190).all()

    def test_adds_up_whole_numbers_only(self, monkeypatch: pytest.MonkeyPatch) -> None:
        added, running_sum = [], torch.Tensor.cumsum
        monkeypatch.setattr(torch.Tensor, "cumsum", lambda x, dim: added.append(x.dtype) or running_sum(x, dim))
        spread_out(torch.randn(2, 9, 3), 4, rng(0, "s"))
        assert set(added) == {torch.int64}

    def test_copies_of_one_point(self) -> None:
        assert spread_out(torch.ones(1, 5, 3), 3, rng(0, "s")).shape == (1, 3)

    def test_is_better_than_random_seeds(self) -> None:
        points = torch.randn(600, 6, generator=rng(0, "p")) * torch.rand(600, 1, generator=rng(0, "q")).exp().square()
        ours = [inertia(points, k_means(points[None], spread_out(points[None], 60, rng(s, "s")))[0][0]) for s in range(3)]
        random = [torch.randperm(600, generator=rng(s, "s"))[None, :60] for s in range(3)]
        other = [inertia(points, k_means(points[None], seeds)[0][0]) for seeds in random]
        assert max(ours) < min(other)


class TestNearestDistinct:
    def test_centres_choose_in_turn(self) -> None:
        points = torch.tensor([[[0.0], [1.0], [3.0], [10.0]]])
        centres = torch.tensor([[[0.9], [1.1], [0.8]]])  # all are nearest to 1
        assert nearest_distinct(points, centres).tolist() == [[1, 0, 2]]

    def test_of_equally_near_points_the_first(self) -> None:
        assert nearest_distinct(torch.tensor([[[2.0], [2.0], [0.0]]]), torch.tensor([[[1.0], [2.0]]])).tolist() == [[0, 1]]

    def test_takes_every_point_when_there_are_no_others(self) -> None:
        points = torch.randn(3, 6, 2)
        rows = nearest_distinct(points, torch.randn(3, 6, 2))
        assert all(sorted(row.tolist()) == list(range(6)) for row in rows)

    def test_equals_the_loop(self) -> None:
        points, centres = torch.randn(2, 40, 3, generator=rng(0, "p")), torch.randn(2, 15, 3, generator=rng(0, "c")) * 0.1
        for found, some, theirs in zip(nearest_distinct(points, centres), points, centres, strict=True):
            free = list(range(40))
            for row, centre in zip(found.tolist(), theirs, strict=True):
                best = min(free, key=lambda i: float((some[i] - centre).double().square().sum()))
                assert row == best
                free.remove(best)


class TestRepresentatives:
    def test_one_member_of_each_blob_and_its_share(self) -> None:
        made = [blobs(count, 6, seed=count) for count in (60, 60, 45)]
        found = representatives((points for points, _ in made), 6, rng(0, "r"))
        assert found.rows.shape == found.shares.shape == (3, 6)
        assert found.shares.dtype == torch.float32
        torch.testing.assert_close(found.shares.sum(1), torch.ones(3))
        for (_, group), rows, shares in zip(made, found.rows, found.shares, strict=True):
            assert sorted(group[rows].tolist()) == list(range(6))
            assert torch.equal(shares, torch.bincount(group)[group[rows]] / len(group))

    def test_does_not_depend_on_what_is_computed_together(self, monkeypatch: Any) -> None:
        classes = [blobs(50, 5, 300, seed=n)[0] for n in range(4)]
        together = representatives(classes, 5, rng(0, "r"))
        monkeypatch.setattr(clustering, "STACKED_SCALARS_CPU", 1)
        apart = representatives(classes, 5, rng(0, "r"))
        assert torch.equal(together.rows, apart.rows)
        assert torch.equal(together.shares, apart.shares)

    def test_reads_classes_as_it_goes(self, monkeypatch: Any) -> None:
        monkeypatch.setattr(clustering, "STACKED_SCALARS_CPU", 1)
        read: list[int] = []
        done: list[int] = []
        plain = clustering.k_means
        monkeypatch.setattr(clustering, "k_means", lambda *args: (done.append(len(read)), plain(*args))[1])

        def features() -> Any:
            for number in range(4):
                read.append(number)
                yield torch.randn(9, 2)

        representatives(features(), 3, rng(0, "r"))
        assert done == [2, 3, 4, 4]  # each class is clustered when the next has been read, never later

    def test_many_features_are_projected_for_seeding_only(self) -> None:
        points, group = blobs(80, 8, 400)
        found = representatives([points], 8, rng(0, "r"))
        assert sorted(group[found.rows[0]].tolist()) == list(range(8))
        centres, owner = k_means(points[None], found.rows)
        torch.testing.assert_close(nearest_distinct(points[None], centres), found.rows)
        assert len(owner.unique()) == 8

    def test_follows_the_generator(self) -> None:
        points = torch.randn(200, 10, generator=rng(0, "p"))
        a, b, c = (representatives([points], 20, rng(seed, "r")).rows for seed in (0, 0, 1))
        assert torch.equal(a, b)
        assert not torch.equal(a, c)

    def test_all_points_when_there_are_as_many_clusters(self) -> None:
        found = representatives([torch.randn(7, 3)], 7, rng(0, "r"))
        assert sorted(found.rows[0].tolist()) == list(range(7))

    def test_copies_are_chosen_when_nothing_else_is_left(self) -> None:
        found = representatives([torch.ones(6, 3)], 4, rng(0, "r"))
        assert len(found.rows[0].unique()) == 4
        assert found.shares.sum() == 1.0
