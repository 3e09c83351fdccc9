"""DSDM: the Gram form against covariances written out, in float64."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from core.data.real_set import RealSet
from core.distillation.objectives.gaussian import Gaussian, squared_covariance_distance
from core.distillation.objectives.mean_feature import squared_mean_distance
from core.specs.objective import GaussianSpec
from tests.unit.core.distillation.steps import NUM_CLASSES, step_for

pytestmark = pytest.mark.unit


def doubles(*shape: int) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64)


def direct(real: Tensor, syn: Tensor, share: Tensor | None, unbiased: bool) -> Tensor:
    """The D x D matrices of one class after another."""
    values = []
    for label in range(len(real)):
        weights = None if share is None else share[label]
        a = torch.cov(real[label].T, correction=int(unbiased), aweights=weights)
        b = torch.cov(syn[label].T, correction=int(unbiased))
        values.append(((a - b) ** 2).sum())
    return torch.stack(values)


class TestCovariance:
    @pytest.mark.parametrize(("unbiased", "expected"), [(True, 36.0), (False, 9.0)])
    def test_by_hand(self, unbiased: bool, expected: float) -> None:
        real, syn = torch.tensor([[[0.0], [2.0]]]), torch.tensor([[[1.0], [5.0]]])  # variances 2 and 8, or 1 and 4
        assert squared_covariance_distance(real, syn, unbiased=unbiased).item() == pytest.approx(expected)

    @pytest.mark.parametrize("unbiased", [True, False])
    @pytest.mark.parametrize("weighted", [True, False])
    def test_value_and_gradient_equal_the_direct_form(self, unbiased: bool, weighted: bool) -> None:
        real, syn = doubles(3, 6, 5) * 2 + 1, doubles(3, 4, 5).requires_grad_()
        share = doubles(3, 6).softmax(1) if weighted else None
        found, expected = squared_covariance_distance(real, syn, share, unbiased=unbiased), direct(real, syn, share, unbiased)
        torch.testing.assert_close(found, expected, rtol=1e-12, atol=0)
        gradients = [torch.autograd.grad(value.sum(), syn)[0] for value in (found, expected)]
        torch.testing.assert_close(*gradients, rtol=1e-10, atol=1e-12)

    @pytest.mark.parametrize("unbiased", [True, False])
    def test_equal_shares_change_nothing(self, unbiased: bool) -> None:
        real, syn = doubles(2, 6, 5), doubles(2, 4, 5)
        share = torch.full((2, 6), 1 / 6, dtype=torch.float64)
        values = [squared_covariance_distance(real, syn, s, unbiased=unbiased) for s in (share, None)]
        torch.testing.assert_close(*values, rtol=1e-12, atol=0)

    def test_gradcheck(self) -> None:
        real, share = doubles(2, 4, 3), doubles(2, 4).softmax(1)
        syn = doubles(2, 3, 3).requires_grad_()
        assert torch.autograd.gradcheck(lambda s: squared_covariance_distance(real, s, share), (syn,))

    def test_is_zero_for_equal_sets_and_under_translation(self) -> None:
        real = doubles(3, 5, 4)
        assert squared_covariance_distance(real, real).abs().max() < 1e-13
        assert squared_covariance_distance(real, real + 3.0).abs().max() < 1e-12

    @pytest.mark.parametrize("unbiased", [True, False])
    def test_one_synthetic_image_has_exactly_no_gradient(self, unbiased: bool) -> None:
        real, syn = torch.randn(3, 5, 4), torch.randn(3, 1, 4, requires_grad=True)
        value = squared_covariance_distance(real, syn, unbiased=unbiased)
        (gradient,) = torch.autograd.grad(value.sum(), syn)
        assert value.isfinite().all()
        assert (value > 0).all()
        assert not gradient.any()

    @pytest.mark.parametrize("share", [None, torch.tensor([[1.0], [1.0]]), torch.tensor([[1.0, 0.0], [0.0, 1.0]])])
    def test_one_real_image_that_counts_is_finite(self, share: Tensor | None) -> None:
        syn = torch.randn(2, 3, 4, requires_grad=True)
        value = squared_covariance_distance(torch.randn(2, 1 if share is None else share.shape[1], 4), syn, share)
        (gradient,) = torch.autograd.grad(value.sum(), syn)
        assert value.isfinite().all()
        assert gradient.isfinite().all()
        torch.testing.assert_close(value, squared_covariance_distance(torch.zeros(2, 2, 4), syn))

    def test_half_precision_is_widened_first(self) -> None:
        real, syn = torch.randn(2, 6, 5).bfloat16(), torch.randn(2, 4, 5).bfloat16()
        found = squared_covariance_distance(real, syn)
        assert found.dtype == torch.float32
        torch.testing.assert_close(found.double(), direct(real.double(), syn.double(), None, True), rtol=1e-5, atol=1e-5)


class TestObjective:
    def test_adds_both_parts(self, digits: RealSet) -> None:
        loss = Gaussian(GaussianSpec(covariance_weight=7.0, unbiased=False))
        step = step_for([loss], digits)
        real, syn = step.features("real")["flat"].double(), step.features("syn")["flat"].detach().double()
        expected = ((real.mean(1) - syn.mean(1)) ** 2).sum(1) + 7.0 / syn.shape[2] * direct(real, syn, None, False)
        found = loss.value(step)
        assert found.shape == (NUM_CLASSES,)
        torch.testing.assert_close(found.detach().double(), expected, rtol=1e-4, atol=0)

    def test_without_covariance_is_the_mean_loss(self, digits: RealSet) -> None:
        loss = Gaussian(GaussianSpec(covariance_weight=0.0))
        step = step_for([loss], digits)
        expected = squared_mean_distance(step.features("real")["flat"], step.features("syn")["flat"])
        assert torch.equal(loss.value(step), expected)
