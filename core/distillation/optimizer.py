"""SGD with momentum on whatever the parts of a composition declare as learned.

v <- momentum v + g;  x <- x - lr v, without dampening and without Nesterov's correction. The update is masked on the
device, so that a non-finite gradient changes nothing and nobody has to wait for the answer.
"""

from __future__ import annotations

import torch
from torch import Tensor

from core.networks.network import Tensors
from core.specs.synthetic import SGDSpec


class SGD:
    """One joint step for all parameters."""

    def __init__(self, spec: SGDSpec, parameters: dict[str, list[Tensor]]) -> None:
        """Keep the parameters by kind; each kind has its learning rate and momentum."""
        rates = {
            "pixels": spec.lr_img, "bases": spec.lr_img, "hallucinators": spec.lr_hallucinator,
            "rate": spec.lr_rate, "labels": spec.lr_label,
        }
        momenta = {"labels": spec.label_momentum}
        self._milestones, self._decay = spec.milestones, spec.decay
        self._groups = {
            kind: (rates[kind], momenta.get(kind, spec.momentum), tensors) for kind, tensors in parameters.items()
        }
        self._velocity = {
            f"{kind}.{i}": torch.zeros_like(tensor) for kind, tensors in parameters.items() for i, tensor in enumerate(tensors)
        }

    def parameters(self) -> dict[str, list[Tensor]]:
        """It learns nothing itself."""
        return {}

    @torch.no_grad()
    def step(self, allowed: Tensor, progress: float) -> None:
        """Move every parameter that has a gradient, where allowed."""
        decay = self._decay ** sum(progress >= milestone for milestone in self._milestones)
        for kind, (base, momentum, tensors) in self._groups.items():
            rate = base * decay
            for i, tensor in enumerate(tensors):
                if tensor.grad is None:
                    continue
                velocity = self._velocity[f"{kind}.{i}"]
                moved = velocity * momentum + tensor.grad
                velocity.copy_(torch.where(allowed, moved, velocity))
                tensor.copy_(torch.where(allowed, tensor - rate * moved, tensor))

    def state(self) -> Tensors:
        """Velocities."""
        return dict(self._velocity)

    def load(self, state: Tensors) -> None:
        """Take the velocities back."""
        for name, tensor in self._velocity.items():
            tensor.copy_(state[name])
