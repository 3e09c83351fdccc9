from __future__ import annotations

import pytest
import torch

from core.distillation.moments import centred, class_mean, image_weights

pytestmark = pytest.mark.unit


class TestMean:
    def test_by_hand(self) -> None:
        features = torch.tensor([[[0.0, 4.0], [8.0, 0.0]]])
        assert class_mean(features).tolist() == [[4.0, 2.0]]
        assert class_mean(features, torch.tensor([[0.25, 0.75]])).tolist() == [[6.0, 1.0]]

    def test_shares_count_like_repeated_images(self) -> None:
        features = torch.randn(2, 3, 4, 2, 2, dtype=torch.float64)
        repeated = features[:, [0, 0, 0, 1, 2, 2]]
        share = torch.tensor([[3.0, 1.0, 2.0]]).expand(2, 3) / 6
        torch.testing.assert_close(class_mean(features, share.double()), class_mean(repeated))

    @pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
    def test_half_precision_is_widened_first(self, dtype: torch.dtype) -> None:
        features = torch.full((1, 4096, 1), 0.5, dtype=dtype)
        features[0, 0] = 1.0
        assert class_mean(features).dtype == torch.float32
        assert class_mean(features).item() == 0.5 + 0.5 / 4096
        share = torch.full((1, 4096), 1 / 4096)
        assert class_mean(features, share).item() == pytest.approx(0.5 + 0.5 / 4096, rel=1e-6)


class TestCentred:
    def test_mean_is_zero(self) -> None:
        features, share = torch.randn(3, 5, 2, dtype=torch.float64), torch.rand(3, 5, dtype=torch.float64).softmax(1)
        assert class_mean(centred(features)).abs().max() < 1e-15
        assert class_mean(centred(features, share), share).abs().max() < 1e-15

    def test_one_image_leaves_exactly_nothing(self) -> None:
        features = torch.randn(4, 1, 7)
        assert not centred(features).any()
        assert not centred(features, torch.ones(4, 1)).any()


def test_weights_add_up() -> None:
    features = torch.randn(2, 4, 3)
    assert image_weights(features).tolist() == [[0.25] * 4] * 2
    assert image_weights(features.double(), torch.eye(4)[:2]).dtype == torch.float64
