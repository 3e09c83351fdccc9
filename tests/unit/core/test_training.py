from __future__ import annotations

from typing import Any

import pytest
import torch
from torch.nn import functional as F

from core import compilation
from core.data.real_set import RealSet
from core.distillation.augmentation.dsa import DSA
from core.distillation.augmentation.none import Identity
from core.distillation.randomness import rng
from core.networks.build import build_network
from core.networks.network import Network
from core.progress import Hooks, Stopped
from core.specs.augmentation import DSASpec
from core.specs.network import ConvNetSpec
from core.training import Schedule, Trainer

pytestmark = pytest.mark.unit
CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def net(digits: RealSet) -> Network:
    return build_network(ConvNetSpec(width=4, depth=1), digits.info)


def trainer_of(net: Network, schedule: Schedule, augmentation: Any = None) -> Trainer:
    return Trainer(net, schedule, augmentation or Identity(), compiled=False, device=CPU)


def some_images(digits: RealSet, count: int) -> tuple[torch.Tensor, torch.Tensor]:
    index = torch.arange(count) * 11
    return digits.gather(index), digits.labels[index]


class TestSchedule:
    @pytest.mark.parametrize(("num_epochs", "last_full"), [(1000, 501), (300, 151), (1, 1), (2, 2)])
    def test_drops_to_a_tenth_after_half_the_epochs_and_one(self, num_epochs: int, last_full: int) -> None:
        schedule = Schedule(num_epochs, 256, 0.01, 0.9, 5e-4)
        assert schedule.rate(last_full) == 0.01
        assert schedule.rate(last_full + 1) == pytest.approx(0.001)

    def test_counts_steps(self) -> None:
        assert Schedule(10, 4, 0.01, 0.9, 0.0).num_steps(9) == 33


class TestTrainer:
    def test_equals_pytorchs_optimizer_rebuilt_at_the_drop(self, net: Network, digits: RealSet) -> None:
        schedule = Schedule(num_epochs=5, batch_size=8, lr_net=0.1, momentum=0.9, weight_decay=0.01)
        images, labels = some_images(digits, 20)
        found = trainer_of(net, schedule).train(images, labels, seed=3, name="t", index=1)

        params = net.init(rng(3, "t/weights", 1)).requires_grad_()
        rate = 0.1
        optimizer = torch.optim.SGD([params], lr=rate, momentum=0.9, weight_decay=0.01)
        passes = 0
        for epoch in range(6):
            order = torch.randperm(20, generator=rng(3, "t/1/epoch", epoch))
            for batch in order.split(8):
                optimizer.zero_grad()
                F.cross_entropy(net(params, {}, images[batch], ("logits",))["logits"], labels[batch]).backward()
                optimizer.step()
            passes += 1
            if epoch == 5 // 2 + 1:
                optimizer = torch.optim.SGD([params], lr=rate / 10, momentum=0.9, weight_decay=0.01)
        assert passes == 6
        torch.testing.assert_close(found.params, params.detach(), rtol=1e-4, atol=1e-6)

    def test_repeats_with_augmentation(self, net: Network, digits: RealSet) -> None:
        images, labels = some_images(digits, 20)
        trainer = trainer_of(net, Schedule(3, 8, 0.01, 0.9, 5e-4), DSA(DSASpec()))
        a, b, c = (trainer.train(images, labels, seed=0, name="t", index=i).params for i in (0, 0, 1))
        assert torch.equal(a, b)
        assert not torch.equal(a, c)

    def test_learns_and_says_so(self, net: Network, digits: RealSet) -> None:
        images, labels = some_images(digits, 100)
        trainer = trainer_of(net, Schedule(60, 256, 0.05, 0.9, 5e-4))
        finished: list[int] = []
        found = trainer.train(images, labels, seed=0, name="t", on_epoch=finished.append, curve_points=10)
        assert finished == list(range(1, 62))
        assert [at for at, _ in found.loss] == [6, 12, 18, 24, 30, 36, 42, 48, 54, 60, 61]
        assert found.loss[-1][1] < 0.5 < found.loss[0][1]
        assert found.accuracy[-1][1] > 0.97
        assert trainer.accuracy(found, digits, digits.test_images, digits.test_labels) > 0.7

    def test_stops_between_passes(self, net: Network, digits: RealSet) -> None:
        class Impatient(Hooks):
            def should_stop(self) -> bool:
                return bool(finished)

        images, labels = some_images(digits, 10)
        finished: list[int] = []
        with pytest.raises(Stopped):
            trainer_of(net, Schedule(9, 256, 0.01, 0.9, 0.0)).train(
                images, labels, seed=0, name="t", hooks=Impatient(), on_epoch=finished.append
            )
        assert finished == [1]

    def test_gradient_of_the_compiled_form_is_the_same(self, net: Network, digits: RealSet, monkeypatch: Any) -> None:
        monkeypatch.setattr(torch, "compile", lambda function, dynamic: function)
        images, labels = some_images(digits, 20)
        schedule = Schedule(3, 8, 0.01, 0.9, 5e-4)
        a, b = (
            Trainer(net, schedule, Identity(), compiled=c, device=CPU).train(images, labels, seed=0, name="t").params
            for c in (False, True)
        )
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-6)


class TestCompilation:
    def test_pays_for_long_work_on_a_cpu_with_a_compiler(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(compilation, "compiler_exists", lambda: True)
        assert compilation.pays(1e12, CPU)
        assert not compilation.pays(1e6, CPU)
        assert not compilation.pays(1e12, torch.device("cuda"))
        monkeypatch.setattr(compilation, "compiler_exists", lambda: False)
        assert not compilation.pays(1e12, CPU)

    @pytest.mark.parametrize(
        ("count", "limit", "expected"),
        [(640, 64, (10, 64)), (100, 64, (2, 50)), (65, 64, (2, 33)), (5, 64, (1, 5)), (5, 1, (5, 1))],
    )
    def test_chunks_are_equal(self, count: int, limit: int, expected: tuple[int, int]) -> None:
        assert compilation.chunk_sizes(count, limit) == expected
