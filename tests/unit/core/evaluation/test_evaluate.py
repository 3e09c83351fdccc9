from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from core.catalogue import dataset_info
from core.data.real_set import RealSet
from core.distillation.distil import distil
from core.evaluation import evaluate as module
from core.evaluation.evaluate import (
    ACCURACY_SERIES,
    HELD_OUT_SERIES,
    LOSS_SERIES,
    HeldOut,
    evaluate,
    random_selection,
    units,
)
from core.progress import Hooks, Record, Stopped

pytestmark = pytest.mark.unit


@pytest.fixture(scope="module")
def random_set(digits: RealSet) -> tuple[torch.Tensor, torch.Tensor]:
    return random_selection(digits, 2, 0, 99)


class TestEvaluate:
    def test_scores_every_unit(self, digits: RealSet, small_spec: Any, random_set: Any) -> None:
        spec = small_spec().evaluation
        record = Record()
        scores = evaluate(spec, digits, *random_set, ipc=2, seed=0, record=record)
        assert [(s.name, s.n, s.num_sets) for s in scores] == [("distilled", 2, 1), ("distilled_8bit", 2, 1), ("random", 1, 1)]
        assert list(record.units) == ["distilled/0", "distilled/1", "distilled_8bit/0", "distilled_8bit/1", "random/0"]
        assert scores[0].accuracies == (record.units["distilled/0"], record.units["distilled/1"])
        assert all(0 <= a <= 1 for s in scores for a in s.accuracies)
        assert [at for at, _ in record.series[LOSS_SERIES]] == [1, 2, 3]
        assert [at for at, _ in record.series[ACCURACY_SERIES]] == [1, 2, 3]
        assert record.seconds["evaluating"] > 0

    def test_leaves_out_what_is_not_asked_for(self, small_spec: Any) -> None:
        spec = small_spec(evaluation={"num_eval": 1, "check_8bit": False, "random_draws": 0}).evaluation
        assert [unit.key for unit in units(spec)] == ["distilled/0"]

    def test_images_that_fit_8_bits_score_the_same_in_8_bits(self, digits: RealSet, small_spec: Any, random_set: Any) -> None:
        spec = small_spec(evaluation={"num_epochs": 30}).evaluation
        distilled, eight_bit, _ = evaluate(spec, digits, *random_set, ipc=2, seed=0)
        assert eight_bit.accuracies == distilled.accuracies

    def test_does_not_repeat_finished_units(self, digits: RealSet, small_spec: Any, random_set: Any) -> None:
        spec = small_spec().evaluation
        whole = evaluate(spec, digits, *random_set, ipc=2, seed=0)

        class StopInThirdUnit(Hooks):
            passes = 0

            def should_stop(self) -> bool:
                self.passes += 1
                return self.passes > 7

        record, saved = Record(), []
        with pytest.raises(Stopped):
            evaluate(
                spec, digits, *random_set, ipc=2, seed=0, record=record, hooks=StopInThirdUnit(), save_seconds=0,
                save=lambda: saved.append(len(record.units)),
            )
        assert saved == [1, 2]
        record = Record.model_validate_json(record.model_dump_json())
        trained = []

        class Watch(Hooks):
            def progress(self, step: int, total: int, seconds: float | None = None, message: str = "") -> None:
                trained.append(message)

        assert evaluate(spec, digits, *random_set, ipc=2, seed=0, record=record, hooks=Watch()) == whole
        assert set(trained) == {"distilled_8bit/0", "distilled_8bit/1", "random/0"}

    def test_progress_counts_passes_of_all_units(self, digits: RealSet, small_spec: Any, random_set: Any) -> None:
        said = []

        class Watch(Hooks):
            def progress(self, step: int, total: int, seconds: float | None = None, message: str = "") -> None:
                said.append((step, total))

        evaluate(small_spec().evaluation, digits, *random_set, ipc=2, seed=0, hooks=Watch())
        assert said == [(n, 15) for n in range(1, 16)]

    def test_test_split_is_read_once_for_each_unit(
        self, digits: RealSet, small_spec: Any, random_set: Any, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        read = []
        original = module.Trainer.accuracy

        def accuracy(self: Any, trained: Any, data: Any, images: torch.Tensor, labels: torch.Tensor) -> float:
            read.append(images is data.test_images)
            return original(self, trained, data, images, labels)

        monkeypatch.setattr(module.Trainer, "accuracy", accuracy)
        evaluate(small_spec().evaluation, digits, *random_set, ipc=2, seed=0)
        assert read == [True] * 5


class TestRandomSelection:
    def test_draws_differ_and_repeat(self, digits: RealSet) -> None:
        a, b, c = (random_selection(digits, 3, 0, index)[0] for index in (0, 0, 1))
        assert torch.equal(a, b)
        assert not torch.equal(a, c)
        assert random_selection(digits, 3, 0, 0)[1].tolist() == [label for label in range(10) for _ in range(3)]


class TestHeldOut:
    def test_measures_at_its_iterations_once(self, digits_dir: Path, small_spec: Any) -> None:
        spec = small_spec(dataset={"held_out_fraction": 0.2}, evaluation={"held_out_every_iterations": 2})
        data = RealSet.load(
            digits_dir, dataset_info("digits"), device=torch.device("cpu"), seed=spec.seed, held_out_fraction=0.2
        )
        record = Record()
        held_out = HeldOut(spec.evaluation, data, ipc=2, num_iterations=4, seed=0)
        result = distil(
            spec, data, record=record, watch=lambda engine, n: held_out(n, engine.decoded, record, Hooks())
        )
        assert [at for at, _ in record.series[HELD_OUT_SERIES]] == [2, 4]
        held_out(4, result.engine.decoded, record, Hooks())
        assert len(record.series[HELD_OUT_SERIES]) == 2

    def test_never_by_default(self, digits: RealSet, small_spec: Any) -> None:
        record = Record()
        spec = small_spec().evaluation
        HeldOut(spec, digits, ipc=2, num_iterations=4, seed=0)(4, lambda: pytest.fail("decoded"), record, Hooks())
        assert record.series == {}
