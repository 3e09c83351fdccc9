from __future__ import annotations

import dataclasses
import json
import math
import tempfile
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from core.catalogue import dataset_info
from core.report.build import write_artifacts
from core.report.comparison import cautions, departures_from_recipe, difference, published_rows
from core.report.numbers import bytes_text, finite, seconds_text, small_percent, write_json
from core.report.outcome import Outcome, Score
from core.report.report import build_report
from tests.unit.core.report.conftest import NETWORK, Write, colour_images, outcome_of, spec_for

pytestmark = pytest.mark.unit


def refuse(constant: str) -> NoReturn:
    raise AssertionError(f"{constant} is not JSON")


def read(path: Path) -> dict[str, Any]:
    document: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"), parse_constant=refuse)
    return document


def report_of(outcome: Outcome, folder: Path) -> dict[str, Any]:
    """The report alone, without the other files."""
    write_json(folder / "report.json", build_report(outcome, []))
    return read(folder / "report.json")


class TestScores:
    def test_accuracies_are_fractions_with_mean_deviation_and_count(self, digits: Outcome, tmp_path: Path) -> None:
        report = report_of(digits, tmp_path)
        distilled, _, random = report["scores"]
        values = np.array([0.871, 0.884, 0.893])
        assert distilled["accuracies"] == values.tolist()
        assert distilled["mean"] == pytest.approx(values.mean())
        assert distilled["std"] == pytest.approx(values.std(ddof=1))
        assert (distilled["n"], distilled["num_sets"], random["num_sets"]) == (3, 1, 3)
        assert report["chance"] == pytest.approx(0.1)

    def test_the_difference_to_random_selection(self, digits: Outcome, tmp_path: Path) -> None:
        entries = report_of(digits, tmp_path)["against_random"]
        assert [entry["name"] for entry in entries] == ["distilled", "distilled_8bit"]
        assert entries[0]["difference"] == pytest.approx(0.8826667 - 0.662, abs=1e-6)

    def test_the_standard_error_of_a_difference_by_hand(self) -> None:
        result = difference(Score("distilled", "a", (0.5, 0.7)), Score("random", "a", (0.1, 0.3, 0.5)))
        assert result["difference"] == pytest.approx(0.3)
        assert result["standard_error"] == pytest.approx(math.sqrt(0.02 / 2 + 0.04 / 3))

    def test_what_8_bits_cost(self, digits: Outcome, tmp_path: Path) -> None:
        assert report_of(digits, tmp_path)["cost_of_8bit"]["difference"] == pytest.approx(0.879 - 0.8826667, abs=1e-6)
        alone = dataclasses.replace(digits, scores=digits.scores[:1])
        assert report_of(alone, tmp_path)["cost_of_8bit"] is None

    def test_one_network_has_no_deviation(self, digits: Outcome, tmp_path: Path) -> None:
        lone = (Score("distilled", NETWORK, (0.9,)), Score("random", NETWORK, (0.6,)))
        report = report_of(dataclasses.replace(digits, scores=lone), tmp_path)
        assert report["scores"][0]["std"] is None
        assert report["against_random"][0]["standard_error"] is None

    @pytest.mark.parametrize(("distilled", "per_class", "said"), [
        ((0.9, 0.91), 60, []), ((0.9, 0.91), 40, ["has 400 images: each is worth 0.2 points"]),
        ((0.9,), 60, ["single network"]), ((0.45, 0.46), 60, ["Random real images"]),
        ((0.10, 0.11), 60, ["better than chance", "Random real images"]), ((0.13, 0.14), 60, ["Random real images"]),
    ])
    def test_what_accuracies_cannot_bear(
        self, digits: Outcome, distilled: tuple[float, ...], per_class: int, said: list[str]
    ) -> None:
        """Chance is 10 % here; two standard errors of 600 images are 2.4 points."""
        scores = [Score("distilled", NETWORK, distilled), Score("random", NETWORK, (0.5, 0.6))]
        info = digits.info.model_copy(update={"test_per_class": (per_class,) * 10})
        found = cautions(dataclasses.replace(digits, scores=scores, info=info))
        assert [part in text for part, text in zip(said, found, strict=True)] == [True] * len(said)

    def test_networks_are_compared_with_themselves(self, digits: Outcome, tmp_path: Path) -> None:
        scores = (*digits.scores, Score("distilled", "resnet18", (0.8, 0.7)))
        report = report_of(dataclasses.replace(digits, scores=scores), tmp_path)
        assert [entry["network"] for entry in report["against_random"]] == [NETWORK, NETWORK]

    def test_every_baseline_and_architecture(self, compared: Outcome, tmp_path: Path) -> None:
        report = report_of(compared, tmp_path)
        assert len(report["scores"]) == 11
        assert list(report["trained_on"]) == [
            "distilled", "distilled_8bit", "random", "mosaic", "herding", "k_center", "forgetting",
        ]
        assert "full size" in report["trained_on"]["random"]
        assert "packed" in report["trained_on"]["mosaic"]
        gains = {(entry["name"], entry["network"]): entry["difference"] for entry in report["against_random"]}
        assert len(gains) == 8
        assert gains["mosaic", NETWORK] == pytest.approx(0.7 - 0.662)
        assert gains["distilled", "mlp width 128"] == pytest.approx(0.25)

    def test_a_job_without_evaluation_has_no_scores(self, digits: Outcome, tmp_path: Path) -> None:
        report = report_of(dataclasses.replace(digits, scores=(), series={}), tmp_path)
        assert report["scores"] == report["against_random"] == []


