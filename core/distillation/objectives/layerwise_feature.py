"""CAFE, first loss: match the class means of the features after every block.

Wang et al., "CAFE: Learning to Condense Dataset by Aligning Features", CVPR 2022, arXiv:2203.01531, as its published code
computes it: sum over layers of weight times |mean r - mean s|^2, summed over all entries of the layer and over classes. The
layers are each block's activation before its pool, and the flat output of the last pool, which the code counts twice.

Deviations: any number of blocks, where the code has three. The second loss of the paper is the term `class_discriminative`,
its nested loops are the models kind `dynamic_bilevel`; its cross-entropy of real images moves no synthetic pixel and is left
out.
Shapes: K classes, N real and M synthetic images per class, C channels, h w positions, D features.
"""

from __future__ import annotations

from collections.abc import Mapping
from itertools import count, takewhile

from torch import Tensor

from core.distillation.objectives.mean_feature import TAP, squared_mean_distance
from core.distillation.plan import Draw, Plan
from core.distillation.protocols import Stateless
from core.distillation.step import Step
from core.networks.network import Network, Tensors
from core.specs.objective import LayerwiseFeatureSpec


class LayerwiseFeature(Stateless):
    """The DM loss on every layer."""

    def __init__(self, spec: LayerwiseFeatureSpec, net: Network) -> None:
        self.weight = spec.weight
        self._weights = layer_weights(spec, net)

    def plan(self) -> Plan:
        """All synthetic images, and real images of every class."""
        return Plan(real=Draw(), taps=tuple(self._weights))

    def value(self, step: Step) -> Tensor:
        """(K,) float32, >= 0, in squared feature units; 0 where the class means of all layers are equal."""
        return weighted_distance(step.features("real"), step.features("syn"), self._weights, step.share)

    def update(self, step: Step) -> None:
        """Nothing follows an update."""


def layer_weights(spec: LayerwiseFeatureSpec, net: Network) -> dict[str, float]:
    """Taps and their factors: a deeper network repeats the last factor, a shallower one leaves the rest unused.

    Activations that count nothing are left out, for they are large; the flat output always stays.
    """
    blocks = list(takewhile(net.taps.__contains__, (f"activation{number}" for number in count(1))))
    given = spec.layer_weights
    factors = (*given, *(given[-1:] * len(blocks)))[: len(blocks)]
    return {tap: factor for tap, factor in zip(blocks, factors, strict=True) if factor} | {TAP: spec.flat_weight}


def weighted_distance(real: Tensors, syn: Tensors, weights: Mapping[str, float], share: Tensor | None = None) -> Tensor:
    """(K, N, ...) and (K, M, ...) of every tap -> (K,): weighted sum of the squared distances of class means."""
    distances = [weight * squared_mean_distance(real[tap], syn[tap], share) for tap, weight in weights.items()]
    return sum(distances[1:], distances[0])
