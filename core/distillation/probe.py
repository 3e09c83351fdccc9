"""One real step before the loop: how long it takes, what memory it needs, and whether that fits.

A step that does not fit is cut into smaller runs of classes, which changes no result; if a single class does not fit, or what
couples the classes, the job is refused before it has done anything. On CUDA the device itself says when memory is short.
On a CPU nobody says so (the kernel kills the process instead): there the need is computed from the network's activations first.
"""

from __future__ import annotations

import time
from typing import NamedTuple

import torch

from core.distillation.engine import Engine
from core.distillation.pieces import Piece
from core.distillation.plan import Plan
from core.errors import DeviceMemoryError, HostMemoryError
from core.machine import free_host_bytes, peak_memory_bytes
from core.specs.estimate.memory import GRAPH_COPIES

SHARE = 0.8
"""Part of the free memory that a step may plan with."""


class FirstStep(NamedTuple):
    """What the first step took."""

    seconds: float
    peak_memory_bytes: int
    """Of the device on CUDA, of the process on a CPU; since the process began."""

    chunk_images: int
    """Synthetic images whose graph is kept at once."""


def probe(engine: Engine) -> FirstStep:
    """Fit the engine's chunks to the memory there is, and measure one step; nothing moves.

    Raises:
        DeviceMemoryError: not even one class fits the device.
        HostMemoryError: not even one class fits the host.
    """
    device = engine.data.device
    if device.type == "cpu":
        _fit_host(engine)
        engine.trial()
    else:
        _fit_device(engine)
    started = time.perf_counter()
    engine.trial()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return FirstStep(time.perf_counter() - started, peak_memory_bytes(device), images_at_once(engine))


def _fit_host(engine: Engine, free: int | None = None) -> None:
    free = free_host_bytes() if free is None else free
    if free is None:
        return
    left = SHARE * free - bytes_per_step(engine)
    for piece in engine.pieces:
        per_image, smallest = bytes_per_image(engine, piece.plan), least_images(engine, piece)
        if per_image * smallest > left:
            raise HostMemoryError(
                f"a step keeps the graph of at least {smallest} synthetic images and the features of the real ones beside "
                f"them, about {per_image * smallest >> 20} MiB, and {free >> 20} MiB are free on this host; use a narrower "
                "network or fewer images"
            )
        if piece.cut:
            engine.chunk_images = min(engine.chunk_images, int(left / per_image))


def images_at_once(engine: Engine) -> int:
    """Synthetic images whose graph a step keeps at once: a chunk, or what the losses of a whole piece say."""
    return max(
        min(engine.chunk_images, engine.num_images(piece.plan)) if piece.cut else least_images(engine, piece)
        for piece in engine.pieces
    )


def least_images(engine: Engine, piece: Piece) -> int:
    """Synthetic images computed together at least: of one class, all where these are coupled, or what the losses say."""
    count = engine.num_images(piece.plan)
    if piece.cut:
        return count // engine.data.num_classes
    return min(piece.plan.graph_images or count, count)


def bytes_per_image(engine: Engine, plan: Plan) -> int:
    """What a step holds for each synthetic image of the losses behind a plan: its graphs, its pairs with all real images, and
    its part of what its class needs once: the features of the class's real images, and copies of the weights where gradients
    are matched.
    """
    net, count = engine.parts.net, engine.num_images(plan)
    numbers = GRAPH_COPIES * (plan.graph_copies * net.activations_per_image + plan.own_activations)
    numbers += engine.num_real * (net.num_entries(plan.taps) / count + plan.entries_per_pair)
    numbers += plan.weight_vectors_per_class * net.num_parameters * engine.data.num_classes / count
    return int(4 * numbers)


def bytes_per_step(engine: Engine) -> int:
    """What a step holds however it is cut: the decoder's part of all images, and weights of the network along a path."""
    decoder = engine.num_virtual * engine.parts.parameterization.decoder_entries
    return 4 * (decoder + engine.plan.weight_vectors * engine.parts.net.num_parameters)


def _fit_device(engine: Engine) -> None:
    smallest = min(least_images(engine, piece) for piece in engine.pieces)
    engine.chunk_images = min(engine.chunk_images, max(smallest, engine.num_virtual))
    while True:
        try:
            engine.trial()
        except torch.OutOfMemoryError as error:
            torch.cuda.empty_cache()
            if engine.chunk_images <= smallest:
                message = str(error).split("\n")[0]
                raise DeviceMemoryError(
                    f"a step does not fit the device even in chunks of {smallest} synthetic images: {message}"
                ) from error
            engine.chunk_images = max(smallest, engine.chunk_images // 2)
        else:
            return