class TestPublished:
    def test_rows_of_the_recipe_and_of_random_selection(self, paper: Outcome, tmp_path: Path) -> None:
        rows = {row["recipe"]: row for row in report_of(paper, tmp_path)["published"]}
        assert set(rows) == {"dm", "random"}
        assert rows["dm"]["mean"] == 0.489
        assert rows["dm"]["n"] is None
        assert rows["dm"]["protocol"] == "dm"
        assert rows["dm"]["measured_here"] is False
        assert rows["dm"]["setting_differs"] == []

    def test_another_network_counts_where_the_job_trained_it_and_an_ablation_never(self) -> None:
        def networks(**evaluation: Any) -> list[tuple[str, str]]:
            spec = spec_for("cifar10", 10, recipe="dsdm", evaluation=evaluation)
            rows = published_rows(outcome_of(spec, dataset_info("cifar10"), colour_images(10, 10, 32)))
            return [(row["recipe"], row["network"]) for row in rows]

        assert networks() == [("random", "convnet-3"), ("dsdm", "convnet-3")]
        cross = networks(cross_networks=[{"kind": "resnet10_idc"}])
        assert cross == [("random", "convnet-3"), ("dsdm", "convnet-3"), ("dsdm", "resnet10_idc")]

    def test_a_capped_job_says_how_its_setting_differs(self) -> None:
        info = dataset_info("cifar10")
        small = outcome_of(spec_for("cifar10", 10), info, colour_images(10, 10, 32))
        found = departures_from_recipe(small)
        assert "method.num_iterations: 20000 -> 300" in found
        assert "evaluation.network.width: 128 -> 32" in found
        assert not any("num_eval" in line for line in found)

    def test_another_kind_is_one_departure(self) -> None:
        info = dataset_info("cifar10")
        spec = spec_for("cifar10", 10, scale="paper", method={"init": {"kind": "noise"}})
        assert departures_from_recipe(outcome_of(spec, info, colour_images(10, 10, 32))) == ["method.init: random -> noise"]

    def test_a_set_that_no_paper_used_has_none(self, digits: Outcome, tmp_path: Path) -> None:
        assert report_of(digits, tmp_path)["published"] == []


