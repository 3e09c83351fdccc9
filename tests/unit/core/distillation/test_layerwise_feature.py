from __future__ import annotations

import pytest
import torch
from pydantic import ValidationError

from core.data.real_set import RealSet
from core.distillation.objectives.layerwise_feature import LayerwiseFeature, layer_weights, weighted_distance
from core.specs.objective import LayerwiseFeatureSpec
from tests.unit.core.distillation.steps import small_net, step_for

pytestmark = pytest.mark.unit


class TestWeights:
    def test_refuses_a_loss_that_counts_nothing(self) -> None:
        with pytest.raises(ValidationError, match="must not all be 0"):
            LayerwiseFeatureSpec(layer_weights=(0.0,), flat_weight=0.0)

    @pytest.mark.parametrize(
        ("given", "depth", "expected"),
        [
            ((0.1, 0.1, 1.0), 3, {"activation1": 0.1, "activation2": 0.1, "activation3": 1.0, "flat": 2.0}),
            ((0.1, 0.5, 1.0), 2, {"activation1": 0.1, "activation2": 0.5, "flat": 2.0}),
            ((0.1, 1.0), 3, {"activation1": 0.1, "activation2": 1.0, "activation3": 1.0, "flat": 2.0}),
            ((0.0, 1.0), 2, {"activation2": 1.0, "flat": 2.0}),
        ],
    )
    def test_follow_the_depth(
        self, digits: RealSet, given: tuple[float, ...], depth: int, expected: dict[str, float]
    ) -> None:
        assert layer_weights(LayerwiseFeatureSpec(layer_weights=given), small_net(digits, depth)) == expected


class TestDistance:
    def test_by_hand(self) -> None:
        real = {"a": torch.tensor([[[[1.0]], [[3.0]]]]), "flat": torch.tensor([[[4.0, 0.0]]])}
        syn = {"a": torch.tensor([[[[5.0]]]]), "flat": torch.tensor([[[1.0, 1.0]]])}
        assert weighted_distance(real, syn, {"a": 0.5, "flat": 2.0}).tolist() == [0.5 * 9 + 2 * 10]

    def test_gradcheck(self) -> None:
        shapes = {"a": (2, 3, 2, 2), "flat": (2, 3, 4)}
        real = {tap: torch.randn(2, *shape[1:], dtype=torch.float64) for tap, shape in shapes.items()}
        share = torch.tensor([[0.2, 0.5, 0.3], [1.0, 0.0, 0.0]], dtype=torch.float64)
        syn = [torch.randn(shape, dtype=torch.float64, requires_grad=True) for shape in shapes.values()]
        assert torch.autograd.gradcheck(
            lambda a, flat: weighted_distance(real, {"a": a, "flat": flat}, {"a": 0.1, "flat": 2.0}, share), syn
        )


def test_value_equals_a_loop_over_layers_and_classes(digits: RealSet) -> None:
    net = small_net(digits)
    loss = LayerwiseFeature(LayerwiseFeatureSpec(layer_weights=(0.1, 1.0)), net)
    step = step_for([loss], digits, net=net)
    params, found = step.weights.params.double(), loss.value(step).detach().double()
    for label in range(digits.num_classes):
        sides = [step.images(side, step.plan.syn[0])[label].detach().double() for side in ("real", "syn")]
        real, syn = (net(params, {}, side, ("activation1", "activation2", "block2")) for side in sides)
        expected = sum(
            weight * ((sum(real[tap]) / len(real[tap]) - sum(syn[tap]) / len(syn[tap])) ** 2).sum()
            for tap, weight in (("activation1", 0.1), ("activation2", 1.0), ("block2", 1.0), ("block2", 1.0))
        )
        assert found[label].item() == pytest.approx(float(expected), rel=1e-5)
