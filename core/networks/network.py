"""A network as a pure function of flat weights, and its chunked, possibly compiled forward pass.

Architectures are ordinary modules built without storage (device `meta`); their weights live in one vector, so that
drawing, averaging, snapshotting or differentiating a network is one operation on one tensor. `functional_call` was
measured against hand-written functional code: 0.05 ms more per eager call, nothing once compiled.

Batch norm has two modes, and only it: in training mode an image is normalised with the statistics of its batch, in
evaluation mode with running statistics, which are the network's buffers. Matching and training use training mode; tests of
accuracy and features of trained networks use evaluation mode.
Shapes: N images, C channels, H W pixels, P parameters, K classes.
"""

from __future__ import annotations

import copy
import itertools
import math
from collections.abc import Callable
from typing import cast

import torch
from torch import Tensor, nn

from core.compilation import CHUNK_IMAGES, chunk_sizes, compiled
from core.networks.layers import HeConv2d

Tensors = dict[str, Tensor]

GRAPHLESS_ACTIVATIONS = 2**30
"""What a pass without graph may compute at once where no chunk is set: 4 GiB in all layers, of which few exist at a time."""


class Network:
    """An architecture: how many weights it has, how they are drawn, and what it computes from them."""

    def __init__(self, name: str, build: Callable[[], nn.Module], image_shape: tuple[int, int, int]) -> None:
        """Build the module on the meta device.

        Args:
            name: for people, for example `convnet-3 width 32`.
            build: makes a module with `forward(images, taps) -> dict` and the names of all its taps in `taps`.
            image_shape: (C, H, W) of the images it will see.
        """
        self.name = name
        self.image_shape = image_shape
        with torch.device("meta"):
            module = build().eval()
        self._modules = {False: module, True: copy.deepcopy(module).train()}
        self.taps = cast("tuple[str, ...]", module.taps)
        """Names of everything it can compute, shallow to deep; every architecture has `flat` and `logits`."""
        shapes = {key: tuple(value.shape) for key, value in module.named_parameters()}
        self._names = tuple(shapes)
        self._shapes = tuple(shapes.values())
        self._sizes = tuple(math.prod(shape) for shape in self._shapes)
        self._buffers = {key: tuple(value.shape) for key, value in module.named_buffers()}
        self.num_parameters = sum(self._sizes)
        self.mixes_images = bool(self._buffers)
        """Whether, in training mode, an image's features depend on its batch, so that batches must not be cut."""
        self.activations_per_image, self.num_classes = self._measure()
        self._scale, self._shift, self._normal = self._init_distribution()

    def init(self, generator: torch.Generator) -> Tensor:
        """Draw (P,) float32 weights on the generator's device.

        Convolutions and linear layers have PyTorch's default distribution, weight and bias uniform in +-1 / sqrt(fan in),
        unless the layer says otherwise (`HeConv2d`). Norms: scale 1, shift 0.
        """
        device = generator.device
        if self._scale.device != device:
            self._scale, self._shift = self._scale.to(device), self._shift.to(device)
        weights = torch.empty(self.num_parameters, device=device).uniform_(-1.0, 1.0, generator=generator)
        for start, stop in self._normal:
            weights[start:stop].normal_(generator=generator)
        return weights.mul_(self._scale).add_(self._shift)

    def init_buffers(self, device: torch.device | str = "cpu") -> Tensors:
        """Running statistics before training: mean 0, variance 1; empty for networks without batch norm."""
        return {
            name: torch.full(shape, 1.0 if name.endswith("running_var") else 0.0, device=device)
            for name, shape in self._buffers.items()
        }

    def named(self, params: Tensor) -> Tensors:
        """Views of the flat weights by the module's parameter names."""
        parts = params.split(self._sizes)
        return {n: part.view(shape) for n, part, shape in zip(self._names, parts, self._shapes, strict=True)}

    def __call__(
        self, params: Tensor, buffers: Tensors, images: Tensor, taps: tuple[str, ...], *, training: bool = False,
        channels_last: bool = False,
    ) -> Tensors:
        """Compute the taps of (N, C, H, W) images; differentiable in `params` and `images`.

        Args:
            params: (P,) float32.
            buffers: running statistics; not read in training mode, never changed.
            images: float32 in network space.
            taps: what to return.
            training: normalise with the statistics of this batch (batch norm only).
            channels_last: lay the filters out that way; compiled CPU code is then about a tenth faster, with equal results.
        """
        if training:
            return self.train_pass(params, {}, images, taps, channels_last=channels_last)[0]
        return self._run(False, params, buffers, images, taps, channels_last)

    def train_pass(
        self, params: Tensor, buffers: Tensors, images: Tensor, taps: tuple[str, ...], *, channels_last: bool = False
    ) -> tuple[Tensors, Tensors]:
        """The taps in training mode, and the running statistics after this batch, without graph; `buffers` stay as they are."""
        moved = {name: value.detach().clone() for name, value in (buffers or self.init_buffers(images.device)).items()}
        return self._run(True, params, moved, images, taps, channels_last), moved

    def _run(
        self, training: bool, params: Tensor, buffers: Tensors, images: Tensor, taps: tuple[str, ...], channels_last: bool
    ) -> Tensors:
        assert buffers.keys() == self._buffers.keys(), f"{self.name} needs its running statistics"
        named = self.named(params)
        if channels_last:
            layout = torch.channels_last
            named = {
                name: value.contiguous(memory_format=layout) if value.ndim == 4 and value.shape[1] > 1 else value
                for name, value in named.items()
            }
        out: Tensors = torch.func.functional_call(self._modules[training], {**named, **buffers}, (images, taps))
        return out

    def _measure(self) -> tuple[int, int]:
        """Activations per image, and number of classes."""
        count = 0

        def add(_module: nn.Module, _inputs: object, output: Tensor) -> None:
            nonlocal count
            count += output.numel()

        module = self._modules[False]
        handles = [m.register_forward_hook(add) for m in module.modules() if isinstance(m, (nn.Conv2d, nn.Linear))]
        logits: Tensor = module(torch.empty(1, *self.image_shape, device="meta"), ("logits",))["logits"]
        for handle in handles:
            handle.remove()
        return count, logits.shape[1]

    def num_entries(self, taps: tuple[str, ...]) -> int:
        """Numbers that the taps of one image hold."""
        out: Tensors = self._modules[False](torch.empty(1, *self.image_shape, device="meta"), taps)
        return sum(value.numel() for value in out.values())

    def _init_distribution(self) -> tuple[Tensor, Tensor, tuple[tuple[int, int], ...]]:
        """Scale and shift of every weight, and the spans that are normal instead of uniform in +-1."""
        scale, shift = torch.zeros(self.num_parameters), torch.zeros(self.num_parameters)
        ends = list(itertools.accumulate(self._sizes))
        spans = {name: (end - size, end) for name, size, end in zip(self._names, self._sizes, ends, strict=True)}
        normal: list[tuple[int, int]] = []
        for prefix, module in self._modules[False].named_modules():
            dot = f"{prefix}." if prefix else ""
            for local, value in module.named_parameters(recurse=False):
                span = spans[dot + local]
                if isinstance(module, HeConv2d):
                    scale[slice(*span)] = module.initial_std
                    normal.append(span)
                elif isinstance(module, (nn.Conv2d, nn.Linear)):
                    scale[slice(*span)] = 1.0 / math.sqrt(math.prod(module.weight.shape[1:]))
                elif isinstance(module, (nn.GroupNorm, nn.BatchNorm2d)):
                    shift[slice(*span)] = 1.0 if local == "weight" else 0.0
                else:
                    raise NotImplementedError(f"no initial distribution for {type(module).__name__}.{local} {value.shape}")
        return scale, shift, tuple(normal)


