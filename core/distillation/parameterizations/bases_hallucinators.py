"""HaBa: images are bases of their class seen through hallucinators that all classes share.

Liu et al., "Dataset Distillation via Factorization", NeurIPS 2022, arXiv:2210.16774, as its published code has it. A
hallucinator is a 3x3 convolution without padding, an elementwise scale and shift with one entry for each position, and a 3x3
transposed convolution, all with biases and without any non-linearity: (c, H, W) -> (C, H - 2, W - 2) -> (C, H, W). For images
of 3 x 32 x 32 these are 5568 scalars. Any basis may go through any hallucinator, so that B bases and A hallucinators make
B x A images; number (basis * A + hallucinator), bases sorted by class.

What answers a draw: per class, every basis through hallucinators drawn for it alone; for a minibatch, bases drawn from all
classes through one hallucinator (as the published inner loop does); for `pairs`, bases through two different hallucinators,
the same two for all; for `all`, every basis through every hallucinator.

Bases start from real images, scales from 1, shifts from 0, and convolutions from PyTorch's default distribution, uniform in
+-1 / sqrt(fan in), where the fan of the transposed one is 9 C as PyTorch counts it.
Deviations: any image shape, where the code knows 32 x 32; any number of hidden channels. Bases and hallucinators live in
network space and are free. `near_identity` is ours: a tenth of the default draw, and 1 at the centre of each channel's own
filters, which nearly leaves an image as it is (hidden channels allowing), but for a frame of one pixel that starts at its mean
colour.
Shapes: K classes, b bases of a class, A hallucinators, U images of a draw, c basis / h hidden / C image channels, H W pixels.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional as F

from core.data.real_set import RealSet
from core.distillation.plan import Draw
from core.distillation.randomness import rng
from core.distillation.step import Step, take
from core.networks.network import Tensors
from core.specs.storage import basis_channels, decoder_entries, hidden_channels, images_per_class
from core.specs.synthetic import BasesHallucinatorsSpec

SIDE = 3
"""Of both kernels."""

NOISE = 0.1
"""What `near_identity` leaves of the default draw, so that no two hallucinators start alike."""

WEIGHTS = ("encoder.weight", "encoder.bias", "scale", "shift", "decoder.weight", "decoder.bias")
"""Tensors of the hallucinators, stacked: (A, h, c, 3, 3), (A, h), twice (A, h, H - 2, W - 2), (A, h, C, 3, 3), (A, C)."""


class BasesHallucinators:
    """K b bases and A hallucinators."""

    def __init__(self, spec: BasesHallucinatorsSpec, ipc: int, data: RealSet, seed: int) -> None:
        """Reserve the bases and draw the hallucinators, on the CPU, so that every device starts from the same.

        Args:
            spec: counts and shapes.
            ipc: budget in images per class, from which the number of bases may follow.
            data: real set; its image shape and device are the bases'.
            seed: seed of the job.
        """
        counts = images_per_class(spec, ipc, data.info)
        self.num_initial_per_class = self._bases_per_class = counts.initial
        self.num_virtual_per_class = counts.decoded
        self.num_variants = counts.variants
        self.decoder_entries = decoder_entries(spec, data.info)
        self._num_classes = data.num_classes
        self._near_identity = spec.start == "near_identity"
        self._through = spec.hallucinators_per_basis or counts.variants
        channels, height, width = data.images.shape[1:]
        shape = (data.num_classes * counts.initial, basis_channels(spec, data.info), height, width)
        self._bases = torch.zeros(shape, device=data.device, requires_grad=True)
        drawn = hallucinators(
            counts.variants, (shape[1], hidden_channels(spec, data.info), channels), (height, width),
            rng(seed, "hallucinators"), near_identity=self._near_identity,
        )
        self._weights = {name: tensor.to(data.device).requires_grad_() for name, tensor in drawn.items()}
        self._classes = torch.arange(data.num_classes, device=data.device).repeat_interleave(counts.decoded)

    @torch.no_grad()
    def fill(self, images: Tensor) -> None:
        """Start from (K, b, C, H, W) images in network space, or from the means of their channels."""
        flat = images.flatten(0, 1)
        self._bases.copy_(flat if flat.shape[1] == self._bases.shape[1] else flat.mean(1, keepdim=True))
        if self._near_identity:  # what the bias adds everywhere the shift takes away again, but for the frame
            frame = frame_mean(self._bases)
            shift, bias = self._weights["shift"], self._weights["decoder.bias"]
            shift.sub_(frame.repeat(shift.shape[1])[: shift.shape[1], None, None])
            bias.add_(frame.repeat(bias.shape[1])[: bias.shape[1]])

    def pack(self, images: Tensor) -> Tensor:
        """(K, n, C, H, W) -> (K * n, C, H, W): a real image needs no hallucinator."""
        return images.flatten(0, 1)

    def count(self, draw: Draw) -> int:
        """Images that `indices` answers with, over all classes."""
        bases = self._num_classes * self._bases_per_class
        match draw.kind:
            case "per_class":
                shown = self._bases_per_class * self._through
                return self._num_classes * min(draw.count or shown, shown)
            case "all":
                return bases * self.num_variants
            case "minibatch":
                return min(draw.count or bases, bases)
            case "pairs":
                return 2 * min(draw.count or bases, bases)

    def indices(self, draw: Draw, generator: torch.Generator) -> Tensor:
        """Virtual images that answer a draw: (K, M), for `pairs` (2, M), else (M,), int64 on the CPU; `count` 0: all.

        Raises:
            ValueError: pairs are asked for, and there is one hallucinator.
        """
        bases, variants = torch.arange(self._num_classes * self._bases_per_class), self.num_variants
        match draw.kind:
            case "per_class":
                through = torch.rand(len(bases), variants, generator=generator).argsort(1)[:, : self._through]
                index = (bases[:, None] * variants + through).view(self._num_classes, -1)
                if 0 < draw.count < index.shape[1]:
                    index = index.gather(1, torch.rand(index.shape, generator=generator).argsort(1)[:, : draw.count])
                return index
            case "all":
                return torch.arange(len(bases) * variants)
            case "minibatch":
                chosen = torch.randperm(len(bases), generator=generator)[: draw.count or len(bases)]
                return chosen * variants + torch.randint(variants, (), generator=generator)
            case "pairs":
                if variants < 2:
                    raise ValueError("a pair needs two hallucinators; parameterization.num_hallucinators is 1")
                chosen = torch.randperm(len(bases), generator=generator)[: draw.count or len(bases)]
                return chosen * variants + torch.randperm(variants, generator=generator)[:2, None]

    def decode(self, index: Tensor) -> tuple[Tensor, Tensor]:
        """Virtual images (U,) -> (U, C, H, W) in network space, with graph to bases and hallucinators, and their classes (U,).

        Images of one hallucinator are computed together.
        """
        basis, through = index // self.num_variants, index % self.num_variants
        order = through.argsort(stable=True)
        sizes = torch.bincount(through, minlength=self.num_variants).tolist()
        groups = [
            hallucinate(take(self._bases, basis[rows]), {name: value[number] for name, value in self._weights.items()})
            for number, rows in enumerate(order.split(sizes)) if len(rows)
        ]
        return take(torch.cat(groups), order.argsort()), take(self._classes, index)

    def project(self, step: Step) -> None:
        """Everything is free."""

    def storage(self) -> dict[str, int]:
        """K b c H W scalars of bases; 5568 of each hallucinator for images of 3 x 32 x 32."""
        return {"bases": self._bases.numel(), "hallucinators": sum(value.numel() for value in self._weights.values())}

    def export(self) -> Tensors:
        """The factors: `bases` (K b, c, H, W), their `labels` (K b,) int64, and the stacked tensors of the hallucinators."""
        labels = self._classes[:: self.num_variants]
        return {"bases": self._bases.detach(), "labels": labels} | {n: value.detach() for n, value in self._weights.items()}

    def parameters(self) -> dict[str, list[Tensor]]:
        """Bases, and hallucinators."""
        return {"bases": [self._bases], "hallucinators": list(self._weights.values())}

    def state(self) -> Tensors:
        """Both factors."""
        return {"bases": self._bases.detach()} | {name: value.detach() for name, value in self._weights.items()}

    @torch.no_grad()
    def load(self, state: Tensors) -> None:
        """Take them back."""
        self._bases.copy_(state["bases"])
        for name, tensor in self._weights.items():
            tensor.copy_(state[name])


def hallucinate(bases: Tensor, weights: Tensors) -> Tensor:
    """(U, c, H, W) through one hallucinator -> (U, C, H, W); affine in the bases."""
    hidden = F.conv2d(bases, weights["encoder.weight"], weights["encoder.bias"])
    moved = hidden * weights["scale"] + weights["shift"]
    return F.conv_transpose2d(moved, weights["decoder.weight"], weights["decoder.bias"])


def frame_mean(images: Tensor) -> Tensor:
    """(N, c, H, W) -> (c,): mean of the outermost pixels."""
    inside = torch.zeros(images.shape[2:], dtype=torch.bool, device=images.device)
    inside[1:-1, 1:-1] = True
    return images[:, :, ~inside].mean((0, 2))


def hallucinators(
    count: int, channels: tuple[int, int, int], side: tuple[int, int], generator: torch.Generator, *, near_identity: bool
) -> Tensors:
    """Draw hallucinators: the tensors of `WEIGHTS`, float32.

    Args:
        count: A.
        channels: of a basis, hidden, and of an image.
        side: height and width of an image.
        generator: on the CPU.
        near_identity: start from nearly the identity instead of from PyTorch's default distribution.
    """
    basis, hidden, image = channels

    def uniform(*shape: int, fan: int) -> Tensor:
        bound = (NOISE if near_identity else 1.0) / math.sqrt(fan * SIDE * SIDE)
        return (2.0 * torch.rand(shape, generator=generator) - 1.0) * bound

    drawn = [
        uniform(count, hidden, basis, SIDE, SIDE, fan=basis), uniform(count, hidden, fan=basis),
        torch.ones(count, hidden, side[0] - 2, side[1] - 2), torch.zeros(count, hidden, side[0] - 2, side[1] - 2),
        uniform(count, hidden, image, SIDE, SIDE, fan=image), uniform(count, image, fan=image),
    ]
    weights = dict(zip(WEIGHTS, drawn, strict=True))
    if near_identity:
        middle = SIDE // 2
        for number in range(hidden):
            weights["encoder.weight"][:, number, number % basis, middle, middle] += 1.0
        for number in range(image):
            sources = range(number % basis, hidden, basis)  # every hidden channel that holds this one's basis
            for source in sources:
                weights["decoder.weight"][:, source, number, middle, middle] += 1.0 / len(sources)
    return weights
