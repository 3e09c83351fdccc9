"""Networks that are drawn, used for a few iterations, and never trained (DM, arXiv:2110.04181)."""

from __future__ import annotations

import torch

from core.distillation.protocols import Stateless, Weights
from core.distillation.randomness import rng
from core.distillation.step import Step
from core.networks.network import Network
from core.specs.models import FreshRandomSpec


class FreshRandom(Stateless):
    """Network number n // iterations_per_network serves iteration n; a resumed run draws it again."""

    def __init__(self, spec: FreshRandomSpec, net: Network, seed: int, device: torch.device) -> None:
        self._period = spec.iterations_per_network
        self._net = net
        self._seed = seed
        self._device = device
        self._current: Weights | None = None

    def next(self, number: int) -> Weights:
        """The network of iteration `number`."""
        index, age = divmod(number, self._period)
        if self._current is None or self._current.index != index:
            params = self._net.init(rng(self._seed, "network", index, self._device))
        else:
            params = self._current.params
        self._current = Weights(self._net, params, index=index, age=age)
        return self._current

    def networks_done(self) -> int:
        """Networks before the current one."""
        return 0 if self._current is None else self._current.index

    def advance(self, step: Step) -> None:
        """It never moves."""
