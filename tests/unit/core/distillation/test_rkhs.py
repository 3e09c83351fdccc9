"""M3D: the quadratic form against means over pairs, in float64."""

from __future__ import annotations

import math
from functools import partial

import pytest
import torch
from torch import Tensor

from core.data.real_set import RealSet
from core.distillation.objectives.mean_feature import squared_mean_distance
from core.distillation.objectives.rkhs import RKHS, Kernel, gaussian_kernel, polynomial_kernel, squared_discrepancy
from core.specs.objective import RKHSSpec
from tests.unit.core.distillation.steps import step_for

pytestmark = pytest.mark.unit
BANDWIDTHS = (0.25, 0.5, 1.0, 2.0, 4.0)
GAUSSIAN: Kernel = partial(gaussian_kernel, bandwidths=BANDWIDTHS)


def doubles(*shape: int) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64)


def spread_of(real: Tensor, syn: Tensor) -> float:
    """Mean squared distance between different images of one class."""
    images = [*syn.detach(), *real]
    distances = [float(((a - b) ** 2).sum()) for i, a in enumerate(images) for j, b in enumerate(images) if i != j]
    return sum(distances) / len(distances)


def naive(real: Tensor, syn: Tensor, share: Tensor | None, spread: float) -> Tensor:
    """One class, pair by pair; the width does not move."""

    def kernel(a: Tensor, b: Tensor) -> Tensor:
        return torch.stack([torch.exp(-((a - b) ** 2).sum() / (spread * q)) for q in BANDWIDTHS]).sum()

    share = torch.full((len(real),), 1 / len(real), dtype=torch.float64) if share is None else share
    within = sum(kernel(a, b) for a in syn for b in syn) / len(syn) ** 2
    across = sum(w * kernel(a, b) for a in syn for w, b in zip(share, real, strict=True)) / len(syn)
    beyond = sum(v * w * kernel(a, b) for v, a in zip(share, real, strict=True) for w, b in zip(share, real, strict=True))
    return within - 2 * across + beyond


