from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from core.catalogue import CATALOGUE, dataset_info
from core.data.real_set import RealSet
from core.distillation.distil import distil
from core.distillation.parameterizations.multi_formation import MultiFormation
from core.distillation.parameterizations.pixels import Pixels
from core.distillation.randomness import rng
from core.errors import InvalidInputError
from core.evaluation import evaluate as module
from core.evaluation.evaluate import ACCURACY_SERIES, LOSS_SERIES, units
from core.evaluation.held_out import HELD_OUT_SERIES, HeldOut
from core.evaluation.protocol import schedule_of
from core.evaluation.sets import mosaic, random_selection
from core.experts import TrainedHere
from core.progress import Hooks, Record, Stopped
from core.report.outcome import Score
from core.specs.augmentation import IDCAugmentationSpec, NoAugmentationSpec
from core.specs.evaluation import EvaluationSpec, cafe_protocol, idc_protocol
from core.specs.network import ConvNetSpec
from core.specs.synthetic import MultiFormationSpec, PixelsSpec

pytestmark = pytest.mark.unit


@pytest.fixture(scope="module")
def random_set(digits: RealSet) -> tuple[torch.Tensor, torch.Tensor]:
    return random_selection(digits, 2, 0, 99)


def evaluate(spec: EvaluationSpec, data: RealSet, images: Any, labels: Any, **fields: Any) -> list[Score]:
    needed = {"experts": TrainedHere(data), "parameterization": Pixels(PixelsSpec(), fields["ipc"], data)}
    return module.evaluate(spec, data, images, labels, **(needed | fields))


BASELINES = {"num_epochs": 1, "num_eval": 1, "random_draws": 2, "baseline_training": {"num_epochs": 1}, "check_8bit": False}


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

    def test_the_distilled_set_trains_at_the_rate_learned_with_it(
        self, digits: RealSet, small_spec: Any, random_set: Any
    ) -> None:
        plain = small_spec(evaluation={"num_epochs": 4, "lr_net": 0.01}).evaluation
        learned = plain.model_copy(update={"use_learned_rate": True})
        at = plain.model_copy(update={"lr_net": 0.2})
        records = {name: Record() for name in ("plain", "learned", "at", "unused")}
        evaluate(plain, digits, *random_set, ipc=2, seed=0, record=records["plain"])
        evaluate(plain, digits, *random_set, ipc=2, seed=0, record=records["unused"], learned_rate=0.2)
        evaluate(learned, digits, *random_set, ipc=2, seed=0, record=records["learned"], learned_rate=0.2)
        evaluate(at, digits, *random_set, ipc=2, seed=0, record=records["at"])
        of = {name: record.units for name, record in records.items()}
        assert of["unused"] == of["plain"]
        for key in ("distilled/0", "distilled/1", "distilled_8bit/0"):
            assert of["learned"][key] == of["at"][key] != of["plain"][key]
        assert of["learned"]["random/0"] == of["plain"]["random/0"]

    def test_a_missing_rate_is_refused(self, digits: RealSet, small_spec: Any, random_set: Any) -> None:
        spec = small_spec().evaluation.model_copy(update={"use_learned_rate": True})
        with pytest.raises(InvalidInputError, match="use_learned_rate"):
            evaluate(spec, digits, *random_set, ipc=2, seed=0)

    @pytest.mark.parametrize(
        "options",
        [
            {}, {"cutmix_probability": 0.5}, {"schedule": "two_drops", "batch_size": 7}, {"augmentation": {"kind": "idc"}},
            {"augmentation": {"kind": "none"}, "momentum": 0.0}, {"check_8bit": True, "random_draws": 1},
            {"cross_networks": [{"kind": "mlp", "width": 16}]}, {"random_draws": 1, "baselines": ["mosaic"]},
        ],
        ids=lambda options: "-".join(options) or "plain",
    )
    def test_soft_labels_are_what_networks_learn(
        self, options: dict[str, Any], digits: RealSet, small_spec: Any, random_set: Any
    ) -> None:
        fields = {"num_epochs": 30, "num_eval": 1, "check_8bit": False, "random_draws": 0} | options
        spec = small_spec(evaluation=fields).evaluation
        images, labels = random_set
        hard, one_hot = Record(), Record()
        evaluate(spec, digits, images, labels, ipc=2, seed=0, record=hard)
        evaluate(spec, digits, images, torch.nn.functional.one_hot(labels, 10).float(), ipc=2, seed=0, record=one_hot)
        assert one_hot.units == pytest.approx(hard.units, abs=0.01)
        assert one_hot.series[LOSS_SERIES] == [(at, pytest.approx(loss, abs=1e-3)) for at, loss in hard.series[LOSS_SERIES]]
        shifted, *_ = evaluate(
            spec, digits, images, torch.nn.functional.one_hot((labels + 1) % 10, 10).float(), ipc=2, seed=0
        )
        assert shifted.mean < 0.5 * hard.units["distilled/0"]

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


