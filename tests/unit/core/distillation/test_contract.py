"""Every kind of every slot, found by walking the unions of the specifications, keeps the engine's contract."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Any, get_args, get_origin

import pytest
import torch

from core.data.real_set import RealSet
from core.distillation.build import build
from core.distillation.distil import distil
from core.distillation.engine import Engine
from core.progress import Record
from core.specs.augmentation import AugmentationSpec
from core.specs.job import DistillationSpec
from core.specs.models import ModelsSpec
from core.specs.objective import ObjectiveSpec
from core.specs.selection import SelectionSpec
from core.specs.synthetic import InitSpec, LabelsSpec, OptimizerSpec, ParameterizationSpec

pytestmark = pytest.mark.unit

SLOTS: dict[str, Any] = {
    "objective": ObjectiveSpec, "models": ModelsSpec, "parameterization": ParameterizationSpec,
    "selection": SelectionSpec, "labels": LabelsSpec, "augmentation": AugmentationSpec, "init": InitSpec,
    "optimizer": OptimizerSpec,
}


def members(union: Any) -> Iterator[type[Any]]:
    if isinstance(union, type):
        yield union
    elif get_origin(union) is not None:
        for part in get_args(union):
            if isinstance(part, type) or get_origin(part) is not None:
                yield from members(part)


KINDS = [(slot, kind) for slot, union in SLOTS.items() for kind in members(union)]


def test_unions_are_found() -> None:
    found = {slot: [k.__name__ for _, k in group] for slot, group in itertools.groupby(KINDS, key=lambda pair: pair[0])}
    assert set(found) == set(SLOTS)
    assert {"DSASpec", "NoAugmentationSpec"} <= set(found["augmentation"])


@pytest.fixture(params=KINDS, ids=[f"{slot}-{kind.model_fields['kind'].default}" for slot, kind in KINDS])
def spec(request: pytest.FixtureRequest, small_spec: Any) -> DistillationSpec:
    slot, kind = request.param
    base: DistillationSpec = small_spec()
    if isinstance(getattr(base.method, slot), kind):
        return base
    return base.model_copy(update={"method": base.method.model_copy(update={slot: kind()})})


class TestEveryKind:
    def test_loss_is_finite_and_gradient_reaches_the_synthetic_set_only(self, spec: DistillationSpec, digits: RealSet) -> None:
        parts = build(spec, digits)
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
        learned = [t for part in parts.parts().values() for ts in part.parameters().values() for t in ts]
        assert all(t.grad is None for t in learned)
        engine._pull_back(decoded, step.syn)
        assert any(t.grad is not None and t.grad.abs().sum() > 0 for t in learned)

    def test_same_seed_same_value(self, spec: DistillationSpec, digits: RealSet) -> None:
        values = []
        for _ in range(2):
            parts = build(spec, digits)
            step, _ = Engine(parts, digits, seed=0, num_iterations=4, record=Record())._prepare(2)
            values.append([loss.value(step).detach() for loss in parts.losses])
        assert all(torch.equal(a, b) for a, b in zip(*values, strict=True))

    def test_dtype_device_and_shapes_are_kept(self, spec: DistillationSpec, digits: RealSet) -> None:
        result = distil(spec, digits)
        assert result.images.dtype == torch.float32
        assert result.images.device == digits.device
        assert result.images.shape[1:] == digits.images.shape[1:]
        assert len(result.labels) == len(result.images)
        assert sum(result.storage.values()) <= 10 * spec.ipc * 64
        assert not torch.equal(result.images, result.initial)

    def test_resume_equals_uninterrupted(self, spec: DistillationSpec, digits: RealSet) -> None:
        whole = distil(spec, digits).engine

        def engine() -> Engine:
            return Engine(build(spec, digits), digits, seed=spec.seed, num_iterations=4, record=Record())

        first, second = engine(), engine()
        first.iterate()
        first.iterate()
        second.load(2, first.state())
        second.iterate()
        second.iterate()
        assert {k: v.tolist() for k, v in second.state().items()} == {k: v.tolist() for k, v in whole.state().items()}