class TestGaussianKernel:
    def test_by_hand(self) -> None:
        """Two images: h is their squared distance, so every kernel is exp(-1 / q) whatever the distance."""
        real, syn = torch.tensor([[[1.0, 1.0]]]), torch.tensor([[[4.0, 5.0]]])
        expected = 2 * sum(1 - math.exp(-1 / q) for q in BANDWIDTHS)
        assert squared_discrepancy(real, syn, kernel=GAUSSIAN).item() == pytest.approx(expected, rel=1e-6)

    @pytest.mark.parametrize("weighted", [True, False])
    def test_value_and_gradient_equal_a_loop_over_pairs(self, weighted: bool) -> None:
        real, syn = doubles(2, 4, 3), doubles(2, 3, 3).requires_grad_()
        share = doubles(2, 4).softmax(1) if weighted else None
        found = squared_discrepancy(real, syn, share, kernel=GAUSSIAN)
        expected = torch.stack([
            naive(real[k], syn[k], None if share is None else share[k], spread_of(real[k], syn[k])) for k in range(2)
        ])
        torch.testing.assert_close(found, expected, rtol=1e-11, atol=0)
        gradients = [torch.autograd.grad(value.sum(), syn)[0] for value in (found, expected)]
        torch.testing.assert_close(*gradients, rtol=1e-9, atol=1e-12)

    def test_gradcheck_of_the_loop_it_equals(self) -> None:
        real, syn = doubles(4, 3), doubles(2, 3)
        spread = spread_of(real, syn)
        assert torch.autograd.gradcheck(lambda s: naive(real, s, None, spread), (syn.requires_grad_(),))

    def test_does_not_depend_on_scale_and_place(self) -> None:
        real, syn = doubles(2, 5, 3), doubles(2, 3, 3)
        values = [squared_discrepancy(r, s, kernel=GAUSSIAN) for r, s in ((real, syn), (40 * real + 7, 40 * syn + 7))]
        torch.testing.assert_close(*values, rtol=1e-9, atol=0)

    def test_lies_between_zero_and_its_bound(self) -> None:
        value = squared_discrepancy(doubles(4, 6, 3), doubles(4, 2, 3) + 100.0, kernel=GAUSSIAN)
        assert (value > 0).all()
        assert (value < 2 * len(BANDWIDTHS)).all()

    def test_is_zero_for_equal_sets_in_any_order(self) -> None:
        real = doubles(3, 4, 5)
        assert squared_discrepancy(real, real[:, [2, 0, 3, 1]], kernel=GAUSSIAN).abs().max() < 1e-12

    def test_an_image_is_at_no_distance_from_itself(self) -> None:
        kernel = gaussian_kernel(torch.randn(2, 6, 2048) * 100, BANDWIDTHS)
        assert (kernel.diagonal(dim1=1, dim2=2) == len(BANDWIDTHS)).all()

    @pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
    def test_duplicates_have_finite_gradients(self, dtype: torch.dtype) -> None:
        real = torch.randn(2, 4, 64, dtype=dtype)
        syn = real[:, :2].clone().requires_grad_()
        (gradient,) = torch.autograd.grad(squared_discrepancy(real, syn, kernel=GAUSSIAN).sum(), syn)
        assert gradient.isfinite().all()

    def test_images_that_all_coincide_give_zero(self) -> None:
        real = torch.full((2, 1, 5), 3.0)
        syn = real.clone().requires_grad_()
        value = squared_discrepancy(real, syn, kernel=GAUSSIAN)
        (gradient,) = torch.autograd.grad(value.sum(), syn)
        assert value.tolist() == [0.0, 0.0]
        assert gradient.abs().max() < 1e-4

    def test_half_precision_is_widened_first(self) -> None:
        real, syn = (torch.randn(2, n, 300).half() * 40 for n in (5, 3))
        value = squared_discrepancy(real, syn, kernel=GAUSSIAN)
        assert value.dtype == torch.float32
        expected = squared_discrepancy(real.double(), syn.double(), kernel=GAUSSIAN)
        torch.testing.assert_close(value.double(), expected, rtol=1e-5, atol=1e-6)


class TestOtherKernels:
    def test_inner_products_give_the_mean_loss(self) -> None:
        real, syn, share = doubles(3, 5, 4), doubles(3, 2, 4), doubles(3, 5).softmax(1)
        found = squared_discrepancy(real, syn, share, kernel=lambda x: x @ x.mT)
        torch.testing.assert_close(found, squared_mean_distance(real, syn, share), rtol=1e-10, atol=1e-12)

    def test_linear_is_exactly_the_mean_loss(self, digits: RealSet) -> None:
        loss = RKHS(RKHSSpec(kernel="linear"))
        step = step_for([loss], digits)
        expected = squared_mean_distance(step.features("real")["flat"], step.features("syn")["flat"])
        assert torch.equal(loss.value(step), expected)

    def test_polynomial_by_hand(self) -> None:
        real, syn = torch.tensor([[[1.0]]]), torch.tensor([[[2.0]]])  # 25 - 2 * 9 + 4
        assert squared_discrepancy(real, syn, kernel=polynomial_kernel).tolist() == [11.0]

    def test_polynomial_gradcheck(self) -> None:
        real, syn = doubles(2, 4, 3), doubles(2, 3, 3).requires_grad_()
        assert torch.autograd.gradcheck(lambda s: squared_discrepancy(real, s, kernel=polynomial_kernel), (syn,))

    def test_polynomial_sees_covariances(self) -> None:
        real = doubles(1, 6, 3)
        syn = 2 * (real - real.mean(1, keepdim=True)) + real.mean(1, keepdim=True)
        assert squared_mean_distance(real, syn).item() < 1e-12
        assert squared_discrepancy(real, syn, kernel=polynomial_kernel).item() > 1e-3
