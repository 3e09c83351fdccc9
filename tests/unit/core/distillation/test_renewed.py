"""Networks that serve some steps, are trained between them, and are replaced: on the synthetic set, and on real images."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from core.data.real_set import RealSet
from core.distillation.augmentation.none import Identity
from core.distillation.build import build
from core.distillation.engine import Engine
from core.distillation.models.renewed import Renewed
from core.distillation.models.trained_on_real import TrainingOnReal
from core.distillation.models.trained_on_synthetic import TrainingOnSynthetic
from core.distillation.randomness import rng
from core.experts import TrainedHere
from core.networks.build import build_network
from core.progress import Record
from core.specs.augmentation import NoAugmentationSpec
from core.specs.experts import RealTrainingSpec
from core.specs.models import TrainedOnRealSpec, TrainedOnSyntheticSpec
from core.specs.network import ConvNetSpec
from tests.unit.core.distillation.steps import step_for

pytestmark = pytest.mark.unit

NETWORK = ConvNetSpec(width=4, depth=1)
SYNTHETIC = {"kind": "trained_on_synthetic", "steps_per_network": 3, "num_epochs": 2, "batch_size": 8}
REAL = {"kind": "trained_on_real", "steps_per_network": 3, "num_images": 40, "training": {"num_epochs": 0, "batch_size": 16}}
PLAIN = RealTrainingSpec(
    num_epochs=0, batch_size=16, lr_net=0.05, momentum=0.9, weight_decay=5e-4, augmentation=NoAugmentationSpec()
)


def engine_of(digits: RealSet, small_spec: Any, models: dict[str, Any], **method: Any) -> Engine:
    spec = small_spec(method={"objective": {"kind": "gradient"}, "models": models, **method})
    return Engine(
        build(spec, digits, TrainedHere(digits)), digits, seed=0, num_iterations=spec.method.max_iterations,
        num_networks=spec.method.num_networks, record=Record(),
    )


@pytest.mark.parametrize("models", [SYNTHETIC, REAL], ids=lambda models: str(models["kind"]))
class TestPeriod:
    def test_a_network_serves_its_steps_and_is_trained_between_them(
        self, digits: RealSet, small_spec: Any, models: dict[str, Any]
    ) -> None:
        engine = engine_of(digits, small_spec, models, num_networks=2, num_iterations=None)
        seen = []
        while not engine.finished:
            weights = engine.parts.models.next(engine.completed)
            seen.append((weights.index, weights.age, weights.params.clone(), engine.position()[0]))
            engine.iterate()
        assert [entry[:2] for entry in seen] == [(0, 0), (0, 1), (0, 2), (1, 0), (1, 1), (1, 2)]
        assert [entry[3] for entry in seen] == [0, 0, 0, 1, 1, 1]
        assert engine.position() == (2, 2)
        assert len({tuple(entry[2].tolist()) for entry in seen}) == 6

    def test_asking_twice_changes_nothing(self, digits: RealSet, small_spec: Any, models: dict[str, Any]) -> None:
        engine = engine_of(digits, small_spec, models)
        engine.iterate()
        once, again = engine.parts.models.next(1), engine.parts.models.next(1)
        assert once.params is again.params
        assert (once.index, once.age) == (again.index, again.age) == (0, 1)

    def test_nothing_is_trained_after_the_last_step(self, digits: RealSet, small_spec: Any, models: dict[str, Any]) -> None:
        engine = engine_of(digits, small_spec, models | {"steps_per_network": 1})
        before = engine.parts.models.next(0).params
        engine.iterate()
        source = engine.parts.models
        assert isinstance(source, Renewed)
        assert source._current.params is before
        assert source.networks_done() == 1

    def test_a_resumed_run_knows_how_many_have_served(self, digits: RealSet, small_spec: Any, models: dict[str, Any]) -> None:
        first, second = (engine_of(digits, small_spec, models, num_networks=2, num_iterations=None) for _ in range(2))
        for _ in range(3):
            first.iterate()
        assert first.position() == (1, 2)
        second.load(3, first.state())
        assert second.position() == (1, 2)
        assert torch.equal(second.parts.models.next(3).params, first.parts.models.next(3).params)


class TestOnSynthetic:
    def test_equals_plain_epochs_of_sgd(self, digits: RealSet) -> None:
        net = build_network(NETWORK, digits.info)
        spec = TrainedOnSyntheticSpec(num_epochs=2, batch_size=8, lr_net=0.1)
        training = TrainingOnSynthetic(
            spec, net, Identity(), seed=0, device=digits.device, num_iterations=10, num_images=30
        )
        step = step_for([], digits, net=net)
        images, labels = step.syn.images.detach(), step.syn.labels
        start = training.start(0)
        expected = start.params.clone()
        for epoch in range(2):
            order = torch.randperm(30, generator=step.rng(f"synthetic/epoch/{epoch}"))
            for rows in order.split(8):
                expected = expected - 0.1 * plain_gradient(net, expected, images[rows], labels[rows])
        torch.testing.assert_close(training.train(start, per_class_set(step)).params, expected, rtol=1e-4, atol=1e-6)

    def test_batches_cover_the_set_under_augmentation(self, digits: RealSet) -> None:
        net = build_network(NETWORK, digits.info)
        seen: list[Tensor] = []

        class Recording(Identity):
            def apply(self, images: Tensor) -> Tensor:
                seen.append(images)
                return images

            def draw(self, groups: int, generator: torch.Generator, *, shared_operation: bool = False) -> Recording:
                assert shared_operation
                return self

        training = TrainingOnSynthetic(
            TrainedOnSyntheticSpec(num_epochs=1, batch_size=8), net, Recording(), seed=0, device=digits.device,
            num_iterations=10, num_images=30,
        )
        step = step_for([], digits, net=net)
        training.train(training.start(0), per_class_set(step))
        assert [tuple(batch.shape[:2]) for batch in seen] == [(8, 1), (8, 1), (8, 1), (6, 1)]
        found, expected = torch.cat(seen)[:, 0].flatten(1), step.syn.images.detach().flatten(1)
        assert sorted(found.tolist()) == sorted(expected.tolist())


class TestOnReal:
    def training(self, digits: RealSet, **fields: Any) -> TrainingOnReal:
        spec = TrainedOnRealSpec(training=PLAIN, **fields)
        net = build_network(NETWORK, digits.info)
        return TrainingOnReal(spec, net, digits, Identity(), seed=0, num_iterations=10)

    def test_equals_plain_sgd_with_momentum_on_whole_batches(self, digits: RealSet) -> None:
        training = self.training(digits, num_images=40)
        net = training._step.net
        step = step_for([], digits, net=net)
        order = torch.randperm(len(digits.labels), generator=step.rng("real/training"))[:48]
        start = training.start(0)
        expected, velocity = start.params.clone(), torch.zeros_like(start.params)
        for rows in order.split(16):
            gradient = plain_gradient(net, expected, digits.gather(rows), digits.labels[rows])
            velocity = 0.9 * velocity + gradient + 5e-4 * expected
            expected = expected - 0.05 * velocity
        found = training.train(start, step)
        torch.testing.assert_close(found.params, expected, rtol=1e-4, atol=1e-6)
        torch.testing.assert_close(found.velocity, velocity, rtol=1e-4, atol=1e-6)

    def test_at_most_one_epoch(self, digits: RealSet) -> None:
        assert self.training(digits, num_images=10**6)._num_images == len(digits.labels)

    def test_no_images_leave_it_as_it_is(self, digits: RealSet) -> None:
        training = self.training(digits, num_images=0)
        start = training.start(0)
        assert training.train(start, step_for([], digits, net=training._step.net)) is start

    def test_epochs_before_the_first_step(self, digits: RealSet) -> None:
        plain = self.training(digits)
        spec = TrainedOnRealSpec(training=PLAIN.model_copy(update={"num_epochs": 2}))
        warm = TrainingOnReal(spec, plain._step.net, digits, Identity(), seed=0, num_iterations=10)
        losses = [
            F.cross_entropy(
                plain._step.net(state.params, {}, digits.normalise(digits.images), ("logits",))["logits"], digits.labels
            )
            for state in (plain.start(0), warm.start(0), warm.start(1))
        ]
        assert losses[1] < 0.8 * losses[0]
        assert losses[1] != losses[2]
        assert not warm.start(0).velocity.any()


def plain_gradient(net: Any, params: Tensor, images: Tensor, labels: Tensor) -> Tensor:
    weights = params.detach().requires_grad_()
    loss = F.cross_entropy(net(weights, {}, images, ("logits",))["logits"], labels)
    return torch.autograd.grad(loss, weights)[0]


def per_class_set(step: Any) -> Any:
    """The stored set of a test answers every draw with all images in one row."""
    images, labels = step.syn.images.detach(), step.syn.labels
    step.parameterization.indices = lambda draw, generator: torch.arange(len(images))
    step.parameterization.decode = lambda index: (images[index], labels[index])
    return step


def test_networks_of_both_start_alike(digits: RealSet) -> None:
    net = build_network(NETWORK, digits.info)
    on_real = TrainingOnReal(TrainedOnRealSpec(), net, digits, Identity(), 5, num_iterations=10)
    on_synthetic = TrainingOnSynthetic(
        TrainedOnSyntheticSpec(), net, Identity(), 5, device=digits.device, num_iterations=10, num_images=30
    )
    expected = net.init(rng(5, "network", 3))
    assert torch.equal(on_real.start(3).params, expected)
    assert torch.equal(on_synthetic.start(3).params, expected)
