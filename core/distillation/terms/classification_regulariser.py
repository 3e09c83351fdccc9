"""IDM's regulariser: the synthetic images must be classified well by the matching network, the more the better it is.

Zhao et al., "Improved Distribution Matching for Dataset Condensation", CVPR 2023, arXiv:2307.09742, as its published code
computes it: accuracy of the network times the mean cross-entropy of a class's decoded, augmented images, summed over classes.

Deviation: accuracy is a fraction, the published code has per cent; the default weight of the specification makes up for it.
Shapes: K classes, M synthetic images per class.
"""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional as F

from core.distillation.moments import widened
from core.distillation.plan import Draw, Plan
from core.distillation.protocols import Stateless
from core.distillation.step import Step
from core.errors import InvalidInputError
from core.specs.terms import ClassificationRegulariserSpec

TAP = "logits"
DRAW = Draw()


class ClassificationRegulariser(Stateless):
    """Cross-entropy of the synthetic images under the matching network."""

    def __init__(self, spec: ClassificationRegulariserSpec) -> None:
        self.weight = spec.weight

    def plan(self) -> Plan:
        """All synthetic images."""
        return Plan(syn=(DRAW,), taps=(TAP,))

    def value(self, step: Step) -> Tensor:
        """(K,) float32, >= 0, in nats; labels that are learned get a gradient too.

        Raises:
            InvalidInputError: the source of networks does not know their accuracy.
        """
        accuracy = step.weights.accuracy
        if accuracy is None:
            raise InvalidInputError(
                "term 'classification_regulariser' weighs the loss by the accuracy of the network, which this slot 'models' "
                "does not tell"
            )
        return accuracy * mean_cross_entropy(step.features("syn", DRAW)[TAP], step.targets("syn", DRAW))

    def update(self, step: Step) -> None:
        """Nothing follows an update."""


def mean_cross_entropy(logits: Tensor, labels: Tensor) -> Tensor:
    """(K, M, K) logits and (K, M) int64 or (K, M, K) float labels -> (K,), the mean over the images of each class."""
    losses = F.cross_entropy(widened(logits).flatten(0, 1), labels.flatten(0, 1), reduction="none")
    return losses.view(logits.shape[:2]).mean(1)
