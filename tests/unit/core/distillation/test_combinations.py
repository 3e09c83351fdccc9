"""Methods that meet in one composition: what one needs from the other is there, and is about the same images."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from core.data.real_set import RealSet
from core.distillation.augmentation.none import Identity
from core.distillation.build import build
from core.distillation.distil import distil
from core.distillation.engine import Engine
from core.distillation.objectives.trajectory import ALL, Trajectory
from core.distillation.probe import least_images
from core.experts import TrainedHere
from core.networks.build import build_network
from core.progress import Record
from core.specs.network import MLPSpec
from core.training import NetworkStep, Schedule, Trainer, TrainState, epoch_order
from tests.unit.core.distillation.resumption import assert_resumes_exactly

pytestmark = pytest.mark.unit

BASES, HALLUCINATORS = 20, 3
FACTORS: dict[str, Any] = {
    "parameterization": {"kind": "bases_hallucinators", "num_bases_per_class": 2, "num_hallucinators": HALLUCINATORS},
    "optimizer": {"lr_img": 0.01, "lr_hallucinator": 1e-4, "lr_rate": 1e-3, "lr_label": 1.0},
}
EXPERTS = {
    "models": {
        "kind": "expert_segments", "num_networks": 2, "training": {"num_epochs": 2}, "span_epochs": 1, "max_start_epoch": 2,
    },
}
CONTRAST = {"kind": "mutual_information"}
SELECTED = {"kind": "representative", "real_batch_per_class": 6, "num_candidates": 20, "weighting": "cluster_size"}


def on_trajectories(*, batch_size: int = 8, gradient_mode: str = "adjoint", **method: Any) -> dict[str, Any]:
    objective = {"kind": "trajectory", "num_steps": 4, "batch_size": batch_size, "gradient_mode": gradient_mode}
    return EXPERTS | {"objective": objective} | method


@pytest.fixture(scope="module")
def experts(digits: RealSet) -> TrainedHere:
    return TrainedHere(digits)


@pytest.fixture
def engine_of(digits: RealSet, small_spec: Any, experts: TrainedHere) -> Any:
    def make(**method: Any) -> Engine:
        parts = build(small_spec(method=method), digits, experts)
        return Engine(parts, digits, seed=0, num_iterations=4, record=Record(), compiled=False)

    return make


class TestFactorsUnderTrajectories:
    @pytest.mark.parametrize(("batch_size", "sizes"), [(8, [8, 8, 4, 8]), (0, [20] * 4), (99, [20] * 4)])
    def test_a_step_sees_bases_through_one_hallucinator(self, engine_of: Any, batch_size: int, sizes: list[int]) -> None:
        engine = engine_of(**on_trajectories(batch_size=batch_size), **FACTORS)
        step, _ = engine._prepare(0)
        (objective,) = engine.parts.losses
        assert isinstance(objective, Trajectory)
        taken = [part.rows for part in objective._steps(step)]
        assert [len(rows) for rows in taken] == sizes
        assert all(len((rows % HALLUCINATORS).unique()) == 1 for rows in taken)
        used_up = torch.cat([rows // HALLUCINATORS for rows in taken[: 3 if batch_size == 8 else 1]])
        assert used_up.sort().values.tolist() == list(range(BASES))
        later = [part.rows for number in range(1, 5) for part in objective._steps(engine._prepare(number)[0])]
        assert len({int(rows[0] % HALLUCINATORS) for rows in later}) == HALLUCINATORS

    def test_the_graph_is_that_of_a_step(self, engine_of: Any) -> None:
        for batch_size, images in ((8, 8), (0, BASES)):
            engine = engine_of(**on_trajectories(batch_size=batch_size), **FACTORS)
            assert engine.num_virtual == BASES * HALLUCINATORS
            (piece,) = engine.pieces
            assert least_images(engine, piece) == images

    def test_both_factors_learn_alike_by_the_sweep_and_unrolled(self, engine_of: Any) -> None:
        found = []
        for mode in ("adjoint", "unrolled"):
            engine = engine_of(**on_trajectories(gradient_mode=mode), **FACTORS)
            engine._gradient(0)
            learned = engine.parts.parameterization.parameters()
            found.append([tensor.grad for kind in ("bases", "hallucinators") for tensor in learned[kind]])
        assert all(gradient.abs().sum() > 0 for gradient in found[0])
        for a, b in zip(*found, strict=True):
            torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-6)

    def test_resume_with_adversary_labels_and_rate(self, engine_of: Any) -> None:
        extras = {"terms": [{"kind": "adversarial_contrast"}, CONTRAST], "labels": {"kind": "learned"}}
        assert_resumes_exactly(lambda: engine_of(**on_trajectories(**extras, **FACTORS)))


class TestLabelsOfVirtualImages:
    @pytest.mark.parametrize("labels", ["learned", "teacher"])
    def test_each_image_of_the_result_has_its_own(self, engine_of: Any, labels: str) -> None:
        engine = engine_of(**on_trajectories(labels={"kind": labels}), **FACTORS)
        engine.iterate()
        images, asked = engine.decoded()
        assert len(asked.unique(dim=0)) == len(images) == BASES * HALLUCINATORS
        index = torch.arange(len(images))
        again, classes = engine.parts.parameterization.decode(index)
        torch.testing.assert_close(images, again.detach())
        torch.testing.assert_close(asked, engine.parts.labels.targets(index, classes).detach())

    def test_a_step_of_the_trajectory_asks_for_that_of_the_image(self, engine_of: Any) -> None:
        engine = engine_of(**on_trajectories(labels={"kind": "learned"}, augmentation={"kind": "none"}), **FACTORS)
        step, _ = engine._prepare(0)
        numbers = torch.arange(len(step.syn.images))
        marked = numbers[:, None, None, None].expand(-1, 1, 8, 8).float()
        for part in engine.parts.losses[0]._steps(step):
            seen, asked = part.take(marked, numbers)
            assert seen.mean((1, 2, 3)).tolist() == asked.tolist()
        assert step.syn.rows[step.syn.draws.index(ALL)].tolist() == numbers.tolist()

    def test_training_sees_image_and_label_of_one_virtual_image(self, digits: RealSet) -> None:
        schedule = Schedule(num_epochs=2, batch_size=7, lr_net=0.1, momentum=0.0, weight_decay=0.0, shape="constant")
        trainer = Trainer(
            build_network(MLPSpec(width=4), digits.info), schedule, Identity(), compiled=False, device=digits.device,
        )
        seen: list[tuple[Tensor, Tensor]] = []

        class Watched(NetworkStep):
            def __call__(
                self, state: TrainState, images: Tensor, targets: Tensor, rate: float | Tensor
            ) -> tuple[TrainState, Tensor]:
                seen.append((images.mean((1, 2, 3)), targets[:, 0]))
                return super().__call__(state, images, targets, rate)

        trainer._step = Watched(trainer.net, momentum=0.0, weight_decay=0.0, compiled=False, device=digits.device)
        numbers = torch.arange(60.0)
        images, labels = numbers[:, None, None, None].expand(-1, 1, 8, 8), numbers[:, None].expand(-1, 10)
        trainer.train(images, labels, seed=0, name="test", variants=HALLUCINATORS)
        for image, label in seen:
            torch.testing.assert_close(image, label)
        shown = torch.cat([image for image, _ in seen]).long()
        for one in shown.split(BASES):
            assert (one // HALLUCINATORS).sort().values.tolist() == list(range(BASES))
        assert len((shown % HALLUCINATORS).unique()) == HALLUCINATORS


class TestEpochOrder:
    def test_one_of_each_group(self) -> None:
        order = epoch_order(60, 3, torch.Generator().manual_seed(1))
        assert (order // 3).sort().values.tolist() == list(range(20))
        assert len((order % 3).unique()) == 3

    def test_everything_without_groups(self) -> None:
        assert torch.equal(
            epoch_order(9, 1, torch.Generator().manual_seed(1)), torch.randperm(9, generator=torch.Generator().manual_seed(1))
        )


@pytest.mark.parametrize("models", [
    {"kind": "trained_on_synthetic", "steps_per_network": 2, "num_epochs": 1, "batch_size": 64},
    {"kind": "dynamic_bilevel", "window": 2, "max_epochs": 1, "num_watched": 2, "batch_size": 64},
])
def test_networks_in_the_loop_see_each_basis_once(engine_of: Any, models: dict[str, Any]) -> None:
    engine = engine_of(models=models, **FACTORS)
    batches: list[int] = []
    source = engine.parts.models
    trained = getattr(source, "_training", source)
    real = trained._step

    class Recording:
        def __getattr__(self, name: str) -> Any:
            return getattr(real, name)

        def __call__(self, state: Any, images: Tensor, *rest: Any) -> Any:
            batches.append(len(images))
            return real(state, images, *rest)

    trained._step = Recording()
    engine.iterate()
    assert batches == [BASES]


class TestContrastUnderTrajectories:
    def test_it_plans_its_own_draws_and_real_images(self, engine_of: Any) -> None:
        engine = engine_of(**on_trajectories(terms=[CONTRAST], selection=SELECTED))
        assert [draw.kind for draw in engine.plan.syn] == ["all", "per_class"]
        assert engine.num_real == 60
        (piece,) = engine.pieces
        assert least_images(engine, piece) == engine.num_virtual == 40
        step, _ = engine._prepare(0)
        assert [part is step for part in step.chunks(1)] == [True]
        objective, term = engine.parts.losses
        alone = engine_of(**on_trajectories())
        expected = alone.parts.losses[0].value(alone._prepare(0)[0])
        assert torch.equal(objective.value(step), expected)
        assert term.value(step).isfinite()

    def test_both_move_the_set(self, engine_of: Any) -> None:
        found = []
        for terms in ([], [CONTRAST | {"weight": 5.0}]):
            engine = engine_of(**on_trajectories(terms=terms))
            engine._gradient(0)
            (pixels,) = engine.parts.parameterization.parameters()["pixels"]
            found.append(pixels.grad)
        assert not torch.allclose(*found)

    def test_resume_with_representative_selection(self, engine_of: Any) -> None:
        assert_resumes_exactly(lambda: engine_of(**on_trajectories(terms=[CONTRAST], selection=SELECTED)))


@pytest.mark.parametrize("objective", [{"kind": "gradient"}, {"kind": "gradient", "grouping": "summed", "summed_from_step": 0}])
def test_contrast_under_gradients_of_factors(digits: RealSet, small_spec: Any, experts: TrainedHere, objective: Any) -> None:
    method = FACTORS | {"objective": objective, "terms": [CONTRAST, {"kind": "adversarial_contrast"}], "selection": SELECTED}
    result = distil(small_spec(method=method), digits, experts, compiled=False)
    assert result.images.isfinite().all()
    assert set(result.factors) >= {"bases", "labels", "scale"}
