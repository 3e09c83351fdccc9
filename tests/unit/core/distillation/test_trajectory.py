"""Trajectory matching: the reverse sweep against full unrolling, a plain loop, and a case worked out by hand."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from core.catalogue import dataset_info
from core.data.real_set import RealSet
from core.distillation.attach import attach
from core.distillation.augmentation.dsa import DSA
from core.distillation.augmentation.none import Identity
from core.distillation.objectives.trajectory import ALL, Gradients, Segment, TrainingStep, Trajectory, sweep, unroll
from core.distillation.randomness import rng
from core.errors import InvalidInputError
from core.networks.build import build_network
from core.networks.network import Network
from core.specs.augmentation import DSASpec
from core.specs.network import ConvNetSpec, MLPSpec
from core.specs.objective import TrajectorySpec
from tests.unit.core.distillation.steps import step_for

pytestmark = pytest.mark.unit
CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def net() -> Network:
    """Smooth, so that finite differences mean something."""
    return build_network(ConvNetSpec(width=3, depth=1, activation="swish"), dataset_info("digits"))


def double(shape: tuple[int, ...], seed: int) -> Tensor:
    return torch.randn(shape, generator=rng(seed, "test"), dtype=torch.float64)


def segment_of(net: Network, seed: int = 0) -> Segment:
    start = net.init(rng(seed, "start")).double()
    return Segment(net, start, start + 0.1 * double((net.num_parameters,), seed))


def steps_of(count: int, images: int, size: int, augmentation: Any = None) -> list[TrainingStep]:
    generator = rng(3, "steps")
    augmentation = augmentation or DSA(DSASpec())
    return [
        TrainingStep(
            torch.randperm(images, generator=generator)[:size], augmentation.draw(size, generator, shared_operation=True)
        )
        for _ in range(count)
    ]


def soft_labels(count: int, classes: int, seed: int = 0) -> Tensor:
    return double((count, classes), seed).softmax(1)


def by_unrolling(segment: Segment, rate: Tensor, images: Tensor, labels: Tensor, steps: Any) -> tuple[Tensor, Gradients]:
    images, rate = images.detach().requires_grad_(), rate.detach().requires_grad_()
    soft = labels.is_floating_point()
    labels = labels.detach().requires_grad_(soft)
    loss = unroll(segment, rate, images, labels, steps)
    found = torch.autograd.grad(loss, [images, rate, *([labels] if soft else [])])
    return loss.detach(), Gradients(found[0], found[2] if soft else None, found[1])


def assert_close(found: Tensor | None, wanted: Tensor | None, tolerance: float = 1e-12) -> None:
    assert found is not None
    assert wanted is not None
    assert float((found - wanted).norm() / wanted.norm()) < tolerance


class TestSweep:
    @pytest.mark.parametrize("soft", [True, False], ids=["soft", "hard"])
    @pytest.mark.parametrize("size", [6, 4], ids=["all", "minibatch"])
    def test_equals_full_unrolling(self, net: Network, soft: bool, size: int) -> None:
        segment, rate, images = segment_of(net), torch.tensor(0.3, dtype=torch.float64), double((6, 1, 8, 8), 1)
        labels = soft_labels(6, 10).requires_grad_() if soft else torch.arange(6)
        steps = steps_of(5, 6, size)
        loss, found = sweep(segment, rate, images, labels, steps)
        wanted_loss, wanted = by_unrolling(segment, rate, images, labels, steps)
        torch.testing.assert_close(loss, wanted_loss, rtol=1e-13, atol=0)
        assert_close(found.images, wanted.images)
        assert_close(found.rate, wanted.rate)
        if soft:
            assert_close(found.labels, wanted.labels)
        else:
            assert found.labels is None

    def test_images_that_no_step_sees_get_no_gradient(self, net: Network) -> None:
        steps = [step._replace(rows=torch.tensor([0, 2])) for step in steps_of(3, 6, 2)]
        _, found = sweep(segment_of(net), torch.tensor(0.1), double((6, 1, 8, 8), 1), torch.arange(6), steps)
        assert (found.images.flatten(1).abs().sum(1) > 0).tolist() == [True, False, True, False, False, False]

    def test_a_frozen_adjoint_is_teslas_formula_with_its_factor_2(self, net: Network) -> None:
        segment, rate, images = segment_of(net), torch.tensor(0.3, dtype=torch.float64), double((6, 1, 8, 8), 1)
        labels, steps = soft_labels(6, 10), steps_of(5, 6, 4)
        _, found = sweep(segment, rate, images, labels.clone().requires_grad_(), steps, frozen=True)
        path = [segment.start]
        for step in steps:
            path.append(path[-1] - rate * segment.gradient(path[-1], *step.take(images, labels), graph=False))
        total = (path[0] - path[-1]) / rate
        of = [images.clone().requires_grad_(), labels.clone().requires_grad_()]
        gradients = [segment.gradient(w, *s.take(*of), graph=True) for w, s in zip(path, steps, strict=False)]
        constant = rate * (segment.target - segment.start) + rate**2 * total
        inner = sum(((constant @ gradient) for gradient in gradients), start=torch.zeros(()))
        scale = (segment.start - segment.target).square().sum()
        wanted = torch.autograd.grad(2.0 / scale * inner, of)
        assert_close(found.images, wanted[0])
        assert_close(found.labels, wanted[1])
        moving = rate.clone().requires_grad_()
        loss = (segment.start - moving * total - segment.target).square().sum() / scale
        assert_close(found.rate, torch.autograd.grad(loss, moving)[0])
        _, exact = sweep(segment, rate, images, labels, steps)
        assert float((exact.images - found.images).norm() / exact.images.norm()) > 1e-3

    def test_equals_a_plain_loop(self, net: Network) -> None:
        segment, rate, images = segment_of(net), 0.2, double((6, 1, 8, 8), 1)
        labels, steps = torch.arange(6), steps_of(4, 6, 6, Identity())
        weights = {name: value.detach().clone().requires_grad_() for name, value in net.named(segment.start).items()}
        for _ in steps:
            flat = torch.cat([value.flatten() for value in weights.values()])
            loss = -F.log_softmax(net(flat, {}, images, ("logits",))["logits"], 1)[range(6), labels].mean()
            gradients = torch.autograd.grad(loss, list(weights.values()))
            weights = {
                name: (value - rate * gradient).detach().requires_grad_()
                for (name, value), gradient in zip(weights.items(), gradients, strict=True)
            }
        end = torch.cat([value.flatten() for value in weights.values()])
        squares = [
            sum((a - b) ** 2 for a, b in zip(weights.tolist(), segment.target.tolist(), strict=True))
            for weights in (end.detach(), segment.start)
        ]
        wanted = squares[0] / squares[1]
        rows = torch.arange(6)
        found, _ = sweep(
            segment, torch.tensor(rate, dtype=torch.float64), images, labels, [step._replace(rows=rows) for step in steps]
        )
        assert float(found) == pytest.approx(wanted, rel=1e-12)

    def test_one_step_by_hand(self) -> None:
        """A linear classifier at zero weights: every class has probability 1/2, so g_0 = x (1/2 - 1), g_1 = x 1/2."""

        class Linear:
            def __call__(self, params: Tensor, buffers: Any, images: Tensor, taps: Any, *, training: bool) -> Any:
                return {"logits": images.flatten(1) @ params.view(2, 1).T}

        net: Any = Linear()
        segment = Segment(net, torch.zeros(2, dtype=torch.float64), torch.tensor([1.0, 0.0], dtype=torch.float64))
        images, rate = torch.tensor([[[[3.0]]]], dtype=torch.float64), torch.tensor(0.2, dtype=torch.float64)
        step = TrainingStep(torch.tensor([0]), Identity())
        loss, found = sweep(segment, rate, images, torch.tensor([0]), [step])
        # th_1 = (0.3, -0.3); L = 0.7^2 + 0.3^2; dL/dth = 2 (-0.7, -0.3); dth/dx = a/2 (1, -1); dth/da = x/2 (1, -1)
        assert float(loss) == pytest.approx(0.58)
        assert float(found.images) == pytest.approx(2 * (-0.7 + 0.3) * 0.1)
        assert float(found.rate) == pytest.approx(2 * (-0.7 + 0.3) * 1.5)

    def test_gradcheck(self) -> None:
        net = build_network(ConvNetSpec(width=2, depth=2, activation="sigmoid"), dataset_info("digits"))
        segment, steps = segment_of(net), steps_of(2, 2, 2, Identity())

        class Swept(torch.autograd.Function):
            @staticmethod
            def forward(ctx: Any, images: Tensor, labels: Tensor, rate: Tensor) -> Tensor:
                with torch.enable_grad():
                    loss, found = sweep(segment, rate, images, labels.detach().requires_grad_(), steps)
                ctx.save_for_backward(*(value for value in found if value is not None))
                return loss.detach()

            @staticmethod
            def backward(ctx: Any, *upstream: Any) -> Any:
                return tuple(upstream[0] * gradient for gradient in ctx.saved_tensors)

        inputs = (double((2, 1, 8, 8), 1), soft_labels(2, 10), torch.tensor(0.3, dtype=torch.float64))
        assert torch.autograd.gradcheck(Swept.apply, [value.requires_grad_() for value in inputs], fast_mode=True)


class TestAttach:
    def test_backward_is_what_was_given(self) -> None:
        a, b = torch.randn(3, requires_grad=True), torch.randn(2, 2, requires_grad=True)
        value = attach(torch.tensor(7.0), [(a, torch.tensor([1.0, 2.0, 3.0])), (b, torch.ones(2, 2))])
        assert float(value.detach()) == 7.0
        (5.0 * value).backward()
        assert a.grad is not None
        assert b.grad is not None
        assert a.grad.tolist() == [5.0, 10.0, 15.0]
        assert b.grad.tolist() == [[5.0, 5.0], [5.0, 5.0]]

    def test_what_is_not_finite_shows(self) -> None:
        a = torch.ones(2, requires_grad=True)
        assert not attach(torch.tensor(1.0), [(a, torch.tensor([torch.inf, 0.0]))]).isfinite()


def step_with_target(loss: Trajectory, digits: RealSet, **fields: Any) -> Any:
    net = build_network(MLPSpec(width=4), digits.info)
    step = step_for([loss], digits, net=net, **fields)
    target = step.weights.params + 0.05 * torch.randn(net.num_parameters, generator=rng(0, "target"))
    step.weights = type(step.weights)(net, step.weights.params, target=target)
    step.syn = type(step.syn)(step.syn.images, step.syn.labels, step.syn.classes, (torch.arange(30),), (ALL,))
    return step


class TestTrajectory:
    def test_modes_agree_but_for_the_frozen_one(self, digits: RealSet) -> None:
        found = {}
        for mode in ("adjoint", "unrolled", "frozen_adjoint"):
            fields = {"num_steps": 4, "batch_size": 7, "lr_net": 0.5, "gradient_mode": mode}
            loss = Trajectory(TrajectorySpec.model_validate(fields), CPU, 30)
            step = step_with_target(loss, digits, augmentation=DSA(DSASpec()))
            value = loss.value(step)
            value.backward()
            (rate,) = loss.parameters()["rate"]
            found[mode] = (value.detach(), step.syn.images.grad, rate.grad)
        for a, b in zip(found["adjoint"], found["unrolled"], strict=True):
            torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-7)
        assert torch.equal(found["adjoint"][0], found["frozen_adjoint"][0])
        assert not torch.allclose(found["adjoint"][1], found["frozen_adjoint"][1], rtol=1e-3)

    def test_permutations_are_used_up_before_the_next(self, digits: RealSet) -> None:
        loss = Trajectory(TrajectorySpec(num_steps=9, batch_size=8), CPU, 30)
        step = step_with_target(loss, digits)
        rows = [taken.rows for taken in loss._steps(step)]
        assert [len(r) for r in rows] == [8, 8, 8, 6, 8, 8, 8, 6, 8]
        for first in (0, 4):
            assert torch.cat(rows[first : first + 4]).sort().values.tolist() == list(range(30))
        assert not torch.equal(rows[0], rows[4])
        assert all(torch.equal(a.rows, b) for a, b in zip(loss._steps(step), rows, strict=True))
        step.number = 1
        assert not torch.equal(loss._steps(step)[0].rows, rows[0])

    @pytest.mark.parametrize("size", [0, 30, 31])
    def test_a_large_batch_is_the_whole_set_in_every_step(self, size: int, digits: RealSet) -> None:
        loss = Trajectory(TrajectorySpec(num_steps=2, batch_size=size), CPU, 30)
        assert [taken.rows.tolist() for taken in loss._steps(step_with_target(loss, digits))] == [list(range(30))] * 2

    def test_each_image_has_parameters_of_its_own(self, digits: RealSet) -> None:
        loss = Trajectory(TrajectorySpec(num_steps=1), CPU, 30)
        step = step_with_target(loss, digits, augmentation=DSA(DSASpec(strategy=("color",))))
        (taken,) = loss._steps(step)
        same = step.syn.images.detach()[:1].expand(30, -1, -1, -1)
        seen, _ = taken.take(same, torch.zeros(30, dtype=torch.int64))
        assert len(seen.flatten(1).unique(dim=0)) == 30

    @pytest.mark.parametrize(("limit", "vetoed"), [(0.0, []), (1e-6, [True]), (1e6, [False])])
    def test_a_loss_above_the_limit_vetoes_the_iteration(self, limit: float, vetoed: list[bool], digits: RealSet) -> None:
        loss = Trajectory(TrajectorySpec(num_steps=2, max_loss=limit), CPU, 30)
        step = step_with_target(loss, digits)
        loss.value(step)
        assert [bool(veto) for veto in step.vetoes] == vetoed

    def test_rate_is_clamped_after_the_update(self, digits: RealSet) -> None:
        loss = Trajectory(TrajectorySpec(lr_net=0.01, lr_net_min=0.005, lr_net_max=0.02), CPU, 30)
        (rate,) = loss.parameters()["rate"]
        for value, wanted in ((-3.0, 0.005), (5.0, 0.02), (0.015, 0.015)):
            with torch.no_grad():
                rate.fill_(value)
            loss.update(step_with_target(loss, digits))
            assert float(rate.detach()) == pytest.approx(wanted)

    def test_networks_without_a_target_are_refused(self, digits: RealSet) -> None:
        loss = Trajectory(TrajectorySpec(), CPU, 30)
        with pytest.raises(InvalidInputError, match="needs the end of an expert's piece"):
            loss.value(step_for([loss], digits))

    def test_an_unreachable_rate_is_refused(self) -> None:
        with pytest.raises(ValueError, match="must lie between lr_net_min"):
            TrajectorySpec(lr_net=0.01, lr_net_min=0.1)
