"""Learned labels: logits of each virtual image, whose softmax is what a network is asked to answer (DATM).

Guo et al., "Towards Lossless Dataset Distillation via Difficulty-Aligned Trajectory Matching", ICLR 2024, arXiv:2310.05773,
as its published code has it: the logits of an image start as the mean over those experts, fully trained, that label it
rightly. Where none does, the mean over all (the published start never chooses such an image).
Shapes: V virtual images of the whole set, U of an iteration, K classes.
"""

from __future__ import annotations

import torch
from torch import Tensor

from core.distillation.plan import Draw
from core.distillation.protocols import Parameterization, Weights
from core.experts import Pool
from core.networks.network import Tensors


class LearnedLabels:
    """(V, K) logits, learned by the main optimizer as `labels`."""

    def __init__(self, pool: Pool, num_virtual: int) -> None:
        """Reserve the logits; `pool` says where they start."""
        self._pool = pool
        self._logits = torch.zeros(num_virtual, pool.net.num_classes, device=pool.params.device, requires_grad=True)

    @torch.no_grad()
    def start(self, parameterization: Parameterization, generator: torch.Generator) -> None:
        """Let the experts look at the set as it was filled."""
        index = parameterization.indices(Draw("all"), generator)
        images, classes = parameterization.decode(index)
        total, chosen = torch.zeros_like(self._logits), torch.zeros_like(self._logits)
        count = torch.zeros(len(index), 1, device=images.device)
        for expert in range(len(self._pool.params)):
            logits = self._pool.logits(expert, images)
            right = (logits.argmax(1) == classes)[:, None]
            total, chosen, count = total + logits, chosen + logits * right, count + right
        mean = torch.where(count > 0, chosen / count.clamp(min=1.0), total / len(self._pool.params))
        self._logits[index.to(images.device)] = mean

    def observe(self, index: Tensor, images: Tensor, weights: Weights) -> None:
        """They are learned and do not look."""

    def targets(self, index: Tensor, classes: Tensor) -> Tensor:
        """(U, K) float32 that add up to 1, with graph to the logits."""
        return self._logits.index_select(0, index.to(self._logits.device)).softmax(1)

    def storage(self) -> dict[str, int]:
        """V x K."""
        return {"labels": self._logits.numel()}

    def parameters(self) -> dict[str, list[Tensor]]:
        """The logits."""
        return {"labels": [self._logits]}

    def state(self) -> Tensors:
        """The logits."""
        return {"logits": self._logits.detach()}

    @torch.no_grad()
    def load(self, state: Tensors) -> None:
        """Take the logits back."""
        self._logits.copy_(state["logits"])
