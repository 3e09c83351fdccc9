"""Where the numbers of a recipe come from for data that no paper knows."""

from __future__ import annotations

import json
from typing import Any

import pytest

from core.catalogue import CATALOGUE, DatasetInfo
from core.specs.defaults import defaults_from, published_row, warning_of
from core.specs.job import DistillationSpec, JobRequest
from core.specs.recipes import RECIPES
from core.specs.resolve import resolve

pytestmark = pytest.mark.unit


def unknown(**changes: Any) -> DatasetInfo:
    """A set of ten classes of 32x32 colour images that no paper knows, with changes."""
    return CATALOGUE["cifar10"].model_copy(update={"name": "ds_" + "0" * 32, "digest": "0" * 64} | changes)


def resolved(info: DatasetInfo, **fields: Any) -> DistillationSpec:
    body = {"dataset": {"id": info.name}, "ipc": 10, "recipe": "dsa"} | fields
    return resolve(JobRequest.model_validate_json(json.dumps(body)), info)


class TestDefaultsFrom:
    @pytest.mark.parametrize(("recipe", "ipc", "row"), [
        ("dsa", 10, "cifar10 ipc 10"), ("dsa", 14, "cifar10 ipc 10"), ("dsa", 15, "cifar10 ipc 20"), ("dm", 3, "cifar10 ipc 1"),
        ("idc", 1, "cifar10 ipc 10"),
    ])
    def test_an_unknown_set_takes_the_nearest_ipc_of_cifar10(self, recipe: str, ipc: int, row: str) -> None:
        assert defaults_from(recipe, unknown(), ipc) == row

    def test_many_classes_take_cifar100_where_it_has_rows(self) -> None:
        many = unknown(classes=tuple(map(str, range(60))), train_per_class=(100,) * 60, test_per_class=(10,) * 60)
        assert defaults_from("mtt", many, 10) == "cifar100 ipc 10"
        assert defaults_from("dsa", many, 10) == "cifar10 ipc 10"

    def test_a_published_set_takes_its_own_row(self) -> None:
        assert defaults_from("dm", CATALOGUE["fashion-mnist"], 10) == "fashion-mnist ipc 10"

    @pytest.mark.parametrize("recipe", ["random", "k_means"])
    def test_real_images_have_no_numbers(self, recipe: str) -> None:
        assert defaults_from(recipe, unknown(), 10) == ""

    @pytest.mark.parametrize("recipe", RECIPES)
    def test_rows_are_of_the_catalogue(self, recipe: str) -> None:
        for info in (*CATALOGUE.values(), unknown()):
            row = published_row(recipe, info, 7)
            assert row is None or row[0] in CATALOGUE

    def test_the_resolved_specification_says_it(self) -> None:
        assert resolved(unknown()).defaults_from == "cifar10 ipc 10"
        whole = resolved(unknown()).method.model_dump(mode="json")
        assert resolved(unknown(), recipe="", method=whole).defaults_from == ""


class TestWarning:
    def test_none_where_the_row_is_near(self) -> None:
        assert warning_of("dsa", unknown(), 10) == ""
        assert warning_of("random", unknown(height=224, width=224), 10) == ""

    def test_names_the_side_and_the_ipc_that_are_far(self) -> None:
        text = warning_of("dsa", unknown(height=64, width=64), 100)
        assert "images of 32 px (here 64)" in text
        assert "ipc 50 (here 100)" in text
        assert "cifar10" in text
