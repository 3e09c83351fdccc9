"""IID's covariance term against a loop over images and positions, in float64."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from core.distillation.terms.local_covariance import channel_covariance, squared_covariance_distance

pytestmark = pytest.mark.unit


def doubles(*shape: int) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64)


def naive(maps: Tensor, share: Tensor | None) -> Tensor:
    """(N, C, h, w) of one class: every position of every image adds the product of its centred channels."""
    weights = [1 / len(maps)] * len(maps) if share is None else share.tolist()
    mean = sum(w * image for w, image in zip(weights, maps, strict=True))
    total = torch.zeros(maps.shape[1], maps.shape[1], dtype=maps.dtype)
    for weight, image in zip(weights, maps - mean, strict=True):
        for row in range(maps.shape[2]):
            for column in range(maps.shape[3]):
                total = total + weight * torch.outer(image[:, row, column], image[:, row, column])
    return total


def test_by_hand() -> None:
    """Two images, one channel, two positions: deviations -1, 1 and -2, 2 add up to (1 + 1) / 2 + (4 + 4) / 2."""
    maps = torch.tensor([[[[[0.0, 5.0]]], [[[2.0, 1.0]]]]])
    assert channel_covariance(maps).tolist() == [[[5.0]]]
    assert squared_covariance_distance(maps, 2 * maps).tolist() == [225.0]


@pytest.mark.parametrize("weighted", [True, False])
def test_equals_a_loop_over_positions(weighted: bool) -> None:
    real, syn = doubles(3, 5, 4, 2, 3), doubles(3, 2, 4, 2, 3)
    share = doubles(3, 5).softmax(1) if weighted else None
    found = squared_covariance_distance(real, syn, share)
    for label in range(3):
        a, b = naive(real[label], None if share is None else share[label]), naive(syn[label], None)
        assert found[label].item() == pytest.approx(((a - b) ** 2).sum().item(), rel=1e-12)


def test_gradcheck() -> None:
    real, syn, share = doubles(2, 3, 2, 2, 1), doubles(2, 2, 2, 2, 1).requires_grad_(), doubles(2, 3).softmax(1)
    assert torch.autograd.gradcheck(lambda s: squared_covariance_distance(real, s, share), (syn,))


def test_equal_shares_change_nothing() -> None:
    real, syn = doubles(2, 4, 3, 2, 2), doubles(2, 3, 3, 2, 2)
    share = torch.full((2, 4), 0.25, dtype=torch.float64)
    torch.testing.assert_close(squared_covariance_distance(real, syn, share), squared_covariance_distance(real, syn))


def test_is_zero_for_equal_sets_and_under_a_shift_of_positions() -> None:
    real = doubles(2, 4, 3, 2, 2)
    assert squared_covariance_distance(real, real).tolist() == [0.0, 0.0]
    assert squared_covariance_distance(real, real + doubles(1, 1, 3, 2, 2)).max() < 1e-20


def test_one_synthetic_image_has_exactly_no_gradient() -> None:
    real, syn = torch.randn(2, 4, 3, 2, 2), torch.randn(2, 1, 3, 2, 2, requires_grad=True)
    value = squared_covariance_distance(real, syn)
    (gradient,) = torch.autograd.grad(value.sum(), syn)
    assert (value > 0).all()
    assert not gradient.any()


def test_half_precision_is_widened_first() -> None:
    maps = torch.randn(2, 4, 3, 2, 2).half() * 300
    found = channel_covariance(maps)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found.double(), channel_covariance(maps.double()), rtol=1e-5, atol=1e-1)