class Forward:
    """The taps of many images, compiled on demand: on a CPU in equal chunks that fit the cache; elsewhere in one pass where a
    graph is kept, for whoever keeps it has cut already, and in chunks that fit the memory where none is.

    Cutting is exact as long as the network does not mix images. A compiled pass needs one shape, so the last chunk is
    filled with zeros and its surplus dropped.
    """

    def __init__(self, net: Network, *, compile_passes: bool, chunk: int | None, training: bool = False) -> None:
        self.net = net
        self.compiled = compile_passes
        self.training = training
        self.mixes_images = training and net.mixes_images
        self.chunk = None if self.mixes_images else chunk
        self._calls: dict[tuple[str, ...], Callable[[Tensor, Tensors, Tensor], tuple[Tensor, ...]]] = {}

    @classmethod
    def on(cls, device: torch.device, net: Network, *, compile_passes: bool, training: bool = False) -> Forward:
        """The form that is fast on this device; `training` is the mode of batch norms."""
        chunk = CHUNK_IMAGES if device.type == "cpu" else None
        return cls(net, compile_passes=compile_passes, chunk=chunk, training=training)

    def __call__(self, params: Tensor, buffers: Tensors, images: Tensor, taps: tuple[str, ...]) -> Tensors:
        """(N, C, H, W) -> every tap, (N, ...); the graph is kept where gradients are enabled and wanted."""
        call = self._call(taps)
        count = len(images)
        parts, size = chunk_sizes(count, self._most(count))
        if parts == 1:
            return dict(zip(taps, call(params, buffers, images), strict=True))
        if self.compiled and parts * size > count:
            images = torch.cat([images, images.new_zeros(parts * size - count, *images.shape[1:])])
        outputs = [call(params, buffers, piece) for piece in images.split(size)]
        return {tap: torch.cat(pieces)[:count] for tap, pieces in zip(taps, zip(*outputs, strict=True), strict=True)}

    def _most(self, count: int) -> int:
        """Images of one pass, at most."""
        if self.mixes_images or (self.chunk is None and torch.is_grad_enabled()):
            return count
        return self.chunk or max(1, GRAPHLESS_ACTIVATIONS // self.net.activations_per_image)

    def _call(self, taps: tuple[str, ...]) -> Callable[[Tensor, Tensors, Tensor], tuple[Tensor, ...]]:
        if taps not in self._calls:

            def call(params: Tensor, buffers: Tensors, images: Tensor) -> tuple[Tensor, ...]:
                out = self.net(params, buffers, images, taps, training=self.training, channels_last=self.compiled)
                return tuple(out[tap] for tap in taps)

            self._calls[taps] = compiled(call) if self.compiled else call
        return self._calls[taps]
