"""Networks of the IDC family: trained on real images between two matching steps.

Kim et al., "Dataset Condensation via Efficient Synthetic-Data Parameterization" (IDC), ICML 2022, arXiv:2205.14959, in the
form of the published code: SGD with momentum and weight decay on whole batches until a number of images is used up, each
time from a new order of the real set, with CutMix and an augmentation of their own. A network may first be trained on the
whole real set for some epochs, as on ImageNet (deviation: the momentum of that training is not kept).
"""

from __future__ import annotations

import torch

from core import compilation
from core.data.real_set import RealSet
from core.distillation.protocols import Augmentation
from core.distillation.randomness import rng
from core.distillation.step import Step
from core.networks.network import Network
from core.specs.models import TrainedOnRealSpec
from core.training import NetworkStep, TrainState, train_on_real, training_batch


class TrainingOnReal:
    """Trains one network at a time."""

    def __init__(
        self, spec: TrainedOnRealSpec, net: Network, data: RealSet, augmentation: Augmentation, seed: int, *,
        num_iterations: int,
    ) -> None:
        """Keep what all networks share.

        Args:
            spec: number of images and training.
            net: architecture.
            data: real set, on the device that trains.
            augmentation: built from that of the training.
            seed: seed of the job.
            num_iterations: length of the run, which decides whether training steps are compiled.
        """
        self._spec, self._data, self._augmentation, self._seed = spec, data, augmentation, seed
        training, total, device = spec.training, len(data.labels), data.device
        size = training.batch_size
        self._num_images = min(-(-spec.num_images // size) * size, total)
        per_step = self._num_images + training.num_epochs * total / spec.steps_per_network
        self._step = NetworkStep(
            net, momentum=training.momentum, weight_decay=training.weight_decay, device=device,
            compiled=compilation.pays(net.activations_per_image * num_iterations * per_step, device),
        )
        self._rate = torch.full((), training.lr_net, device=device)

    def start(self, index: int) -> TrainState:
        """A network as it is drawn, or after its epochs on the real set."""
        training = self._spec.training
        if not training.num_epochs:
            return self._step.start(rng(self._seed, "network", index, self._data.device))
        trained = train_on_real(
            self._step, self._data, training, self._augmentation, seed=self._seed, name="network", index=index
        )
        return TrainState(trained.params, torch.zeros_like(trained.params), trained.buffers)

    def train(self, state: TrainState, step: Step) -> TrainState:
        """Some steps on random real images."""
        training, generator = self._spec.training, step.rng("real/training")
        order = torch.randperm(len(self._data.labels), generator=generator)[: self._num_images]
        for batch in order.split(training.batch_size) if len(order) else ():
            rows = batch.to(self._data.device, non_blocking=True)
            images, targets = training_batch(self._data, rows, training, self._augmentation, generator)
            state, _ = self._step(state, images, targets, self._rate)
        return state
