"""Representative selection: real images near the centres of feature clusters, kept for some iterations.

Liu et al., "DREAM: Efficient Dataset Distillation by Representative Matching", ICCV 2023, arXiv:2302.14416. Every
`refresh_every` iterations the images of each class are clustered by their features under the network of that iteration, in
evaluation mode and without augmentation, and the image nearest to each centre is taken. Deviations: two centres never choose
the same image; images are normalised, where the published code feeds pixels in [0, 1]; optionally an image stands for
its cluster's share of the class, because the plain mean of the chosen images is not the mean of the class.
Shapes: K classes, N images per class and iteration.
"""

from __future__ import annotations

import torch
from torch import Tensor

from core.data.real_set import RealSet
from core.distillation.clustering import representatives
from core.distillation.embedding import Embedding, members
from core.distillation.plan import Draw
from core.distillation.randomness import rng
from core.distillation.selection.uniform import Uniform
from core.distillation.step import Step
from core.networks.network import Forward, Tensors
from core.specs.selection import RepresentativeSpec, UniformSpec


class Representative:
    """Keeps what it chose: the network that chose may be gone when a run is resumed."""

    def __init__(self, spec: RepresentativeSpec, data: RealSet, seed: int) -> None:
        """Choose nothing yet; draws without classes are answered uniformly."""
        self._data, self._seed = data, seed
        self._refresh_every, self._num_candidates = spec.refresh_every, spec.num_candidates
        self._weighted = spec.weighting == "cluster_size"
        self._uniform = Uniform(UniformSpec(real_batch_per_class=spec.real_batch_per_class), data, seed)
        self._chosen: Tensors = {}
        self._chosen_at: int | None = None

    def count(self, draw: Draw) -> int:
        """Images of one iteration."""
        return self._uniform.count(draw)

    def pick(self, draw: Draw, step: Step) -> tuple[Tensor, Tensor | None]:
        """(K, N) int64 positions on the CPU, all different, and (K, N) shares or None.

        At a refresh every class is embedded and clustered, and the host waits for the device.
        """
        if draw.kind != "per_class":
            return self._uniform.pick(draw, step)
        done = step.number == self._chosen_at  # an iteration may be tried before it runs
        if not self._chosen or (step.number % self._refresh_every == 0 and not done):
            self._refresh(step, self.count(draw) // self._data.num_classes)
        return self._chosen["positions"], self._chosen.get("shares")

    def _refresh(self, step: Step, per_class: int) -> None:
        candidates = members(self._data)
        if self._num_candidates:
            generator = rng(self._seed, "candidates", step.number)
            wanted = max(self._num_candidates, per_class)
            candidates = [c[torch.randperm(len(c), generator=generator)[:wanted]] for c in candidates]
        features = map(self._embedding(step).features, candidates)
        found = representatives(features, per_class, rng(self._seed, "clusters", step.number))
        rows = found.rows.cpu()
        self._chosen_at = step.number
        self._chosen = {"positions": torch.stack([c[r] for c, r in zip(candidates, rows, strict=True)])}
        if self._weighted:
            self._chosen["shares"] = found.shares

    def _embedding(self, step: Step) -> Embedding:
        net, weights, device = step.forward.net, step.weights, self._data.device
        if not step.forward.mixes_images:
            return Embedding(step.forward, weights.params, weights.buffers, self._data)
        forward = Forward.on(device, net, compile_passes=False)
        return Embedding(forward, weights.params, weights.buffers or net.init_buffers(device), self._data)

    def warning(self) -> str:
        """What the user should know about clipping; empty when nothing was clipped."""
        return self._uniform.warning()

    def parameters(self) -> dict[str, list[Tensor]]:
        """None."""
        return {}

    def state(self) -> Tensors:
        """What was chosen at the last refresh; empty before the first."""
        return dict(self._chosen)

    def load(self, state: Tensors) -> None:
        """Take the choice back."""
        self._chosen, self._chosen_at = dict(state), None
        if state:
            self._chosen["positions"] = state["positions"].cpu()
