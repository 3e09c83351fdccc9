"""Pieces of trajectories, labels that are learned or given, the start from what experts know, and skipped iterations."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

import pytest
import torch
from torch import Tensor

from core.data.real_set import RealSet
from core.distillation.build import build
from core.distillation.engine import Engine
from core.distillation.init.correctly_classified import CorrectlyClassifiedInit
from core.distillation.labels.learned import LearnedLabels
from core.distillation.labels.teacher import TeacherLabels
from core.distillation.models.expert_segments import ExpertSegments
from core.distillation.optimizer import SGD
from core.distillation.protocols import Weights
from core.distillation.randomness import rng
from core.experts import Pool, TrainedHere, train_pool
from core.networks.build import build_network
from core.progress import Record
from core.specs.experts import PoolSpec, RealTrainingSpec
from core.specs.models import ExpertSegmentsSpec
from core.specs.network import MLPSpec
from core.specs.synthetic import SGDSpec

pytestmark = pytest.mark.unit
NETWORK = MLPSpec(width=16)


@pytest.fixture(scope="module")
def pool(digits: RealSet) -> Pool:
    training = RealTrainingSpec(num_epochs=6, lr_net=0.05)
    return train_pool(PoolSpec(network=NETWORK, num_networks=3, training=training, keep_snapshots=True), digits)


def stored(images: Tensor, classes: Tensor) -> Any:
    """A parameterization that holds images as they are."""
    return SimpleNamespace(
        indices=lambda draw, generator: torch.arange(len(images)), decode=lambda index: (images[index], classes[index])
    )


class TestExpertSegments:
    def test_a_piece_spans_its_epochs(self, digits: RealSet) -> None:
        snapshots = torch.arange(4 * 11, dtype=torch.float32).view(4, 11, 1)
        pool = Pool(build_network(NETWORK, digits.info), torch.zeros(4, 1), torch.zeros(4), snapshots=snapshots)
        spec = ExpertSegmentsSpec(num_networks=4, span_epochs=3, min_start_epoch=2, max_start_epoch=6)
        models = ExpertSegments(spec, pool, seed=0)
        found = [models.next(number) for number in range(200)]
        starts = [int(weights.params) % 11 for weights in found]
        assert set(starts) == {2, 3, 4, 5}
        assert {weights.index for weights in found} == {0, 1, 2, 3}
        assert all(weights.target is not None and int(weights.target - weights.params) == 3 for weights in found)
        assert [int(weights.params) // 11 for weights in found] == [weights.index for weights in found]
        assert torch.equal(ExpertSegments(spec, pool, seed=0).next(57).params, found[57].params)

    def test_the_window_grows_linearly(self) -> None:
        """Reference: min(T0 + floor((T+ - T0) k / E), T+)."""
        spec = ExpertSegmentsSpec(max_start_epoch=20, initial_max_start_epoch=10, growth_iterations=1000)
        assert [spec.start_before(k) for k in (0, 99, 100, 550, 999, 1000, 5000)] == [10, 10, 11, 15, 19, 20, 20]
        assert ExpertSegmentsSpec(max_start_epoch=20).start_before(0) == 20

    @pytest.mark.parametrize("fields", [
        {"min_start_epoch": 5, "max_start_epoch": 5},
        {"min_start_epoch": 5, "initial_max_start_epoch": 5, "growth_iterations": 1},
        {"max_start_epoch": 5, "initial_max_start_epoch": 6, "growth_iterations": 1},
    ])
    def test_an_empty_window_is_refused(self, fields: dict[str, int]) -> None:
        with pytest.raises(ValueError, match="start_epoch"):
            ExpertSegmentsSpec(**cast(Any, fields))


class TestLearnedLabels:
    def test_start_from_the_experts_that_are_right(self, pool: Pool, digits: RealSet) -> None:
        rows = torch.arange(0, len(digits.labels), 40)
        images, classes = digits.gather(rows), digits.labels[rows].clone()
        classes[0] = (classes[0] + 1 + torch.stack([pool.logits(e, images)[0].argmax() for e in range(3)]).max()) % 10
        labels = LearnedLabels(pool, len(rows))
        labels.start(stored(images, classes), rng(0, "labels"))
        (logits,) = labels.parameters()["labels"]
        seen_partly_right = False
        for i in range(len(rows)):
            answers = [pool.logits(expert, images)[i] for expert in range(3)]
            right = [answer for answer in answers if int(answer.argmax()) == int(classes[i])]
            seen_partly_right |= 0 < len(right) < 3
            torch.testing.assert_close(logits[i].detach(), torch.stack(right or answers).mean(0))
        assert seen_partly_right

    def test_targets_are_softmax_with_graph(self, pool: Pool) -> None:
        labels = LearnedLabels(pool, 4)
        labels.load({"logits": torch.arange(40.0).view(4, 10).sin()})
        found = labels.targets(torch.tensor([3, 1]), torch.tensor([0, 0]))
        torch.testing.assert_close(found.detach(), torch.arange(40.0).view(4, 10).sin().softmax(1)[[3, 1]])
        found[0, 0].backward()
        (logits,) = labels.parameters()["labels"]
        assert logits.grad is not None
        assert (logits.grad.abs().sum(1) > 0).tolist() == [False, False, False, True]
        assert labels.storage() == {"labels": 40}


class TestTeacherLabels:
    def test_a_drawn_teacher_labels_the_images_of_each_iteration(self, pool: Pool, digits: RealSet) -> None:
        images = digits.gather(torch.arange(5))
        labels = TeacherLabels("drawn", pool, 5)
        labels.start(stored(images, digits.labels[:5]), rng(0, "labels"))
        torch.testing.assert_close(labels.targets(torch.arange(5), digits.labels[:5]), pool.logits(0, images).softmax(1))
        weights = Weights(pool.net, pool.params[0], target=pool.params[2])
        labels.observe(torch.tensor([1, 4]), images[:2], weights)
        found = labels.targets(torch.arange(5), digits.labels[:5])
        torch.testing.assert_close(found[[1, 4]], pool.logits(2, images[:2]).softmax(1))
        torch.testing.assert_close(found[0], pool.logits(0, images)[0].softmax(0))
        assert torch.equal(labels.state()["given"], found)

    def test_the_first_teacher_stays(self, pool: Pool, digits: RealSet) -> None:
        images = digits.gather(torch.arange(5))
        labels = TeacherLabels("first", pool, 5)
        labels.observe(torch.arange(5), images, Weights(pool.net, pool.params[1], target=pool.params[2]))
        torch.testing.assert_close(labels.targets(torch.arange(5), digits.labels[:5]), pool.logits(0, images).softmax(1))


class TestCorrectlyClassified:
    def test_images_are_labelled_rightly_while_there_are_any(self, pool: Pool, digits: RealSet) -> None:
        chosen = CorrectlyClassifiedInit(pool).choose(digits, 20, rng(0, "init"))
        classes = torch.arange(10).repeat_interleave(20)
        assert (pool.logits(0, chosen.flatten(0, 1)).argmax(1) == classes).all()
        other = CorrectlyClassifiedInit(pool).choose(digits, 20, rng(1, "init"))
        assert not torch.equal(chosen, other)

    def test_further_experts_help_and_the_rest_fills_up(self, pool: Pool, digits: RealSet) -> None:
        smallest = min(digits.counts)
        chosen = CorrectlyClassifiedInit(pool).choose(digits, smallest, rng(0, "init"))
        label = digits.counts.index(smallest)
        members = digits.gather(torch.arange(smallest) + digits.offsets[label])
        assert torch.equal(chosen[label].flatten(1).sort(0).values, members.flatten(1).sort(0).values)
        answers_of = [pool.logits(expert, chosen.flatten(0, 1)).argmax(1).view(10, -1) for expert in range(3)]
        right = [answers == torch.arange(10)[:, None] for answers in answers_of]
        for of_class in range(10):
            first, second, third = (answers[of_class].tolist() for answers in right)
            stage = [0 if a else 1 if b else 2 if c else 3 for a, b, c in zip(first, second, third, strict=True)]
            assert stage == sorted(stage)
            assert len(chosen[of_class].flatten(1).unique(dim=0)) >= smallest - 2  # a few digits exist twice


class TestSGD:
    def test_each_kind_has_its_rate_and_labels_their_momentum(self) -> None:
        spec = SGDSpec(lr_img=0.3, momentum=0.5, lr_rate=0.01, lr_label=2.0, label_momentum=0.9)
        ours = {kind: torch.ones(3, requires_grad=True) for kind in ("pixels", "rate", "labels")}
        theirs = {kind: torch.ones(3, requires_grad=True) for kind in ours}
        optimizer = SGD(spec, {kind: [tensor] for kind, tensor in ours.items()})
        reference = torch.optim.SGD([
            {"params": [theirs["pixels"]], "lr": 0.3, "momentum": 0.5},
            {"params": [theirs["rate"]], "lr": 0.01, "momentum": 0.5},
            {"params": [theirs["labels"]], "lr": 2.0, "momentum": 0.9},
        ])
        for n in range(4):
            for kind in ours:
                gradient = torch.randn(3, generator=rng(0, kind, n))
                ours[kind].grad, theirs[kind].grad = gradient.clone(), gradient.clone()
            optimizer.step(torch.tensor(True), 0.0)
            reference.step()
        for kind in ours:
            torch.testing.assert_close(ours[kind], theirs[kind])


def test_an_iteration_above_the_limit_moves_nothing(small_spec: Any, digits: RealSet) -> None:
    """Not even by the momentum of the iterations before."""
    method = {
        "network": {"kind": "mlp", "width": 8}, "optimizer": {"lr_rate": 0.01, "lr_label": 1.0}, "labels": {"kind": "learned"},
        "objective": {"kind": "trajectory", "num_steps": 2, "lr_net": 0.1},
        "models": {
            "kind": "expert_segments", "num_networks": 1, "training": {"num_epochs": 1}, "span_epochs": 1, "max_start_epoch": 1,
        },
    }
    spec = small_spec(method=method)
    strict = small_spec(method=method | {"objective": method["objective"] | {"max_loss": 1e-9}})
    experts = TrainedHere(digits)
    free, limited = (
        Engine(build(s, digits, experts), digits, seed=0, num_iterations=4, record=Record()) for s in (spec, strict)
    )
    free.iterate()
    limited.load(1, free.state())
    before = {name: value.clone() for name, value in limited.state().items() if not name.startswith("engine/")}
    limited.iterate()
    after = limited.state()
    assert all(torch.equal(value, after[name]) for name, value in before.items())
    free.iterate()
    assert not torch.equal(free.state()["parameterization/pixels"], before["parameterization/pixels"])
    assert not torch.equal(free.state()["labels/logits"], before["labels/logits"])
    assert not torch.equal(free.state()["loss0/rate"], before["loss0/rate"])
    limited._check()