class TestBudget:
    def test_it_counts_stored_scalars(self, colour: Outcome, tmp_path: Path) -> None:
        budget = report_of(colour, tmp_path)["budget"]
        assert budget["scalars"] == budget["stored"] == 10 * 2 * 3 * 32 * 32
        assert budget["over_budget"] is False

    def test_one_scalar_too_many_is_over(self, colour: Outcome, tmp_path: Path) -> None:
        storage = {"pixels": 10 * 2 * 3 * 32 * 32, "labels": 1}
        budget = report_of(dataclasses.replace(colour, storage=storage), tmp_path)["budget"]
        assert budget["stored_by_kind"] == storage
        assert budget["over_budget"] is True

    def test_ratios_to_the_real_training_set(self, digits: Outcome, tmp_path: Path) -> None:
        size = report_of(digits, tmp_path)["size"]
        assert size["real_training_images"] == 1352
        assert size["decoded_images"] == 30
        assert size["image_ratio"] == size["stored_image_ratio"] == pytest.approx(30 / 1352)
        assert size["stored_images"] == 30

    def test_packed_images_are_counted_as_stored(self, digits: Outcome) -> None:
        images, labels = np.concatenate([digits.images] * 2), np.concatenate([digits.labels] * 2)
        size = build_report(dataclasses.replace(digits, images=images, labels=labels), [])["size"]
        assert (size["stored_images"], size["decoded_images"]) == (30, 60)
        assert size["stored_image_ratio"] == pytest.approx(30 / 1352)
        assert size["stored_float32_byte_ratio"] == pytest.approx(4 * 30 / 1352)

    def test_bytes_of_each_file(self, digits: Outcome, written: Write) -> None:
        out = written(digits)
        files = read(out / "report.json")["files"]
        assert {"data.safetensors", "data.parquet", "images.zip"} <= set(files)
        assert all((out / name).stat().st_size == count for name, count in files.items())


class TestNonFinite:
    def test_points_become_null_and_everything_is_still_drawn(self, digits: Outcome, tmp_path: Path) -> None:
        loss = [(0, 3.0), (5, math.nan), (10, math.inf), (15, 0.01)]
        series = {"distillation/loss": loss, "held_out/accuracy": [(0, math.nan)]}
        odd = dataclasses.replace(digits, series=series, seconds_per_iteration=math.nan, seconds={"distilling": math.inf})
        write_artifacts(odd, tmp_path / "out")
        report = read(tmp_path / "out" / "report.json")
        assert report["curves"]["distillation/loss"] == {"steps": [0, 5, 10, 15], "values": [3.0, None, None, 0.01]}
        assert report["curves"]["held_out/accuracy"] == {"steps": [0], "values": [None]}
        assert report["seconds_per_iteration"] is None
        assert report["seconds"] == {"distilling": None, "total": None}

    def test_a_tree_is_cleaned_everywhere(self) -> None:
        tree = {"a": [1.0, -math.inf, {"b": (math.nan, "x", None, True, 3)}]}
        assert finite(tree) == {"a": [1.0, None, {"b": [None, "x", None, True, 3]}]}


@given(st.recursive(st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
                    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4)))
def test_what_is_written_is_what_is_read(value: Any) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "value.json"
        write_json(path, value)
        assert read(path) == value


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (bytes_text(512), "512 B"), (bytes_text(1536), "1.5 KiB"), (bytes_text(3 * 2**30), "3.00 GiB"),
        (seconds_text(0.0312), "31.2 ms"), (seconds_text(75.0), "75 s"), (seconds_text(600), "10 min"),
        (seconds_text(2 * 3600 + 300), "2 h 05 min"), (seconds_text(math.nan), "unknown"),
        (small_percent(0.0004), "0.04"), (small_percent(0.5), "50.0"),
    ],
)
def test_numbers_as_a_person_reads_them(text: str, expected: str) -> None:
    assert text == expected
