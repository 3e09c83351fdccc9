"""Networks that serve the matching loop: the pool, the growing queue, and the dynamic bi-level schedule."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from core.data.real_set import RealSet
from core.distillation.augmentation.none import Identity
from core.distillation.build import build
from core.distillation.engine import Engine
from core.distillation.models.dynamic_bilevel import DynamicBilevel
from core.distillation.models.growing_queue import GrowingQueue
from core.distillation.models.pretrained_pool import PretrainedPool
from core.experts import TrainedHere
from core.networks.build import build_network
from core.progress import Hooks, Record
from core.specs.experts import PoolSpec, RealTrainingSpec
from core.specs.models import DynamicBilevelSpec, GrowingQueueSpec
from core.specs.network import ConvNetSpec
from tests.unit.core.distillation.steps import Stored

pytestmark = pytest.mark.unit

NETWORK = ConvNetSpec(width=4, depth=1)
QUEUE = GrowingQueueSpec(num_initial=2, capacity=4, push_every=2, num_trained=2, num_steps=3, batch_size=16)


def queue(digits: RealSet, spec: GrowingQueueSpec = QUEUE) -> GrowingQueue:
    return GrowingQueue(spec, build_network(NETWORK, digits.info), digits, seed=0, num_iterations=10)


def engine_of(digits: RealSet, small_spec: Any, **method: Any) -> Engine:
    if "num_networks" in method:
        method["num_iterations"] = None
    spec = small_spec(method=method)
    return Engine(
        build(spec, digits, TrainedHere(digits)), digits, seed=0, num_iterations=spec.method.max_iterations,
        num_networks=spec.method.num_networks, record=Record(),
    )


@pytest.fixture(scope="module")
def models(digits: RealSet) -> PretrainedPool:
    spec = PoolSpec(network=NETWORK, num_networks=3, training=RealTrainingSpec(num_epochs=1, batch_size=64))
    return PretrainedPool(TrainedHere(digits).pool(spec), seed=0)


class TestPretrainedPool:
    def test_every_network_serves_and_none_moves(self, models: PretrainedPool) -> None:
        drawn = [models.next(number) for number in range(40)]
        assert {weights.index for weights in drawn} == {0, 1, 2}
        first = {weights.index: weights.params for weights in reversed(drawn)}
        assert all(torch.equal(weights.params, first[weights.index]) for weights in drawn)

    def test_draw_follows_from_the_number_alone(self, models: PretrainedPool) -> None:
        assert [models.next(n).index for n in range(10)] == [models.next(n).index for n in range(10)]

    def test_it_knows_its_accuracy(self, models: PretrainedPool) -> None:
        accuracy = models.next(0).accuracy
        assert accuracy is not None
        assert 0.1 < float(accuracy) <= 1.0


class TestGrowingQueue:
    def test_grows_by_one_network_every_period_and_drops_the_oldest(self, digits: RealSet) -> None:
        models = queue(digits)
        seen = []
        for number in range(9):
            models.next(number)
            seen.append([member.number for member in models._members])
        assert seen[0] == seen[1] == [0, 1, 2]
        assert seen[2] == [0, 1, 2, 3]
        assert seen[4] == [1, 2, 3, 4]
        assert seen[8] == [3, 4, 5, 6]
        assert models.networks_done() == 3

    def test_asking_twice_changes_nothing(self, digits: RealSet) -> None:
        models = queue(digits)
        once, again = models.next(4), models.next(4)
        assert once.index == again.index
        assert torch.equal(once.params, again.params)

    def test_capacity_below_the_first_networks(self, digits: RealSet) -> None:
        models = queue(digits, QUEUE.model_copy(update={"capacity": 1}))
        assert [models.next(number).index for number in (0, 2, 4)] == [1, 2, 3]

    def test_training_raises_the_accuracy_it_reports(self, digits: RealSet, small_spec: Any) -> None:
        spec = QUEUE.model_copy(update={"push_every": 1000, "num_steps": 10, "batch_size": 32, "lr_net": 0.05})
        engine = engine_of(digits, small_spec, models=spec.model_dump(mode="json"), num_iterations=20)
        before = engine.parts.models.next(0).accuracy
        assert before is not None
        assert float(before) == 0.0
        engine.run(20, Hooks())
        assert isinstance(engine.parts.models, GrowingQueue)
        accuracies = [float(engine.parts.models._accuracy(member)) for member in engine.parts.models._members]
        assert min(accuracies) > 0.3

    def test_average_is_unbiased_from_the_first_step(self, digits: RealSet, small_spec: Any) -> None:
        spec = QUEUE.model_copy(update={"num_steps": 1, "num_trained": 3, "lr_net": 1e-9, "batch_size": 1000})
        engine = engine_of(digits, small_spec, models=spec.model_dump(mode="json"), num_iterations=1)
        engine.iterate()
        models = engine.parts.models
        assert isinstance(models, GrowingQueue)
        assert [member.num_steps for member in models._members] == [1, 1, 1]
        for member in models._members:
            assert float(models._accuracy(member)) == pytest.approx(float(member.average) / 0.01, rel=1e-3)
            assert 0.0 < float(models._accuracy(member)) < 0.4  # an untrained network on a thousand images


class TestDynamicBilevel:
    SPEC = DynamicBilevelSpec(
        window=2, settled_below=1e-9, moved_above=1e-9, max_steps_per_network=3, max_epochs=2, num_watched=4, batch_size=8
    )

    def test_a_network_is_replaced_at_the_limit(self, digits: RealSet, small_spec: Any) -> None:
        models = self.SPEC.model_dump(mode="json") | {"settled_below": 1e-12}
        engine = engine_of(digits, small_spec, models=models, num_networks=2)
        indices = []
        while not engine.finished:
            indices.append(engine.parts.models.next(engine.completed).index)
            engine.iterate()
        assert indices == sorted(indices)
        assert set(indices) == {0, 1}
        assert max(indices.count(0), indices.count(1)) <= 3
        assert engine.position() == (2, 2)

    def test_a_settled_network_is_replaced_once_the_window_is_full(self, digits: RealSet, small_spec: Any) -> None:
        models = self.SPEC.model_dump(mode="json") | {"settled_below": 1.0, "max_steps_per_network": 50}
        engine = engine_of(digits, small_spec, models=models, num_networks=3)
        while not engine.finished:
            engine.iterate()
        assert engine.completed == 6

    def test_training_between_steps_moves_the_network(self, digits: RealSet, small_spec: Any) -> None:
        engine = engine_of(digits, small_spec, models=self.SPEC.model_dump(mode="json"), num_networks=1)
        before = engine.parts.models.next(0).params.clone()
        engine.iterate()
        after = engine.parts.models.next(1)
        assert after.index == 0
        assert not torch.equal(before, after.params)

    def test_an_accuracy_that_moves_ends_the_training(self, digits: RealSet) -> None:
        models = DynamicBilevel(
            self.SPEC, build_network(NETWORK, digits.info), digits, Identity(), seed=0,
        )
        readings = iter([0.5, 0.1, 0.1, 0.1])
        epochs: list[int] = []

        def read(step: Any, epoch: int) -> float:
            epochs.append(epoch)
            return next(readings)

        models._read = read  # type: ignore[method-assign]

        class Step:
            parameterization = Stored(torch.zeros(1, 1, 8, 8))

            def fresh(self, draw: Any, name: str) -> tuple[torch.Tensor, torch.Tensor]:
                return torch.zeros(1, 1, 8, 8), torch.zeros(1, dtype=torch.int64)

            def rng(self, name: str) -> torch.Generator:
                return torch.Generator()

        models.advance(Step())  # type: ignore[arg-type]
        assert epochs == [0, 1, 2]  # the limit: two equal readings have not moved