class TestBaselines:
    def test_every_baseline_has_networks_of_its_own(self, digits: RealSet, small_spec: Any, random_set: Any) -> None:
        names = ["mosaic", "herding", "k_center", "forgetting"]
        spec = small_spec(evaluation=BASELINES | {"baselines": names}).evaluation
        packed = MultiFormation(MultiFormationSpec(), 2, digits)
        record = Record()
        scores = evaluate(spec, digits, *random_set, ipc=2, seed=0, record=record, parameterization=packed)
        assert [(s.name, s.n, s.num_sets) for s in scores] == [
            ("distilled", 1, 1), ("random", 2, 2), ("mosaic", 2, 2), ("herding", 2, 1), ("k_center", 2, 1),
            ("forgetting", 2, 1),
        ]
        assert list(record.units) == ["distilled/0", *(f"{name}/{i}" for name in ("random", *names) for i in range(2))]

    def test_what_they_are_trained_on(
        self, digits: RealSet, small_spec: Any, random_set: Any, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        seen: list[tuple[torch.Tensor, torch.Tensor]] = []
        original = module.Trainer.train

        def train(self: Any, images: torch.Tensor, labels: torch.Tensor, **fields: Any) -> Any:
            seen.append((images, labels))
            return original(self, images, labels, **fields)

        monkeypatch.setattr(module.Trainer, "train", train)
        spec = small_spec(evaluation=BASELINES | {"baselines": ["mosaic", "herding", "forgetting"]}).evaluation
        packed = MultiFormation(MultiFormationSpec(), 2, digits)
        evaluate(spec, digits, *random_set, ipc=2, seed=0, parameterization=packed)
        (_, labels), *_, first, second, herded, again, forgotten, _ = seen
        assert torch.equal(first[0], mosaic(digits, packed, 0, 0)[0])
        assert torch.equal(second[0], mosaic(digits, packed, 0, 1)[0])
        assert first[1].tolist() == [label for label in range(10) for _ in range(8)]
        assert torch.equal(herded[1], labels)
        assert herded[0] is again[0]
        assert not torch.equal(herded[0], forgotten[0])
        real = digits.normalise(digits.images)
        assert all((real == image).all((1, 2, 3)).any() for image in herded[0])

    def test_only_hallucinations_stand_for_one_another(
        self, digits: RealSet, small_spec: Any, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        seen: list[tuple[int, int]] = []
        original = module.Trainer.train

        def train(self: Any, images: torch.Tensor, labels: torch.Tensor, *, variants: int, **fields: Any) -> Any:
            seen.append((len(images), variants))
            return original(self, images, labels, variants=variants, **fields)

        monkeypatch.setattr(module.Trainer, "train", train)
        method = {"parameterization": {"kind": "bases_hallucinators", "num_hallucinators": 2}, "num_iterations": 0}
        evaluation = BASELINES | {"baselines": ["mosaic"], "check_8bit": True, "random_draws": 1}
        spec = small_spec(method=method, evaluation=evaluation)
        result = distil(spec, digits, TrainedHere(digits))
        parameterization = result.engine.parts.parameterization
        evaluate(spec.evaluation, digits, result.images, result.labels, ipc=2, seed=0, parameterization=parameterization)
        assert seen == [(20, 2), (20, 2), (20, 1), (10, 1)]

    def test_a_mosaic_of_single_images_is_random_selection(self, digits: RealSet) -> None:
        images, labels = mosaic(digits, Pixels(PixelsSpec(), 3, digits), 0, 1)
        assert labels.tolist() == [label for label in range(10) for _ in range(3)]
        chosen = torch.cat([
            torch.randperm(count, generator=generator)[:3] + offset
            for generator in [rng(0, "baseline/mosaic", 1)]
            for count, offset in zip(digits.counts, digits.offsets, strict=True)
        ])
        assert torch.equal(images, digits.gather(chosen))

    def test_a_pool_is_trained_only_when_a_unit_needs_it(self, digits: RealSet, small_spec: Any, random_set: Any) -> None:
        class Nobody:
            def pool(self, spec: Any) -> Any:
                raise AssertionError(spec)

        spec = small_spec(evaluation=BASELINES | {"baselines": ["herding"]}).evaluation
        record = Record(units={unit.key: 0.5 for unit in units(spec)})
        scores = evaluate(spec, digits, *random_set, ipc=2, seed=0, record=record, experts=Nobody())
        assert {score.mean for score in scores} == {0.5}


class TestCrossNetworks:
    CROSS = ({"kind": "mlp", "width": 8}, {"kind": "convnet", "width": 4, "depth": 2, "norm": "batch"})

    def test_the_set_and_random_selection_on_every_architecture(
        self, digits: RealSet, small_spec: Any, random_set: Any
    ) -> None:
        fields = {"cross_networks": self.CROSS, "num_epochs": 1}
        record = Record()
        scores = evaluate(small_spec(evaluation=fields).evaluation, digits, *random_set, ipc=2, seed=0, record=record)
        main, others = "convnet-1 width 8", ["mlp width 8", "convnet-2 width 4 batch norm"]
        assert [(s.name, s.network, s.n) for s in scores] == [
            ("distilled", main, 2), ("distilled_8bit", main, 2), ("random", main, 1),
            *((name, network, n) for network in others for name, n in (("distilled", 2), ("random", 1))),
        ]
        assert list(record.units)[4:9] == [
            "random/0", "distilled/mlp width 8/0", "distilled/mlp width 8/1", "random/mlp width 8/0",
            "distilled/convnet-2 width 4 batch norm/0",
        ]
        assert [at for at, _ in record.series[LOSS_SERIES]] == [1, 2]

    def test_networks_do_not_change_one_another(self, digits: RealSet, small_spec: Any, random_set: Any) -> None:
        alone = evaluate(small_spec().evaluation, digits, *random_set, ipc=2, seed=0)
        further = small_spec(evaluation={"cross_networks": self.CROSS[:1]}).evaluation
        beside = evaluate(further, digits, *random_set, ipc=2, seed=0)
        assert beside[:3] == alone


class TestProtocols:
    def test_idc(self) -> None:
        spec = idc_protocol(CATALOGUE["cifar10"], ConvNetSpec())
        assert schedule_of(spec) == (1000, 64, 0.01, 0.9, 5e-4, "two_drops", 0.5)
        assert spec.augmentation == IDCAugmentationSpec(strategy=("color", "crop", "flip", "scale", "rotate"))

    def test_idc_on_digits(self) -> None:
        spec = idc_protocol(CATALOGUE["mnist"], ConvNetSpec())
        assert spec.cutmix_probability == 0
        assert spec.augmentation == IDCAugmentationSpec(strategy=("color", "crop", "scale", "rotate"))
        assert idc_protocol(CATALOGUE["fashion-mnist"], ConvNetSpec()).cutmix_probability == 0.5

    def test_cafe(self) -> None:
        spec = cafe_protocol(CATALOGUE["cifar10"], ConvNetSpec())
        assert schedule_of(spec) == (600, 256, 0.01, 0.9, 5e-4, "one_drop", 0.0)
        assert spec.augmentation == NoAugmentationSpec()

    def test_idc_runs(self, digits: RealSet, small_spec: Any, random_set: Any) -> None:
        fields = {"protocol": "idc", "num_epochs": 6, "cutmix_probability": 0.5}
        said = []

        class Watch(Hooks):
            def progress(self, step: int, total: int, seconds: float | None = None, message: str = "") -> None:
                said.append((step, total))

        evaluate(small_spec(evaluation=fields).evaluation, digits, *random_set, ipc=2, seed=0, hooks=Watch())
        assert said == [(n, 30) for n in range(1, 31)]


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
        held_out = HeldOut(spec.evaluation, data, num_images=20, num_iterations=4, seed=0)
        result = distil(
            spec, data, TrainedHere(data), record=record, watch=lambda engine, n: held_out(n, engine.decoded, record, Hooks())
        )
        assert [at for at, _ in record.series[HELD_OUT_SERIES]] == [2, 4]
        held_out(4, result.engine.decoded, record, Hooks())
        assert len(record.series[HELD_OUT_SERIES]) == 2

    def test_watches_at_the_learned_rate(self, digits_dir: Path, small_spec: Any) -> None:
        spec = small_spec(dataset={"held_out_fraction": 0.2}, evaluation={"held_out_every_iterations": 2})
        learned = spec.evaluation.model_copy(update={"use_learned_rate": True})
        fixed = spec.evaluation.model_copy(update={"lr_net": 0.2})
        data = RealSet.load(digits_dir, dataset_info("digits"), device=torch.device("cpu"), held_out_fraction=0.2)
        records = [Record(), Record()]
        for protocol, record in zip((learned, fixed), records, strict=True):
            watch = HeldOut(protocol, data, num_images=20, num_iterations=4, seed=0)
            watch(2, lambda: random_selection(data, 2, 0, 0), record, Hooks(), learned_rate=lambda: 0.2)
        assert records[0].series == records[1].series

    def test_never_by_default(self, digits: RealSet, small_spec: Any) -> None:
        record = Record()
        spec = small_spec().evaluation
        HeldOut(spec, digits, num_images=20, num_iterations=4, seed=0)(4, lambda: pytest.fail("decoded"), record, Hooks())
        assert record.series == {}
