"""Recipes that pack images cut spectrograms along time alone, and take IDC's rates for their side."""

from __future__ import annotations

import pytest

from core.catalogue import CATALOGUE, dataset_info
from core.specs.job import DistillationSpec, JobRequest
from core.specs.recipes import RECIPES, resolved_recipe
from core.specs.resolve import resolve
from core.specs.storage import decoded_per_class
from core.specs.synthetic import MultiFormationSpec

pytestmark = pytest.mark.unit

PACKED = [
    name for name in RECIPES
    if isinstance(resolved_recipe(name, "paper", dataset_info("cifar10"), 10).method.parameterization, MultiFormationSpec)
]


def spec(recipe: str, name: str, ipc: int = 10) -> DistillationSpec:
    return resolve(JobRequest.model_validate({"dataset": {"name": name}, "ipc": ipc, "recipe": recipe}))


def test_some_recipes_pack() -> None:
    assert {"idm", "m3d", "dsdm", "idc", "dream", "mosaic"} <= set(PACKED)


@pytest.mark.parametrize("recipe", PACKED)
@pytest.mark.parametrize("name", CATALOGUE)
def test_a_spectrogram_is_cut_along_time_alone(recipe: str, name: str) -> None:
    info, stored = dataset_info(name), spec(recipe, name).method.parameterization
    assert isinstance(stored, MultiFormationSpec)
    assert stored.axes == ("time" if info.time_axis else "both")
    assert decoded_per_class(stored, 10, info) == (20 if info.time_axis else 40)


@pytest.mark.parametrize(
    ("recipe", "name", "times"),
    [
        ("dsdm", "cifar10", 1.0), ("dsdm", "tiny-imagenet", 4.0), ("dsdm", "mini-speech-commands", 1.0), ("dsdm", "mnist", 1.0),
        ("dsdm", "kmnist", (28 / 32) ** 2), ("idc", "fsdd", 1.0), ("idc", "stl10", 9.0),
    ],
)
def test_rates_grow_with_the_area_from_a_published_side_on(recipe: str, name: str, times: float) -> None:
    assert spec(recipe, name).method.optimizer.lr_img == pytest.approx(times * spec(recipe, "cifar10").method.optimizer.lr_img)


@pytest.mark.parametrize("name", CATALOGUE)
@pytest.mark.parametrize("recipe", RECIPES)
def test_every_recipe_fits_every_set(recipe: str, name: str) -> None:
    """At ipc 2: with one image of each class, some terms have no gradient, and are refused for every set alike."""
    assert spec(recipe, name, ipc=2).dataset.name == name
