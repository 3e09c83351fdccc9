"""IDM's queue: networks are trained on real images while they serve; fresh ones enter, the oldest leave.

Zhao et al., "Improved Distribution Matching for Dataset Condensation", CVPR 2023. Before every iteration whose number is a
multiple of G a fresh network is pushed, the oldest dropped when there are Q. One network, drawn uniformly, serves the
iteration; afterwards some distinct networks, drawn uniformly, make T steps of SGD on random real images of all classes, without
augmentation. Deviation: a network's accuracy is a bias-corrected moving average; the published meters are reset at each
evaluation, so that there the evaluation interval changes the optimisation.
Shapes: L networks in the queue, P weights.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from core import compilation
from core.data.real_set import RealSet
from core.distillation.protocols import Stateless, Weights
from core.distillation.randomness import rng
from core.distillation.step import Step
from core.networks.network import Network, Tensors
from core.specs.models import GrowingQueueSpec
from core.training import NetworkStep, TrainState


class Member(NamedTuple):
    """A network of the queue."""

    number: int
    """How many networks were drawn before it."""

    train: TrainState
    average: Tensor
    """() float32: moving average of training accuracy, before its bias is corrected."""

    num_steps: int
    """Training steps it has made."""


class GrowingQueue(Stateless):
    """Oldest first."""

    def __init__(self, spec: GrowingQueueSpec, net: Network, data: RealSet, seed: int, num_iterations: int) -> None:
        """Draw the first networks.

        Args:
            spec: lengths and training.
            net: architecture of all networks.
            data: real set on which they are trained.
            seed: seed of the job.
            num_iterations: length of the run, which decides whether training steps are compiled.
        """
        self._spec, self._net, self._data, self._seed = spec, net, data, seed
        work = net.activations_per_image * num_iterations * spec.num_trained * spec.num_steps * spec.batch_size
        self._step = NetworkStep(
            net, momentum=spec.momentum, weight_decay=spec.weight_decay, compiled=compilation.pays(work, data.device),
            device=data.device,
        )
        self._rate = torch.full((), spec.lr_net, device=data.device)
        self._members: list[Member] = []
        for index in range(min(spec.num_initial, spec.capacity)):
            self._members.append(self._fresh(index))

    def next(self, number: int) -> Weights:
        """A uniformly drawn network, with its accuracy, after the push that this iteration asks for."""
        pushed = min(self._spec.num_initial, self._spec.capacity) + number // self._spec.push_every + 1
        while self._members[-1].number + 1 < pushed:
            self._members = [*self._members, self._fresh(self._members[-1].number + 1)][-self._spec.capacity :]
        drawn = int(torch.randint(len(self._members), (), generator=rng(self._seed, "queue/drawn", number)))
        member = self._members[drawn]
        return Weights(
            self._net, member.train.params, member.train.buffers, index=member.number, age=member.num_steps,
            accuracy=self._accuracy(member),
        )

    def networks_done(self) -> int:
        """Networks that were dropped."""
        return self._members[0].number

    def advance(self, step: Step) -> None:
        """Train some members."""
        count = min(self._spec.num_trained, len(self._members))
        chosen = torch.randperm(len(self._members), generator=rng(self._seed, "queue/chosen", step.number))[:count]
        generator = rng(self._seed, "queue/images", step.number)
        total = len(self._data.images)
        for place in chosen.tolist():
            member = self._members[place]
            train, average = member.train, member.average
            for _ in range(self._spec.num_steps):
                index = torch.randint(total, (self._spec.batch_size,), generator=generator)
                labels = self._data.labels.index_select(0, index.to(self._data.device))
                train, sums = self._step(train, self._data.gather(index), labels, self._rate)
                average = torch.lerp(sums[1] / len(index), average, self._spec.accuracy_decay)
            self._members[place] = Member(member.number, train, average, member.num_steps + self._spec.num_steps)

    def state(self) -> Tensors:
        """All members, stacked."""
        numbers = torch.tensor([[m.number, m.num_steps] for m in self._members])
        stacked = {
            "numbers": numbers,
            "average": torch.stack([m.average for m in self._members]),
            "params": torch.stack([m.train.params for m in self._members]),
            "velocity": torch.stack([m.train.velocity for m in self._members]),
        }
        buffers = self._members[0].train.buffers
        return stacked | {f"buffers.{name}": torch.stack([m.train.buffers[name] for m in self._members]) for name in buffers}

    def load(self, state: Tensors) -> None:
        """Take the members back."""
        buffers = {key.removeprefix("buffers."): value for key, value in state.items() if key.startswith("buffers.")}
        self._members = [
            Member(
                number,
                TrainState(state["params"][i], state["velocity"][i], {name: value[i] for name, value in buffers.items()}),
                state["average"][i],
                num_steps,
            )
            for i, (number, num_steps) in enumerate(state["numbers"].tolist())
        ]

    def _fresh(self, index: int) -> Member:
        train = self._step.start(rng(self._seed, "network", index, self._data.device))
        return Member(index, train, torch.zeros((), device=self._data.device), 0)

    def _accuracy(self, member: Member) -> Tensor:
        if not member.num_steps:
            return member.average
        return member.average / (1.0 - self._spec.accuracy_decay**member.num_steps)
