"""CAFE's dynamic bi-level schedule: match under a network until it settles, train it on the synthetic set in between.

Wang et al., "CAFE: Learning to Condense Dataset by Aligning Features", CVPR 2022, arXiv:2203.01531, in the form of the
published code. After each matching step the network's accuracy on random real images is read; once the last readings spread
less than one threshold, a fresh network takes over. Otherwise the network is trained on the synthetic set, epoch by epoch,
until its last readings spread more than another threshold.
Deviations: both loops have limits (the published inner loop can run for ever once accuracy saturates); a reading is the
accuracy itself (the published accumulator is not reset, so that each reading holds a tenth of the one before).
A stopping test needs its reading on the host: these are the only values this slot waits for.
"""

from __future__ import annotations

import torch

from core.data.real_set import RealSet
from core.distillation.plan import Draw
from core.distillation.protocols import Augmentation, Stateless, Weights
from core.distillation.randomness import rng
from core.distillation.step import Step
from core.networks.network import Forward, Network, Tensors
from core.specs.models import DynamicBilevelSpec
from core.training import NetworkStep, TrainState, train_epoch


class DynamicBilevel(Stateless):
    """One network at a time."""

    def __init__(self, spec: DynamicBilevelSpec, net: Network, data: RealSet, augmentation: Augmentation, seed: int) -> None:
        self._spec, self._net, self._data, self._augmentation, self._seed = spec, net, data, augmentation, seed
        self._step = NetworkStep(net, momentum=0.0, weight_decay=0.0, compiled=False, device=data.device)
        self._rate = torch.full((), spec.lr_net, device=data.device)
        self._start(0)

    def _start(self, index: int) -> None:
        self._index, self._age = index, 0
        self._readings: list[float] = []
        self._train = self._step.start(rng(self._seed, "network", index, self._data.device))

    def next(self, number: int) -> Weights:
        """The current network."""
        return Weights(self._net, self._train.params, self._train.buffers, index=self._index, age=self._age)

    def networks_done(self) -> int:
        """Networks that have settled."""
        return self._index

    def advance(self, step: Step) -> None:
        """Replace the network if it has settled, else train it until it has moved."""
        self._age += 1
        self._readings = [*self._readings, self._read(step, 0)][-self._spec.window :]
        if self._age >= self._spec.max_steps_per_network or (
            len(self._readings) == self._spec.window and _spread(self._readings) < self._spec.settled_below
        ):
            self._start(self._index + 1)
            return
        images, labels = step.fresh(Draw("all"), "bilevel/set")
        readings: list[float] = []
        for epoch in range(1, self._spec.max_epochs + 1):
            self._train = train_epoch(
                self._step, self._train, images, labels, self._augmentation, batch_size=self._spec.batch_size,
                rate=self._rate, generator=step.rng(f"bilevel/epoch/{epoch}"), variants=step.parameterization.num_variants,
            )
            readings = [*readings, self._read(step, epoch)][-self._spec.window :]
            if len(readings) == self._spec.window and _spread(readings) > self._spec.moved_above:
                return

    @torch.no_grad()
    def _read(self, step: Step, epoch: int) -> float:
        """Accuracy of the network on random real images of every class."""
        data = self._data
        index = data.draw_per_class(self._spec.num_watched, step.rng(f"bilevel/watched/{epoch}")).flatten()
        forward = Forward.on(data.device, self._net, compile_passes=False)
        logits = forward(self._train.params, self._train.buffers, data.gather(index), ("logits",))["logits"]
        right = logits.argmax(1) == data.labels.index_select(0, index.to(data.device))
        return float(right.double().mean())

    def state(self) -> Tensors:
        """The network and its readings."""
        state = {
            "params": self._train.params,
            "position": torch.tensor([self._index, self._age]),
            "readings": torch.tensor(self._readings, dtype=torch.float64),
        }
        return state | {f"buffers.{name}": value for name, value in self._train.buffers.items()}

    def load(self, state: Tensors) -> None:
        """Take them back; there is no momentum to keep."""
        buffers = {key.removeprefix("buffers."): value for key, value in state.items() if key.startswith("buffers.")}
        self._train = TrainState(state["params"], torch.zeros_like(state["params"]), buffers)
        self._index, self._age = state["position"].tolist()
        self._readings = state["readings"].tolist()


def _spread(readings: list[float]) -> float:
    return max(readings) - min(readings)
