"""Every kind of every slot, found by walking the unions of the specifications, keeps the engine's contract."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Any, get_args, get_origin

import pytest
import torch

from core.catalogue import dataset_info
from core.data.real_set import RealSet
from core.distillation.build import build
from core.distillation.distil import distil
from core.distillation.engine import Engine
from core.experts import TrainedHere
from core.progress import Record
from core.specs.augmentation import AugmentationSpec
from core.specs.init import InitSpec
from core.specs.job import DistillationSpec
from core.specs.models import ModelsSpec
from core.specs.network import NetworkSpec
from core.specs.objective import ObjectiveSpec
from core.specs.selection import SelectionSpec
from core.specs.storage import images_per_class
from core.specs.synthetic import LabelsSpec, OptimizerSpec, ParameterizationSpec
from core.specs.terms import TermSpec
from tests.unit.core.distillation.real_sets import real_set
from tests.unit.core.distillation.resumption import assert_resumes_exactly

pytestmark = pytest.mark.unit

SLOTS: dict[str, Any] = {
    "objective": ObjectiveSpec, "models": ModelsSpec, "parameterization": ParameterizationSpec,
    "selection": SelectionSpec, "labels": LabelsSpec, "augmentation": AugmentationSpec, "init": InitSpec,
    "optimizer": OptimizerSpec, "terms": TermSpec, "network": NetworkSpec,
}
SMALL: dict[str, dict[str, Any]] = {
    "pretrained_pool": {"num_networks": 2, "training": {"num_epochs": 1}},
    "growing_queue": {"capacity": 3, "push_every": 2, "num_steps": 2, "batch_size": 16},
    "dynamic_bilevel": {"window": 2, "max_epochs": 2, "num_watched": 4, "batch_size": 8},
    "trained_on_synthetic": {"steps_per_network": 3, "num_epochs": 2, "batch_size": 8},
    "trained_on_real": {"steps_per_network": 3, "num_images": 32, "training": {"num_epochs": 1, "batch_size": 16}},
    "class_centralization": {
        "num_networks": 2, "training": {"num_epochs": 1}, "network": {"kind": "convnet", "width": 4, "depth": 1},
    },
    "historical_prototypes": {"start_iteration": 2},
    "bases_hallucinators": {"num_hallucinators": 2},
    "herding": {"training": {"num_epochs": 1}}, "k_center": {"training": {"num_epochs": 1}},
    "forgetting": {"training": {"num_epochs": 2}}, "representative": {"real_batch_per_class": 6, "refresh_every": 3},
    "expert_segments": {
        "num_networks": 2, "training": {"num_epochs": 2}, "span_epochs": 1, "max_start_epoch": 2, "initial_max_start_epoch": 1,
        "growth_iterations": 2,
    },
    "trajectory": {"num_steps": 3, "batch_size": 8, "lr_net": 0.1},
    "uniform": {"real_batch_per_class": 6}, "convnet": {"width": 8, "depth": 1}, "mlp": {"width": 16},
}
"""Fields that make a kind small enough for a test."""
TRAJECTORIES = {"objective": "trajectory", "models": "expert_segments"}
"""Two kinds that need each other."""
TOO_LARGE = {"resnet18_dc", "alexnet", "vgg11", "resnet10_idc", "resnet18_idc", "densenet_idc", "densenet121", "lenet"}
"""Networks whose own tests look at them; on 8 x 8 pixels most have nothing left to pool."""


def members(union: Any) -> Iterator[type[Any]]:
    if isinstance(union, type):
        yield union
    elif get_origin(union) is not None:
        for part in get_args(union):
            if isinstance(part, type) or get_origin(part) is not None:
                yield from members(part)


def kind_of(spec: type[Any]) -> str:
    return str(spec.model_fields["kind"].default)


KINDS = [(slot, kind) for slot, union in SLOTS.items() for kind in members(union) if kind_of(kind) not in TOO_LARGE]


def test_unions_are_found() -> None:
    found = {slot: [k.__name__ for _, k in group] for slot, group in itertools.groupby(KINDS, key=lambda pair: pair[0])}
    assert set(found) == set(SLOTS)
    assert {"DSASpec", "IDCAugmentationSpec", "NoAugmentationSpec"} <= set(found["augmentation"])
    assert len(found["objective"]) == 6
    assert len(found["terms"]) == 7
    assert len(found["models"]) == 7
    assert {"HardLabelsSpec", "LearnedLabelsSpec", "TeacherLabelsSpec"} == set(found["labels"])


@pytest.fixture(params=KINDS, ids=[f"{slot}-{kind_of(kind)}" for slot, kind in KINDS])
def spec(request: pytest.FixtureRequest, small_spec: Any) -> DistillationSpec:
    slot, name = request.param[0], kind_of(request.param[1])
    choice = {"kind": name} | SMALL.get(name, {})
    method: dict[str, Any] = {slot: [choice] if slot == "terms" else choice}
    if name == "classification_regulariser":
        method["models"] = {"kind": "pretrained_pool"} | SMALL["pretrained_pool"]
    if name == "adversarial_contrast":
        method["parameterization"] = {"kind": "bases_hallucinators"} | SMALL["bases_hallucinators"]
    if name in {"trajectory", "expert_segments", "learned", "teacher", "correctly_classified"}:
        method |= {slot: {"kind": kind} | SMALL[kind] for slot, kind in TRAJECTORIES.items()}
        method |= {"labels": choice if slot == "labels" else {"kind": "learned"}}
        method |= {"optimizer": {"lr_rate": 0.01, "lr_label": 1.0}}
    found: DistillationSpec = small_spec(method=method)
    return found


@pytest.fixture(scope="module")
def experts(digits: RealSet) -> TrainedHere:
    return TrainedHere(digits)


class TestEveryKind:
    def test_loss_is_finite_and_gradient_reaches_the_synthetic_set_only(
        self, spec: DistillationSpec, digits: RealSet, experts: TrainedHere
    ) -> None:
        parts = build(spec, digits, experts)
        engine = Engine(parts, digits, seed=0, num_iterations=4, record=Record())
        step, decoded = engine._prepare(0)
        value = sum(loss.value(step).sum() for loss in parts.losses)
        assert isinstance(value, torch.Tensor)
        assert value.isfinite()
        assert value.dtype == torch.float32
        value.backward()
        assert step.syn.images.grad is not None
        assert (step.syn.images.grad.flatten(1).abs().sum(1) > 0).all()
        assert step.weights.params.grad is None
        assert not step.weights.params.requires_grad
        behind_the_leaves = [parts.parameterization, parts.labels]
        learned = [t for part in behind_the_leaves for ts in part.parameters().values() for t in ts]
        assert all(t.grad is None for t in learned)
        engine._pull_back(decoded, step.syn)
        assert any(t.grad is not None and t.grad.abs().sum() > 0 for t in learned)

    def test_same_seed_same_value(self, spec: DistillationSpec, digits: RealSet, experts: TrainedHere) -> None:
        values = []
        for _ in range(2):
            parts = build(spec, digits, experts)
            engine = Engine(parts, digits, seed=0, num_iterations=4, record=Record())
            engine.iterate()
            engine.iterate()
            step, _ = engine._prepare(2)
            values.append([loss.value(step).detach() for loss in parts.losses])
        assert all(torch.equal(a, b) for a, b in zip(*values, strict=True))

    def test_dtype_device_and_shapes_are_kept(self, spec: DistillationSpec, digits: RealSet, experts: TrainedHere) -> None:
        result = distil(spec, digits, experts)
        assert result.images.dtype == torch.float32
        assert result.images.device == digits.device
        assert result.images.shape[1:] == digits.images.shape[1:]
        assert len(result.labels) == len(result.images) == len(result.classes)
        assert result.classes.equal(result.classes.sort().values)
        if result.labels.is_floating_point():
            torch.testing.assert_close(result.labels.sum(1), torch.ones(len(result.images)))
            assert result.storage["labels"] == result.labels.numel()
        assert (result.learned_rate is not None) == (spec.method.objective.kind == "trajectory")
        assert sum(count for kind, count in result.storage.items() if kind != "labels") <= 10 * spec.ipc * 64
        assert not torch.equal(result.images, result.initial)

    def test_resume_equals_uninterrupted(self, spec: DistillationSpec, digits: RealSet, experts: TrainedHere) -> None:
        def engine() -> Engine:
            return Engine(build(spec, digits, experts), digits, seed=spec.seed, num_iterations=4, record=Record())

        assert_resumes_exactly(engine)

    def test_imbalanced_classes_smaller_than_a_batch(self, spec: DistillationSpec) -> None:
        least = images_per_class(spec.method.parameterization, spec.ipc, dataset_info("digits")).initial  # fewer are refused
        data = real_set([least + more for more in (1, 20, 7, 40, 0, 9, 30, 5, 4, 60)], (1, 8, 8))
        result = distil(spec, data, TrainedHere(data))
        assert result.images.isfinite().all()
        assert not torch.equal(result.images, result.initial)
        assert set(result.classes.tolist()) == set(range(10))
