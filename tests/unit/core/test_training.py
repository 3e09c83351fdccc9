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
from core.networks.build import build_module, build_network
from core.networks.network import Network
from core.progress import Hooks, Stopped
from core.specs.augmentation import DSASpec
from core.specs.experts import RealTrainingSpec
from core.specs.network import ConvNetSpec
from core.training import NetworkStep, Schedule, Trained, Trainer, num_steps, train_on_real
from core.training.cutmix import cutmix, draw_box
from core.training.real import Forgetting

pytestmark = pytest.mark.unit
CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def net(digits: RealSet) -> Network:
    return build_network(ConvNetSpec(width=4, depth=1), digits.info)


@pytest.fixture(scope="module")
def mixing(digits: RealSet) -> Network:
    return build_network(ConvNetSpec(width=4, depth=2, norm="batch"), digits.info)


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
        assert [epoch for epoch in range(num_epochs + 1) if schedule.forgets_after(epoch)] in ([last_full], [])

    @pytest.mark.parametrize("num_epochs", [1, 2, 3, 6, 7, 100, 1000, 1500])
    def test_two_drops_equal_pytorchs_scheduler(self, num_epochs: int) -> None:
        schedule = Schedule(num_epochs, 64, 0.01, 0.9, 5e-4, "two_drops")
        optimizer = torch.optim.SGD([torch.zeros(1)], lr=0.01)
        milestones = [2 * num_epochs // 3, 5 * num_epochs // 6]
        scheduler = torch.optim.lr_scheduler.MultiStepLR(optimizer, milestones, gamma=0.2)
        for epoch in range(schedule.num_passes):
            assert schedule.rate(epoch) == pytest.approx(scheduler.get_last_lr()[0])
            assert not schedule.forgets_after(epoch)
            optimizer.step()
            scheduler.step()
        assert schedule.num_passes == num_epochs

    def test_constant_stays(self) -> None:
        schedule = Schedule(3, 4, 0.01, 0.9, 0.0, "constant")
        assert [schedule.rate(epoch) for epoch in range(schedule.num_passes)] == [0.01] * 3

    def test_counts_steps(self) -> None:
        assert Schedule(10, 4, 0.01, 0.9, 0.0).num_steps(9) == 33
        assert Schedule(10, 4, 0.01, 0.9, 0.0, "two_drops").num_steps(9) == 30


class TestNetworkStep:
    def step_of(self, net: Network, compiled: bool = False) -> NetworkStep:
        return NetworkStep(net, momentum=0.9, weight_decay=0.01, compiled=compiled, device=CPU)

    @pytest.mark.parametrize("compiled", [False, True])
    def test_equals_a_module_and_pytorchs_optimizer(
        self, mixing: Network, digits: RealSet, compiled: bool, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(torch, "compile", lambda function, dynamic: function)
        images, labels = some_images(digits, 20)
        step = self.step_of(mixing, compiled)
        state = start = step.start(rng(0, "w"))
        module = build_module(ConvNetSpec(width=4, depth=2, norm="batch"), mixing.image_shape, 10)
        named = mixing.named(start.params)
        with torch.no_grad():
            for name, value in module.named_parameters():
                value.copy_(named[name])
        optimizer = torch.optim.SGD(module.parameters(), lr=0.1, momentum=0.9, weight_decay=0.01)
        for batch in torch.arange(20).split(8):
            loss = F.cross_entropy(module(images[batch], ("logits",))["logits"], labels[batch])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            state, sums = step(state, images[batch], labels[batch], 0.1)
            assert float(sums[0]) == pytest.approx(float(loss.detach()) * len(batch), rel=1e-5)
        found = mixing.named(state.params)
        for name, value in module.named_parameters():
            torch.testing.assert_close(found[name], value.detach(), rtol=1e-4, atol=1e-5)
        for name, value in module.named_buffers():
            torch.testing.assert_close(state.buffers[name], value, rtol=1e-4, atol=1e-5)
        assert all(torch.equal(value, mixing.init_buffers()[name]) for name, value in start.buffers.items())
        assert torch.equal(start.params, mixing.init(rng(0, "w")))

    @pytest.mark.parametrize("soft", [False, True])
    def test_chunks_add_up_to_the_whole_batch(
        self, net: Network, digits: RealSet, soft: bool, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        images, labels = some_images(digits, 20)
        targets = F.one_hot(labels, 10).float() if soft else labels
        whole = self.step_of(net)
        state = whole.start(rng(0, "w"))
        expected = whole.answered(state, images, targets, 0.1)
        sizes: list[int] = []
        monkeypatch.setattr(torch, "compile", lambda function, dynamic: function)
        monkeypatch.setattr(compilation, "CHUNK_IMAGES", 8)
        cut = self.step_of(net, compiled=True)
        gradient = cut._gradient

        def watched(params: Any, buffers: Any, chunk: torch.Tensor, *rest: Any) -> Any:
            sizes.append(len(chunk))
            return gradient(params, buffers, chunk, *rest)

        monkeypatch.setattr(cut, "_gradient", watched)
        found = cut.answered(state, images, targets, 0.1)
        assert sizes == [7, 7, 7]
        torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6)

    def test_soft_targets_mix_two_losses(self, net: Network, digits: RealSet) -> None:
        images, labels = some_images(digits, 12)
        other, share = labels.flip(0), 0.7
        mixed = share * F.one_hot(labels, 10).float() + (1 - share) * F.one_hot(other, 10).float()
        step = self.step_of(net)
        state = step.start(rng(0, "w"))
        logits = net(state.params, {}, images, ("logits",))["logits"]
        expected = share * F.cross_entropy(logits, labels) + (1 - share) * F.cross_entropy(logits, other)
        _, sums, right = step.answered(state, images, mixed, 0.1)
        assert float(sums[0]) == pytest.approx(12 * float(expected), rel=1e-5)
        assert torch.equal(right, logits.argmax(1) == labels)
        assert float(sums[1]) == float(right.sum())

    def test_one_hot_targets_equal_indices(self, net: Network, digits: RealSet) -> None:
        images, labels = some_images(digits, 12)
        step = self.step_of(net)
        state = step.start(rng(0, "w"))
        a, _ = step(state, images, labels, 0.1)
        b, _ = step(state, images, F.one_hot(labels, 10).float(), torch.tensor(0.1))
        torch.testing.assert_close(a.params, b.params)


class TestCutMix:
    def test_the_box_weighs_what_it_covers(self) -> None:
        images = torch.arange(6.0).view(6, 1, 1, 1).expand(6, 2, 7, 9)
        targets = torch.eye(6)
        seen = set()
        for step in range(200):
            mixed, soft = cutmix(images, targets, probability=1.0, generator=rng(0, "c", step))
            kept = (mixed[:, 0] == images[:, 0]).float().mean((1, 2))
            for i in range(6):
                other = int(soft[i].masked_fill(torch.eye(6)[i] > 0, -1).argmax()) if float(kept[i]) < 1 else i
                torch.testing.assert_close(soft[i, i], kept[i] if other != i else torch.tensor(1.0))
                if other != i:
                    assert set(mixed[i].unique().tolist()) <= {float(i), float(other)}
            assert torch.allclose(soft.sum(1), torch.ones(6))
            seen.add(round(float(soft.amax()), 3))
        assert len(seen) > 1
        assert (images == torch.arange(6.0).view(6, 1, 1, 1)).all()

    def test_the_box_by_hand(self) -> None:
        u = torch.rand(3, generator=rng(0, "box"), dtype=torch.float64).tolist()
        side = (1 - u[0]) ** 0.5
        half, centre = int(side * 32) // 2, [int(u[1] * 28), int(u[2] * 32)]
        box = draw_box(28, 32, rng(0, "box"))
        assert box == (
            max(0, centre[0] - int(side * 28) // 2), min(28, centre[0] + int(side * 28) // 2),
            max(0, centre[1] - half), min(32, centre[1] + half),
        )
        assert box.area == (box.bottom - box.top) * (box.right - box.left)

    def test_boxes_cover_any_share(self) -> None:
        areas = [draw_box(32, 32, rng(0, "box", step)).area / 1024 for step in range(400)]
        assert min(areas) < 0.02
        assert max(areas) > 0.75
        assert 0.25 < sum(areas) / 400 < 0.45  # half on average before the border cuts the box

    def test_happens_by_chance(self) -> None:
        images, targets = torch.randn(8, 1, 8, 8), torch.eye(8)
        changed = [
            not torch.equal(cutmix(images, targets, probability=0.3, generator=rng(0, "c", step))[0], images)
            for step in range(300)
        ]
        assert 0.2 < sum(changed) / 300 < 0.35

    def test_without_probability_nothing_is_drawn(self) -> None:
        images, targets, generator = torch.randn(4, 1, 8, 8), torch.eye(4), rng(0, "c")
        before = generator.get_state()
        mixed, soft = cutmix(images, targets, probability=0.0, generator=generator)
        assert mixed is images
        assert soft is targets
        assert torch.equal(generator.get_state(), before)


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

    def test_two_drops_and_cutmix_train(self, net: Network, digits: RealSet) -> None:
        images, labels = some_images(digits, 60)
        schedule = Schedule(40, 16, 0.05, 0.9, 5e-4, "two_drops", 0.5)
        trainer = trainer_of(net, schedule, DSA(DSASpec(strategy=("crop",))))
        finished: list[int] = []
        found = trainer.train(images, labels, seed=0, name="t", on_epoch=finished.append)
        assert finished[-1] == 40
        assert trainer.accuracy(found, digits, digits.test_images, digits.test_labels) > 0.4
        plain = trainer_of(net, schedule._replace(cutmix_probability=0.0), DSA(DSASpec(strategy=("crop",))))
        assert not torch.equal(found.params, plain.train(images, labels, seed=0, name="t").params)

    def test_a_network_with_batch_norm_is_tested_with_running_statistics(self, digits: RealSet) -> None:
        images, labels = some_images(digits, 100)
        mixing = build_network(ConvNetSpec(width=8, depth=1, norm="batch"), digits.info)
        trainer = trainer_of(mixing, Schedule(30, 50, 0.05, 0.9, 5e-4))
        found = trainer.train(images, labels, seed=0, name="t")
        assert trainer.accuracy(found, digits, digits.test_images, digits.test_labels) > 0.7
        one_class = digits.test_labels == 3
        alone = trainer.accuracy(found, digits, digits.test_images[one_class], digits.test_labels[one_class])
        assert alone > 0.5  # statistics of a batch of one class would blind it

    def test_a_pass_shows_one_of_each_group_of_variants(
        self, net: Network, digits: RealSet, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        images, labels = some_images(digits, 12)
        trainer = trainer_of(net, Schedule(5, 3, 0.01, 0.9, 0.0))
        seen: list[list[int]] = []
        original = Trainer._batch

        def batch(self: Any, images: Any, targets: Any, rows: torch.Tensor, generator: Any) -> Any:
            seen.append(rows.tolist())
            return original(self, images, targets, rows, generator)

        monkeypatch.setattr(Trainer, "_batch", batch)
        found = trainer.train(images, labels, seed=0, name="t", variants=3, curve_points=5)
        passes = [first + second for first, second in zip(seen[::2], seen[1::2], strict=True)]
        assert [len(rows) for rows in seen] == [3, 1] * 6
        assert all(sorted(row // 3 for row in rows) == [0, 1, 2, 3] for rows in passes)
        assert {row % 3 for rows in passes for row in rows} == {0, 1, 2}
        assert len({tuple(rows) for rows in passes}) == 6
        assert 2.0 < found.loss[0][1] < 4.0  # a mean over the images shown, of which there are a third

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


class TestRealSet:
    def train(self, net: Network, digits: RealSet, spec: RealTrainingSpec, augmentation: Any = None, **fields: Any) -> Any:
        step = NetworkStep(net, momentum=spec.momentum, weight_decay=spec.weight_decay, compiled=False, device=CPU)
        return train_on_real(step, digits, spec, augmentation or Identity(), seed=5, name="experts", index=1, **fields)

    def test_equals_a_plain_loop(self, net: Network, digits: RealSet) -> None:
        spec = RealTrainingSpec(num_epochs=2, batch_size=500, lr_net=0.1)
        done: list[int] = []
        found = self.train(net, digits, spec, on_step=done.append, count_forgetting=True)
        params = net.init(rng(5, "experts/weights", 1)).requires_grad_()
        optimizer = torch.optim.SGD([params], lr=0.1, momentum=0.9, weight_decay=5e-4)
        count = len(digits.labels)
        last, ever, forgotten = [False] * count, [False] * count, [0] * count
        for epoch in range(2):
            right = 0
            for batch in torch.randperm(count, generator=rng(5, "experts/1/epoch", epoch)).split(500):
                logits = net(params, {}, digits.gather(batch), ("logits",))["logits"]
                for i, ok in zip(batch.tolist(), (logits.argmax(1) == digits.labels[batch]).tolist(), strict=True):
                    forgotten[i] += last[i] and not ok
                    last[i], ever[i] = ok, ever[i] or ok
                    right += ok
                optimizer.zero_grad()
                F.cross_entropy(logits, digits.labels[batch]).backward()
                optimizer.step()
        torch.testing.assert_close(found.params, params.detach(), rtol=1e-4, atol=1e-5)
        assert float(found.accuracy) == pytest.approx(right / count)
        assert found.forgetting.tolist() == [n if seen else 2 for n, seen in zip(forgotten, ever, strict=True)]
        assert done == list(range(1, num_steps(spec, digits) + 1))

    def test_without_epochs_it_is_drawn(self, net: Network, digits: RealSet) -> None:
        found = self.train(net, digits, RealTrainingSpec(num_epochs=0), count_forgetting=True)
        assert torch.equal(found.params, net.init(rng(5, "experts/weights", 1)))
        assert float(found.accuracy) == 0
        assert not found.forgetting.any()

    def test_learns_with_augmentation_and_cutmix(self, net: Network, digits: RealSet) -> None:
        spec = RealTrainingSpec(num_epochs=6, batch_size=64, lr_net=0.05, cutmix_probability=0.5)
        found = self.train(net, digits, spec, DSA(DSASpec(strategy=("crop", "scale"))))
        again = self.train(net, digits, spec, DSA(DSASpec(strategy=("crop", "scale"))))
        assert torch.equal(found.params, again.params)
        assert found.forgetting is None
        trainer = trainer_of(net, Schedule(1, 1, 0.1, 0.9, 0.0))
        trained = Trained(found.params, found.buffers)
        assert trainer.accuracy(trained, digits, digits.test_images, digits.test_labels) > 0.6

    def test_stops_between_steps(self, net: Network, digits: RealSet) -> None:
        class Impatient(Hooks):
            def should_stop(self) -> bool:
                return len(done) == 3

        done: list[int] = []
        with pytest.raises(Stopped):
            self.train(net, digits, RealTrainingSpec(num_epochs=1), on_step=done.append, hooks=Impatient())

    def test_forgetting_by_hand(self) -> None:
        counts = Forgetting(4, CPU)
        answers = [(1, 1, 0, 0), (0, 1, 0, 1), (1, 0, 0, 1), (0, 0, 0, 1)]  # never learned: image 2
        for answer in answers:
            order = torch.tensor([2, 0, 3, 1])
            counts.see(order, torch.tensor(answer, dtype=torch.bool)[order])
        assert counts.total(4).tolist() == [2, 1, 4, 0]


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
