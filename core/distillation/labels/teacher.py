"""Teacher labels: softmax outputs of a trained network, given anew to the images of each iteration (TESLA).

Cui et al., "Scaling Up Dataset Distillation to ImageNet-1K with Constant Memory", ICML 2023, arXiv:2211.10586: the teacher is
the expert of the iteration at the end of its piece, and the labels given last stay with the set. Without iterations, and
with `first` always, it is the first network of the pool, fully trained. Teachers look in evaluation mode.
Shapes: V virtual images of the whole set, U of an iteration, K classes.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from core.distillation.plan import Draw
from core.distillation.protocols import Parameterization, Weights
from core.experts import Pool
from core.networks.network import Forward, Tensors


class TeacherLabels:
    """(V, K) probabilities, given and never learned."""

    def __init__(self, teacher: Literal["drawn", "first"], pool: Pool, num_virtual: int) -> None:
        """Reserve the labels; a drawn teacher arrives with each iteration."""
        self._drawn = teacher == "drawn"
        self._pool = pool
        self._given = torch.zeros(num_virtual, pool.net.num_classes, device=pool.params.device)

    @torch.no_grad()
    def start(self, parameterization: Parameterization, generator: torch.Generator) -> None:
        """Let the first network label the set as it was filled."""
        index = parameterization.indices(Draw("all"), generator)
        self._give(index, self._pool.logits(0, parameterization.decode(index)[0]))

    @torch.no_grad()
    def observe(self, index: Tensor, images: Tensor, weights: Weights) -> None:
        """Label the images of an iteration anew."""
        if self._drawn:
            params = weights.params if weights.target is None else weights.target
            forward = Forward.on(images.device, weights.net, compile_passes=False)
            logits = forward(params, weights.buffers, images, ("logits",))["logits"]
        else:
            logits = self._pool.logits(0, images)
        self._give(index, logits)

    def _give(self, index: Tensor, logits: Tensor) -> None:
        self._given[index.to(logits.device)] = logits.softmax(1)

    def targets(self, index: Tensor, classes: Tensor) -> Tensor:
        """(U, K) float32 that add up to 1, without graph."""
        return self._given.index_select(0, index.to(self._given.device))

    def storage(self) -> dict[str, int]:
        """V x K."""
        return {"labels": self._given.numel()}

    def parameters(self) -> dict[str, list[Tensor]]:
        """Nothing is learned."""
        return {}

    def state(self) -> Tensors:
        """The labels given last."""
        return {"given": self._given}

    def load(self, state: Tensors) -> None:
        """Take the labels back."""
        self._given.copy_(state["given"])
