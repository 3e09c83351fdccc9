from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch

from core.data.real_set import RealSet
from core.distillation.terms.classification_regulariser import ClassificationRegulariser, mean_cross_entropy
from core.errors import InvalidInputError
from core.specs.terms import ClassificationRegulariserSpec
from tests.unit.core.distillation.steps import NUM_CLASSES, step_for

pytestmark = pytest.mark.unit


def term() -> ClassificationRegulariser:
    return ClassificationRegulariser(ClassificationRegulariserSpec())


class TestValue:
    def test_refuses_networks_of_unknown_accuracy(self, digits: RealSet) -> None:
        loss = term()
        with pytest.raises(InvalidInputError, match="accuracy"):
            loss.value(step_for([loss], digits))

    def test_is_accuracy_times_cross_entropy(self, digits: RealSet) -> None:
        loss = term()
        step = step_for([loss], digits, accuracy=0.25)
        logits = step.features("syn")["logits"].detach().double().log_softmax(2)
        expected = torch.stack([-0.25 * rows[:, label].mean() for label, rows in enumerate(logits)])
        torch.testing.assert_close(loss.value(step).detach().double(), expected, rtol=1e-5, atol=0)

    def test_a_useless_network_counts_nothing(self, digits: RealSet) -> None:
        loss = term()
        step = step_for([loss], digits, accuracy=0.0)
        loss.value(step).sum().backward()
        assert step.syn.images.grad is not None
        assert not step.syn.images.grad.any()

    def test_reads_labels_through_the_rows_of_the_draw(self, digits: RealSet) -> None:
        """The same images in another order give the same value; labels that do not belong to the rows would not."""
        loss = term()
        step = step_for([loss], digits, accuracy=1.0)
        expected = loss.value(step)
        order = torch.randperm(len(step.syn.images), generator=torch.Generator().manual_seed(0))
        rows = order.argsort().view(NUM_CLASSES, -1)
        syn = replace(
            step.syn, images=step.syn.images.detach()[order], labels=step.syn.labels[order], classes=step.syn.classes[order],
            rows=(rows,),
        )
        torch.testing.assert_close(loss.value(step_for([loss], digits, accuracy=1.0, syn=syn)), expected)

    def test_soft_labels_count_every_class(self, digits: RealSet) -> None:
        loss = term()
        step = step_for([loss], digits, accuracy=1.0)
        hard = loss.value(step)
        soft = torch.nn.functional.one_hot(step.syn.labels, NUM_CLASSES).float().requires_grad_()
        value = loss.value(step_for([loss], digits, accuracy=1.0, syn=replace(step.syn, labels=soft)))
        torch.testing.assert_close(value, hard)
        value.sum().backward()
        assert soft.grad is not None
        assert soft.grad.any()


class TestCrossEntropy:
    def test_by_hand(self) -> None:
        logits, labels = torch.tensor([[[0.0, 0.0], [0.0, math.log(3)]]]), torch.tensor([[0, 1]])
        assert mean_cross_entropy(logits, labels).item() == pytest.approx((math.log(2) + math.log(4 / 3)) / 2)

    def test_gradcheck(self) -> None:
        logits = torch.randn(2, 3, 4, dtype=torch.float64, requires_grad=True)
        soft = torch.rand(2, 3, 4, dtype=torch.float64).softmax(2).requires_grad_()
        assert torch.autograd.gradcheck(mean_cross_entropy, (logits, soft))
        assert torch.autograd.gradcheck(lambda x: mean_cross_entropy(x, torch.tensor([[0, 1, 3], [2, 2, 0]])), (logits,))
