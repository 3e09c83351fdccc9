"""MIM4DD: synthetic and real images of one class must be told from all other pairs by their features, layer by layer.

Shang et al., "MIM4DD: Mutual Information Maximization for Dataset Distillation", NeurIPS 2023, arXiv:2312.16627, eqs.
(2.15)-(2.17). s_ij = <g(a_i), g(a_j)> / temperature for synthetic i and real j; NCE = sum over all pairs of the binary
cross-entropy of s_ij against "same class", over the number of positive pairs, which for classes of equal size is the negative
of the printed J; summed over layers with factors beta^(k - K + 1).

The text leaves open, and this decides: features are the means over positions of the blocks' outputs, taken before the
classifier (one layer where a network has no blocks, its last features where it has no map); each layer has its own linear
head, drawn as PyTorch draws linear layers; embeddings have unit length; both sides see the iteration's network; heads are
trained jointly, on the features that moved the set, by one step of Adam (0.9, 0.999, 1e-8) after each update.

Deviations: real images are constant for the set's side, as first-order matching makes them; a real image with share w counts
N w times.
Shapes: K classes, M synthetic and N real images per class, D features, E embedding width, P weights of all heads.
"""

from __future__ import annotations

import math
from itertools import count, takewhile

import torch
from torch import Tensor
from torch.nn import functional as F

from core.distillation.moments import image_weights, widened
from core.distillation.plan import Draw, Plan
from core.distillation.randomness import rng
from core.distillation.step import Step
from core.networks.network import Network, Tensors
from core.specs.terms import MutualInformationSpec

DRAW = Draw()
ENTRIES_PER_PAIR = 2
"""Of each layer: the score, and its cross-entropy as a negative."""

BETA1, BETA2, EPSILON = 0.9, 0.999, 1e-8


class MutualInformation:
    """Contrast of every synthetic with every real image, under heads that learn."""

    def __init__(self, spec: MutualInformationSpec, net: Network, seed: int, device: torch.device) -> None:
        """Draw a head for each layer of the matching network, on the CPU, so that every device starts from the same."""
        self.weight = spec.weight
        self._temperature, self._rate = spec.temperature, spec.lr_head
        self._layers = layers(net)
        self._factors = [spec.layer_base ** (k + 1 - len(self._layers)) for k in range(1, len(self._layers) + 1)]
        self._shapes = [(spec.embedding_width, net.num_entries((layer,))) for layer in self._layers]
        generator = rng(seed, "mutual_information/heads")
        self._heads = torch.cat([
            (2.0 * torch.rand(width * (features + 1), generator=generator) - 1.0) / math.sqrt(features)
            for width, features in self._shapes
        ]).to(device)
        self._mean, self._square = torch.zeros_like(self._heads), torch.zeros_like(self._heads)
        self._num_steps = torch.zeros((), device=device)

    def plan(self) -> Plan:
        """All synthetic and all real images of the iteration at once, for every class is told from all others."""
        entries = ENTRIES_PER_PAIR * len(self._layers)
        return Plan(syn=(DRAW,), real=Draw(), taps=self._layers, separable=False, entries_per_pair=entries)

    def value(self, step: Step) -> Tensor:
        """() float32, >= 0, in nats for each positive pair, summed over the weighted layers; heads are constant."""
        return self._contrast(self._heads, step.features("syn", DRAW), step.features("real"), step.share)

    def update(self, step: Step) -> None:
        """One step of Adam for the heads, on the features of this iteration."""
        heads = self._heads.clone().requires_grad_()
        syn = {layer: step.features("syn", DRAW)[layer].detach() for layer in self._layers}
        loss = self._contrast(heads, syn, step.features("real"), step.share)
        (gradient,) = torch.autograd.grad(loss, heads)
        self._num_steps = self._num_steps + 1.0
        self._mean = torch.lerp(gradient, self._mean, BETA1)
        self._square = torch.lerp(gradient.square(), self._square, BETA2)
        mean, square = self._mean / (1.0 - BETA1**self._num_steps), self._square / (1.0 - BETA2**self._num_steps)
        self._heads = self._heads - self._rate * mean / (square.sqrt() + EPSILON)

    def _contrast(self, heads: Tensor, syn: Tensors, real: Tensors, share: Tensor | None) -> Tensor:
        parts = heads.split([width * (features + 1) for width, features in self._shapes])
        total = heads.new_zeros(())
        for layer, factor, part, (width, features) in zip(self._layers, self._factors, parts, self._shapes, strict=True):
            matrix, bias = part[: width * features].view(width, features), part[width * features :]
            ours, theirs = (F.normalize(F.linear(widened(side[layer]), matrix, bias), dim=2) for side in (syn, real))
            total = total + factor * contrast(ours, theirs, self._temperature, share)
        return total

    def parameters(self) -> dict[str, list[Tensor]]:
        """None; the heads have an optimizer of their own."""
        return {}

    def state(self) -> Tensors:
        """Heads, and the moments of their optimizer."""
        return {"heads": self._heads, "mean": self._mean, "square": self._square, "num_steps": self._num_steps}

    def load(self, state: Tensors) -> None:
        """Take them back."""
        self._heads, self._mean = state["heads"], state["mean"]
        self._square, self._num_steps = state["square"], state["num_steps"]


def layers(net: Network) -> tuple[str, ...]:
    """What is contrasted in a network: the means over positions of its blocks, shallow to deep, or its last features."""
    return tuple(takewhile(net.taps.__contains__, (f"pooled{number}" for number in count(1)))) or ("flat",)


def contrast(syn: Tensor, real: Tensor, temperature: float, share: Tensor | None = None) -> Tensor:
    """Binary cross-entropy of all pairs, summed, over the number of positive pairs.

    Args:
        syn: (K, M, E) embeddings.
        real: (K, N, E) embeddings.
        temperature: divides the inner products.
        share: (K, N), share of each real image in its class; it then counts N share times.

    Returns:
        () of the embeddings' type, >= 0. As the cross-entropy of s is softplus(s) - s where a pair is positive and
        softplus(s) where not, no matrix of labels is made.
    """
    scores = torch.einsum("kme,lne->kmln", syn, real) / temperature
    weights = image_weights(real, share)  # (K, N), adding up to 1 in each class
    positive = torch.einsum("kmkn,kn->", scores, weights)
    return (torch.einsum("kmln,ln->", F.softplus(scores), weights) - positive) / (syn.shape[0] * syn.shape[1])
