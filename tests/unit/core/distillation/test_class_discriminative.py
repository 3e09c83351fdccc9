from __future__ import annotations

import math

import pytest
import torch

from core.data.real_set import RealSet
from core.distillation.terms.class_discriminative import ClassDiscriminative, summed_cross_entropy
from core.specs.terms import ClassDiscriminativeSpec
from tests.unit.core.distillation.steps import NUM_CLASSES, NUM_REAL, step_for

pytestmark = pytest.mark.unit


def test_by_hand() -> None:
    """Class means (1, 0) and (0, 2): logits of the four real images are (1, 0), (0, 0), (0, 2) and (3, 0)."""
    syn = torch.tensor([[[0.0, 0.0], [2.0, 0.0]], [[0.0, 1.0], [0.0, 3.0]]])
    real = torch.tensor([[[1.0, 0.0], [0.0, 0.0]], [[0.0, 1.0], [3.0, 0.0]]])
    expected = [math.log(1 + math.exp(-1)) + math.log(2), math.log(1 + math.exp(-2)) + math.log(1 + math.exp(3))]
    torch.testing.assert_close(summed_cross_entropy(real, syn), torch.tensor(expected))


def test_equals_a_loop_over_images() -> None:
    real, syn = torch.randn(3, 4, 5, dtype=torch.float64), torch.randn(3, 2, 5, dtype=torch.float64)
    share = torch.randn(3, 4, dtype=torch.float64).softmax(1)
    means = [images.sum(0) / len(images) for images in syn]
    for shares in (None, share):
        found = summed_cross_entropy(real, syn, shares)
        for label, images in enumerate(real):
            total = 0.0
            for number, image in enumerate(images):
                logits = [float(image @ mean) for mean in means]
                times = 1.0 if shares is None else 4 * float(shares[label, number])
                total += times * (math.log(sum(math.exp(x) for x in logits)) - logits[label])
            assert found[label].item() == pytest.approx(total, rel=1e-12)


def test_gradcheck() -> None:
    real, syn = torch.randn(3, 4, 2, dtype=torch.float64), torch.randn(3, 2, 2, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda s: summed_cross_entropy(real, s), (syn,))


def test_large_logits_stay_finite() -> None:
    real, syn = torch.full((2, 3, 4), 100.0), torch.randn(2, 2, 4, requires_grad=True)
    value = summed_cross_entropy(real, syn * 1e3)
    value.sum().backward()
    assert value.isfinite().all()
    assert syn.grad is not None
    assert syn.grad.isfinite().all()


def test_classes_stay_together(digits: RealSet) -> None:
    loss = ClassDiscriminative(ClassDiscriminativeSpec())
    step = step_for([loss], digits)
    assert [(chunk.start, chunk.stop) for chunk in step.chunks(1)] == [(0, NUM_CLASSES)]
    value = loss.value(step)
    real, syn = step.features("real")["flat"], step.features("syn")["flat"].mean(1)
    labels = torch.arange(NUM_CLASSES).repeat_interleave(NUM_REAL)
    expected = torch.nn.functional.cross_entropy(real.flatten(0, 1) @ syn.T, labels, reduction="sum")
    torch.testing.assert_close(value.sum(), expected)
