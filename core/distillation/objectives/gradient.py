"""Gradient matching: a network should get the same gradient from the synthetic images of a class as from its real ones.

Zhao et al., "Dataset Condensation with Gradient Matching" (DC), ICLR 2021, arXiv:2006.05929, eq. (8) and (9), as its
published code computes them; DSA (arXiv:2102.08259) is the same under siamese augmentation. `grouping` `summed` is Lee et
al., "Dataset Condensation with Contrastive Signals" (DCC, DSAC), ICML 2022, arXiv:2202.02916: the mean of the class gradients
is matched, after a warm-up. `squared`, `absolute`, `convolutions` and `feature_weight` are IDC's choices (arXiv:2205.14959).

With g the gradient of the mean cross-entropy of a group with respect to the network's weights, the real one a constant:

    row_cosine  sum over tensors and their rows of 1 - <g_S, g_R> / (|g_S| |g_R| + 1e-6)
    cosine      the same, the whole gradient being one row
    squared     sum of (g_S - g_R)^2            absolute    sum of |g_S - g_R|

The synthetic set learns through the second derivative. A class's real images count by their shares where the selection gives
any, and its synthetic labels may be soft. All classes are matched at once; the published code runs through them one by one.
Batch norms are frozen, as in DC's published code, at the running statistics after one training pass over 16 real images of
each class. Deviations: the pass starts from the network's own statistics each time and does not move them for later steps;
they are frozen with IDC's choices, too, whose code leaves them in training mode, except for its feature distance.
Shapes: G groups (classes, or one for all), K classes, P weights, R rows of E entries of a tensor.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from core.distillation.class_gradients import ClassGradients, Labelled
from core.distillation.objectives.mean_feature import TAP, squared_mean_distance
from core.distillation.plan import Draw, Plan
from core.distillation.protocols import Stateless, Weights
from core.distillation.step import Step
from core.networks.network import Network, Tensors
from core.specs.estimate.memory import graph_copies, weight_vectors_per_class
from core.specs.objective import GradientSpec

EPSILON = 1e-6
"""Added to the product of two norms."""

NORM_IMAGES = 16
"""Real images of each class in the pass that fixes batch norms."""

SMALLEST_DIMENSIONS = {"weights": 2, "convolutions": 4, "all": 1}
"""Of the tensors whose gradients count."""

DRAW = Draw()


class _Line(NamedTuple):
    """The distance of the mean gradients around the set as it is."""

    images: Tensor
    """Leaf of the iteration that it belongs to."""

    value: Tensor
    """()."""

    slope: Tensor
    """(1, P): derivative of the value with respect to the mean synthetic gradient."""


class Gradient(Stateless):
    """The matching loss of the DC and IDC families."""

    def __init__(self, spec: GradientSpec, net: Network) -> None:
        """Find the tensors that count.

        Raises:
            ValueError: the network has none of them.
        """
        self.weight = spec.weight
        self._spec = spec
        self._gradients = ClassGradients(net)
        self._distance = DISTANCES[spec.distance]
        self._line: _Line | None = None
        shapes = net.named(torch.empty(net.num_parameters, device="meta"))
        self._names = [name for name, value in shapes.items() if value.ndim >= SMALLEST_DIMENSIONS[spec.parameters]]
        if not self._names:
            raise ValueError(f"objective.parameters {spec.parameters!r} finds no tensor in network {net.name}")

    def plan(self) -> Plan:
        """All synthetic images, and real images of every class."""
        return Plan(
            syn=(DRAW,), real=Draw(), taps=(TAP,) if self._spec.feature_weight else (),
            graph_copies=graph_copies(self._spec), weight_vectors_per_class=weight_vectors_per_class(self._spec),
        )

    def value(self, step: Step) -> Tensor:
        """(K,) float32, >= 0; a scalar once gradients are summed. Up to 1e-6 in a norm, 0 where the gradients are equal."""
        norms, summed = frozen_norms(step), self._summed(step.weights)
        value = self._of_all(step, norms) if summed else self._compare(self._real(step, norms), self._syn(step, norms))
        if self._spec.feature_weight:
            features = squared_mean_distance(step.features("real")[TAP], step.features("syn", DRAW)[TAP], step.share)
            features = self._spec.feature_weight * features
            value = value + (features.sum() if summed else features)
        return value

    def update(self, step: Step) -> None:
        """Nothing follows an update."""

    def _of_all(self, step: Step, norms: Tensors) -> Tensor:
        """The distance of the mean gradients, (); from some classes of a step, their share of it and all of their gradient.

        The derivative of a function of a mean is linear in the parts of the mean, so that chunks of classes add up exactly.
        """
        syn, share = self._syn(step, norms, together=True), (step.stop - step.start) / step.data.num_classes
        if share == 1:
            return self._compare(self._real(step, norms, together=True), syn).sum()
        if self._line is None or self._line.images is not step.syn.images:
            self._line = self._linearised(step.whole(), norms)
        part = share * (syn * self._line.slope).sum()
        return part - part.detach() + share * self._line.value

    def _linearised(self, step: Step, norms: Tensors) -> _Line:
        with torch.no_grad():
            groups = Labelled.of(step.augmented("syn", DRAW), step.targets("syn", DRAW), None).together()
        syn = self._constant(step, norms, groups).requires_grad_()
        value = self._compare(self._real(step, norms, together=True), syn).sum()
        (slope,) = torch.autograd.grad(value, syn)
        return _Line(step.syn.images, value.detach(), slope)

    def _syn(self, step: Step, norms: Tensors, *, together: bool = False) -> Tensor:
        """(G, P) with graph to the set."""
        groups = Labelled.of(step.augmented("syn", DRAW), step.targets("syn", DRAW), None)
        return self._gradients(step.weights.params, norms, groups.together() if together else groups)

    def _real(self, step: Step, norms: Tensors, *, together: bool = False) -> Tensor:
        """(G, P) without graph."""
        groups = Labelled.of(step.augmented("real"), step.targets("real"), step.share)
        return self._constant(step, norms, groups.together() if together else groups)

    def _constant(self, step: Step, norms: Tensors, groups: Labelled) -> Tensor:
        return self._gradients.constant(step.weights.params, norms, groups, compiled=step.forward.compiled)

    def _compare(self, real: Tensor, syn: Tensor) -> Tensor:
        """Two (G, P) -> their distances, (G,)."""
        return self._distance(self._counted(real), self._counted(syn))

    def _summed(self, weights: Weights) -> bool:
        """Whether classes are matched together under this network; DCC warms up by matching them one by one."""
        spec = self._spec
        late = weights.index >= spec.summed_from_network or weights.age >= spec.summed_from_step
        return spec.grouping == "summed" and late

    def _counted(self, flat: Tensor) -> list[Tensor]:
        """(G, P) -> the gradients of the tensors that count, (G, ...) each."""
        named = torch.func.vmap(self._gradients.net.named)(flat)
        return [named[name] for name in self._names]


@torch.no_grad()
def frozen_norms(step: Step) -> Tensors:
    """Running statistics after one training pass over some real images of each class; empty without batch norms."""
    weights = step.weights
    if not weights.net.mixes_images:
        return {}
    images = step.data.gather(step.data.draw_per_class(NORM_IMAGES, step.rng("gradient/norms")).flatten())
    _, moved = weights.net.train_pass(weights.params, weights.buffers, images, (TAP,))
    return moved


def row_cosine(real: list[Tensor], syn: list[Tensor]) -> Tensor:
    """Lists of (G, R, ...) -> (G,): sum over rows of 1 - cosine, in [0, 2 R]."""
    return torch.stack([_cosine(a.flatten(2), b.flatten(2)).sum(1) for a, b in zip(real, syn, strict=True)]).sum(0)


def cosine(real: list[Tensor], syn: list[Tensor]) -> Tensor:
    """Lists of (G, ...) -> (G,): 1 - cosine of all entries, in [0, 2]."""
    a, b = (torch.cat([value.flatten(1) for value in side], 1) for side in (real, syn))
    return _cosine(a, b)


def squared(real: list[Tensor], syn: list[Tensor]) -> Tensor:
    """Lists of (G, ...) -> (G,): sum of squared differences."""
    return torch.stack([(a - b).square().flatten(1).sum(1) for a, b in zip(real, syn, strict=True)]).sum(0)


def absolute(real: list[Tensor], syn: list[Tensor]) -> Tensor:
    """Lists of (G, ...) -> (G,): sum of absolute differences."""
    return torch.stack([(a - b).abs().flatten(1).sum(1) for a, b in zip(real, syn, strict=True)]).sum(0)


def _cosine(a: Tensor, b: Tensor) -> Tensor:
    """(..., E) -> (...): 1 - cosine; the norm's derivative at 0 is 0."""
    norms: Tensor = a.norm(dim=-1) * b.norm(dim=-1)
    return 1.0 - (a * b).sum(-1) / (norms + EPSILON)


Distance = Callable[[list[Tensor], list[Tensor]], Tensor]
DISTANCES: dict[str, Distance] = {"row_cosine": row_cosine, "cosine": cosine, "squared": squared, "absolute": absolute}
