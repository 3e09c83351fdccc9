"""One pass of plain training over a tensor set, for networks that are trained inside the loop of distillation.

Shapes: N images of the set, C channels, H W pixels, K classes.
"""

from __future__ import annotations

import torch
from torch import Tensor

from core.distillation.protocols import Augmentation
from core.training.step import NetworkStep, TrainState


def train_epoch(
    step: NetworkStep, state: TrainState, images: Tensor, targets: Tensor, augmentation: Augmentation, *,
    batch_size: int, rate: Tensor, generator: torch.Generator, variants: int = 1,
) -> TrainState:
    """What `epoch_order` gives, with one augmentation operation for a batch and parameters for each image.

    Args:
        step: the step of the architecture.
        state: stays as it is.
        images: (N, C, H, W) float32 in network space.
        targets: (N,) int64, or (N, K) float32 that add up to 1.
        augmentation: what the network sees the images through.
        batch_size: images of a step; the last may have fewer.
        rate: () float32 on the device.
        generator: on the CPU; draws the order, then each batch's augmentation.
        variants: as in `epoch_order`.
    """
    for batch in epoch_order(len(images), variants, generator).split(batch_size):
        rows = batch.to(images.device, non_blocking=True)
        transform = augmentation.draw(len(batch), generator, shared_operation=True)
        augmented = transform.apply(images.index_select(0, rows)[:, None]).squeeze(1)
        state, _ = step(state, augmented, targets.index_select(0, rows), rate)
    return state


def epoch_order(count: int, variants: int, generator: torch.Generator) -> Tensor:
    """The images of a pass in random order, int64 on the CPU.

    Images stand side by side in groups of `variants` that stand for one another (HaBa, where an access to a basis draws its
    hallucinator): a pass shows one of each group, drawn anew.
    """
    order = torch.randperm(count // variants, generator=generator)
    return order if variants == 1 else order * variants + torch.randint(variants, order.shape, generator=generator)
