"""Each operation against an implementation written again from the definition, one image at a time."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from core.distillation.augmentation.dsa import DSA, DSADraw
from core.distillation.randomness import rng
from core.specs.augmentation import OPERATIONS, DSASpec, Operation

pytestmark = pytest.mark.unit


def naive_color(x: Tensor, u: list[float]) -> Tensor:
    x = x + (u[0] - 0.5)
    grey = sum(x[c] for c in range(len(x))) / len(x)
    x = torch.stack([(channel - grey) * (2 * u[1]) + grey for channel in x])
    average = x.sum() / x.numel()
    return (x - average) * (u[2] + 0.5) + average


def naive_crop(x: Tensor, u: list[float]) -> Tensor:
    side = x.shape[-1]
    s = int(0.125 * side + 0.5)
    ty, tx = (math.floor(v * (2 * s + 1)) - s for v in u[:2])
    out = torch.zeros_like(x)
    for i in range(side):
        for j in range(side):
            if 0 <= i + ty < side and 0 <= j + tx < side:
                out[:, i, j] = x[:, i + ty, j + tx]
    return out


def naive_cutout(x: Tensor, u: list[float]) -> Tensor:
    side = x.shape[-1]
    k = int(0.5 * side + 0.5)
    cy, cx = (math.floor(v * (side + 1 - k % 2)) for v in u[:2])
    out = x.clone()
    for i in range(cy - k // 2, cy - k // 2 + k):
        for j in range(cx - k // 2, cx - k // 2 + k):
            if 0 <= i < side and 0 <= j < side:
                out[:, i, j] = 0
    return out


def naive_flip(x: Tensor, u: list[float]) -> Tensor:
    return torch.stack([x[:, :, j] for j in range(x.shape[2] - 1, -1, -1)], 2) if u[0] < 0.5 else x


def naive_sample(x: Tensor, a: float, b: float, c: float, d: float) -> Tensor:
    """Output pixel (i, j) at centred coordinates (p, q) reads input (a p + b q, c p + d q); p is horizontal."""
    side = x.shape[-1]
    out = torch.zeros_like(x)
    for i in range(side):
        for j in range(side):
            p, q = (2 * j + 1) / side - 1, (2 * i + 1) / side - 1
            column = ((a * p + b * q + 1) * side - 1) / 2
            row = ((c * p + d * q + 1) * side - 1) / 2
            for m in (math.floor(row), math.floor(row) + 1):
                for n in (math.floor(column), math.floor(column) + 1):
                    if 0 <= m < side and 0 <= n < side:
                        out[:, i, j] += x[:, m, n] * (1 - abs(row - m)) * (1 - abs(column - n))
    return out


def naive_scale(x: Tensor, u: list[float]) -> Tensor:
    sx, sy = (v * (1.2 - 1 / 1.2) + 1 / 1.2 for v in u[:2])
    return naive_sample(x, sx, 0, 0, sy)


def naive_rotate(x: Tensor, u: list[float]) -> Tensor:
    t = (u[0] - 0.5) * 2 * 15 * math.pi / 180
    return naive_sample(x, math.cos(t), -math.sin(t), math.sin(t), math.cos(t))


NAIVE: dict[Operation, Callable[[Tensor, list[float]], Tensor]] = {
    "color": naive_color, "crop": naive_crop, "cutout": naive_cutout, "flip": naive_flip, "scale": naive_scale,
    "rotate": naive_rotate,
}


def draw_of(operation: Operation, groups: int, *, deterministic: bool = False) -> DSADraw:
    return DSADraw((operation,) * groups, torch.rand(groups, 3, generator=rng(0, operation)), deterministic)


@pytest.mark.parametrize("operation", OPERATIONS)
class TestOperation:
    @pytest.mark.parametrize(("groups", "per_group"), [(6, 3), (12, 1)], ids=["classes", "images"])
    @pytest.mark.parametrize(("channels", "side"), [(1, 8), (3, 9)])
    def test_equals_the_definition(self, operation: Operation, channels: int, side: int, groups: int, per_group: int) -> None:
        images = torch.randn(groups, per_group, channels, side, side, dtype=torch.float64)
        draw = draw_of(operation, groups)
        found = draw.apply(images)
        assert found.dtype == images.dtype
        for g in range(groups):
            for m in range(per_group):
                expected = NAIVE[operation](images[g, m], draw.uniform[g].tolist())
                torch.testing.assert_close(found[g, m], expected, rtol=1e-5, atol=1e-5)

    def test_real_and_synthetic_copies_stay_bit_identical(self, operation: Operation) -> None:
        draw = draw_of(operation, 5)
        images = torch.randn(5, 1, 3, 28, 28)
        alone = draw.apply(images.requires_grad_())
        among = draw.apply(torch.cat([torch.randn(5, 63, 3, 28, 28), images], 1))
        assert torch.equal(alone[:, 0], among[:, -1])

    def test_is_differentiable(self, operation: Operation) -> None:
        images = torch.randn(2, 2, 3, 4, 4, dtype=torch.float64, requires_grad=True)
        assert torch.autograd.gradcheck(draw_of(operation, 2).apply, (images,))

    def test_matrices_give_the_same_in_deterministic_mode(self, operation: Operation) -> None:
        images = torch.randn(4, 3, 3, 8, 8)
        fast, slow = (draw_of(operation, 4, deterministic=d).apply(images) for d in (False, True))
        torch.testing.assert_close(slow, fast, rtol=1e-5, atol=1e-6)


class TestDraw:
    def test_mixed_operations_keep_the_order_of_classes(self) -> None:
        draw = DSA(DSASpec()).draw(20, rng(0, "a"))
        assert len(set(draw.operations)) > 3
        images = torch.randn(20, 2, 1, 8, 8)
        whole = draw.apply(images)
        for g in range(20):
            torch.testing.assert_close(whole[g : g + 1], draw.narrow(g, g + 1).apply(images[g : g + 1]))

    def test_each_class_draws_its_own_operation_uniformly(self) -> None:
        operations = DSA(DSASpec()).draw(6000, rng(0, "a")).operations
        for operation in OPERATIONS:
            assert 850 < operations.count(operation) < 1150

    def test_network_training_shares_the_operation_and_not_the_parameters(self) -> None:
        draw = DSA(DSASpec()).draw(50, rng(0, "a"), shared_operation=True)
        assert len(draw.operations) == 50
        assert len(set(draw.operations)) == 1
        assert len(draw.uniform[:, 0].unique()) > 40

    def test_uses_the_strategy_only(self) -> None:
        assert set(DSA(DSASpec(strategy=("crop", "scale"))).draw(100, rng(0, "a")).operations) == {"crop", "scale"}

    def test_follows_the_generator(self) -> None:
        a, b = (DSA(DSASpec()).draw(10, rng(0, "a", 7)) for _ in range(2))
        assert a.operations == b.operations
        assert torch.equal(a.uniform, b.uniform)

    @pytest.mark.parametrize("u", [0.0, 0.999999940395])
    @pytest.mark.parametrize("operation", OPERATIONS)
    def test_ends_of_the_ranges(self, operation: Operation, u: float) -> None:
        image = torch.randn(1, 1, 1, 28, 28)
        found = DSADraw((operation,), torch.full((1, 3), u)).apply(image)
        expected = NAIVE[operation](image[0, 0], torch.full((3,), u).tolist())
        torch.testing.assert_close(found[0, 0], expected, rtol=1e-4, atol=1e-4)
