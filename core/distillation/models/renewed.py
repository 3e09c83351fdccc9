"""A network serves a fixed number of matching steps, is trained between them, and is then replaced by a fresh one.

What it is trained on is a part of its own: `trained_on_synthetic.py` (DC family) or `trained_on_real.py` (IDC family). It is
not trained after its last step, where the published code of IDC does so in vain.
"""

from __future__ import annotations

from typing import Protocol

import torch

from core.distillation.protocols import Stateless, Weights
from core.distillation.step import Step
from core.networks.network import Network, Tensors
from core.training import TrainState


class Training(Protocol):
    """How a network begins and what happens to it between two matching steps."""

    def start(self, index: int) -> TrainState:
        """Network number `index` before its first matching step."""
        ...

    def train(self, state: TrainState, step: Step) -> TrainState:
        """The network after the training that follows a matching step."""
        ...


class Renewed(Stateless):
    """Network number n // steps_per_network serves iteration n."""

    def __init__(self, net: Network, training: Training, steps_per_network: int) -> None:
        """Draw nothing yet: a resumed run may not need the first network."""
        self._net, self._training, self._period = net, training, steps_per_network
        self._index, self._age = -1, steps_per_network
        self._state: TrainState | None = None

    def next(self, number: int) -> Weights:
        """The network of iteration `number`, started if it is its first."""
        index = number // self._period
        if index != self._index:
            self._index, self._age, self._state = index, 0, self._training.start(index)
        state = self._current
        return Weights(self._net, state.params, state.buffers, index=self._index, age=self._age)

    def networks_done(self) -> int:
        """Networks that have served all their steps."""
        return self._index + (self._age >= self._period)

    def advance(self, step: Step) -> None:
        """Train the network if it will serve again."""
        self._age += 1
        if self._age < self._period:
            self._state = self._training.train(self._current, step)

    @property
    def _current(self) -> TrainState:
        assert self._state is not None, "no network has been asked for"
        return self._state

    def state(self) -> Tensors:
        """The network, its momentum and its place; empty before the first iteration."""
        if self._state is None:
            return {}
        kept = {"params": self._state.params, "velocity": self._state.velocity}
        kept |= {f"buffers.{name}": value for name, value in self._state.buffers.items()}
        return kept | {"position": torch.tensor([self._index, self._age])}

    def load(self, state: Tensors) -> None:
        """Take them back."""
        if not state:
            return
        buffers = {key.removeprefix("buffers."): value for key, value in state.items() if key.startswith("buffers.")}
        self._state = TrainState(state["params"], state["velocity"], buffers)
        self._index, self._age = state["position"].tolist()
