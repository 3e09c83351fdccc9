from __future__ import annotations

from collections import Counter
from typing import get_args

import pytest

from core.catalogue import CATALOGUE
from core.specs.evaluation import PROTOCOLS
from core.specs.network import NetworkSpec
from core.specs.published import CONVNET, PublishedRow, published
from core.specs.recipes import RECIPES

pytestmark = pytest.mark.unit

KINDS = {member.model_fields["kind"].default for member in get_args(get_args(NetworkSpec)[0])}


def row(recipe: str, dataset: str, ipc: int, network: str = CONVNET, variant: str = "") -> PublishedRow:
    (found,) = [
        r for r in published() if (r.recipe, r.dataset, r.ipc, r.network, r.variant) == (recipe, dataset, ipc, network, variant)
    ]
    return found


class TestEveryRow:
    def test_names_what_exists_here(self) -> None:
        assert {r.recipe for r in published()} <= RECIPES.keys()
        assert {r.dataset for r in published()} <= CATALOGUE.keys()
        assert {r.protocol for r in published()} <= PROTOCOLS.keys()
        assert {r.network for r in published()} <= {CONVNET, *KINDS}

    def test_is_the_only_one_of_its_kind(self) -> None:
        counted = Counter((r.recipe, r.dataset, r.ipc, r.network, r.variant) for r in published())
        assert set(counted.values()) == {1}

    def test_holds_fractions(self) -> None:
        for r in published():
            assert 1 / CATALOGUE[r.dataset].num_classes < r.mean < 1, r
            assert 0 <= r.std < 0.05, r
            assert r.n == 0, r


def test_recipes_with_rows() -> None:
    found = {r.recipe for r in published()}
    assert found == {
        "random", "herding", "k_center", "forgetting", "dm", "cafe", "cafe_dsa", "idm", "m3d", "dsdm", "dc", "dsa", "dcc",
        "dsac", "idc", "dream", "mtt", "tesla", "datm", "haba", "mtt_mim4dd", "dream_mim4dd",
    }


@pytest.mark.parametrize(
    ("recipe", "dataset", "ipc", "mean", "std", "protocol"),
    [
        ("random", "mnist", 1, 0.649, 0.035, "dm"),
        ("random", "cifar100", 10, 0.146, 0.0, "dm"),
        ("herding", "svhn", 10, 0.505, 0.033, "dm"),
        ("k_center", "fashion-mnist", 50, 0.683, 0.008, "dm"),
        ("forgetting", "cifar10", 1, 0.135, 0.0, "dm"),
        ("dm", "cifar10", 10, 0.489, 0.006, "dm"),
        ("dm", "cifar10", 1250, 0.808, 0.003, "dm"),
        ("cafe", "cifar10", 50, 0.555, 0.006, "cafe"),
        ("cafe_dsa", "cifar100", 1, 0.14, 0.003, "dm"),
        ("idm", "cifar100", 10, 0.451, 0.001, "dm"),
        ("m3d", "svhn", 1, 0.628, 0.005, "idc"),
        ("dsdm", "cifar10", 50, 0.758, 0.003, "idc"),
        ("dc", "cifar10", 10, 0.449, 0.005, "dc"),
        ("dsa", "cifar100", 50, 0.428, 0.004, "dm"),
        ("dcc", "cifar10", 1, 0.329, 0.0, "dc"),
        ("dsac", "cifar100", 10, 0.335, 0.0, "dm"),
        ("idc", "cifar10", 10, 0.675, 0.0, "idc"),
        ("dream", "svhn", 1, 0.698, 0.0, "idc"),
        ("mtt", "tiny-imagenet", 10, 0.232, 0.0, "mtt"),
        ("tesla", "cifar10", 1, 0.485, 0.0, "mtt"),
        ("datm", "cifar10", 1000, 0.855, 0.0, "mtt"),
        ("haba", "svhn", 10, 0.832, 0.0, "mtt"),
        ("mtt_mim4dd", "cifar100", 10, 0.415, 0.0, "mtt"),
        ("dream_mim4dd", "cifar10", 50, 0.747, 0.0, "idc"),
    ],
)
def test_known_cells(recipe: str, dataset: str, ipc: int, mean: float, std: float, protocol: str) -> None:
    found = row(recipe, dataset, ipc)
    assert (found.mean, found.std, found.protocol) == (mean, std, protocol)


def test_ablation_ends_below_the_method() -> None:
    ablation = [r.mean for r in published() if r.recipe == "dsdm" and r.variant and r.ipc == 10]
    assert ablation == sorted(ablation) == [0.606, 0.635, 0.662]
    assert ablation[-1] < row("dsdm", "cifar10", 10).mean


def test_no_network_beats_the_one_it_was_distilled_with() -> None:
    other = [r for r in published() if r.network != CONVNET]
    assert len(other) == 19
    assert all(r.mean < row(r.recipe, r.dataset, r.ipc).mean for r in other)


def test_a_misplaced_row_is_said() -> None:
    assert "misplaced" in row("random", "cifar100", 1).note
