"""Networks of the DC family: trained on the synthetic set as it is, for some epochs between two matching steps.

Zhao et al., "Dataset Condensation with Gradient Matching", ICLR 2021, arXiv:2006.05929, in the form of the published code:
plain SGD without momentum or weight decay, batches in an order of each epoch's own, one augmentation operation for a batch
with parameters for each image. Batch norms are in training mode. Where virtual images stand for one another (HaBa), an epoch
shows one of each group. Deviations: none.
"""

from __future__ import annotations

import torch

from core import compilation
from core.distillation.plan import Draw
from core.distillation.protocols import Augmentation
from core.distillation.randomness import rng
from core.distillation.step import Step
from core.networks.network import Network
from core.specs.models import TrainedOnSyntheticSpec
from core.training import NetworkStep, TrainState, train_epoch


class TrainingOnSynthetic:
    """Trains one network at a time."""

    def __init__(
        self, spec: TrainedOnSyntheticSpec, net: Network, augmentation: Augmentation, seed: int, *, device: torch.device,
        num_iterations: int, num_images: int,
    ) -> None:
        """Keep what all networks share.

        Args:
            spec: epochs, batch size and rate.
            net: architecture.
            augmentation: that of matching.
            seed: seed of the job.
            device: where networks live.
            num_iterations: length of the run, which decides with the next whether training steps are compiled.
            num_images: synthetic images of an epoch.
        """
        self._spec, self._augmentation, self._seed, self._device = spec, augmentation, seed, device
        between = num_iterations * (spec.steps_per_network - 1) / spec.steps_per_network
        work = net.activations_per_image * between * spec.num_epochs * num_images
        self._step = NetworkStep(
            net, momentum=0.0, weight_decay=0.0, compiled=compilation.pays(work, device), device=device
        )
        self._rate = torch.full((), spec.lr_net, device=device)

    def start(self, index: int) -> TrainState:
        """A network as it is drawn."""
        return self._step.start(rng(self._seed, "network", index, self._device))

    def train(self, state: TrainState, step: Step) -> TrainState:
        """Some epochs on the set after its update."""
        images, labels = step.fresh(Draw("all"), "synthetic/set")
        for epoch in range(self._spec.num_epochs):
            state = train_epoch(
                self._step, state, images, labels, self._augmentation, batch_size=self._spec.batch_size, rate=self._rate,
                generator=step.rng(f"synthetic/epoch/{epoch}"), variants=step.parameterization.num_variants,
            )
        return state
