"""When to compile, decided from the specification alone, so that a resumed job decides as the first attempt did.

Compilation gains a fixed share of the work and costs a warm-up. Both were measured on two CPU cores (ConvNet-3, width 32
and 128): compiled code saves 1 to 4 ns for each activation that the network computes, in matching and in training, and
next to nothing where everything fits the cache; the first call takes 15 to 27 s with an empty cache and 3 to 5 s with a
filled one.
"""

from __future__ import annotations

import functools
import os
import shutil
from collections.abc import Callable
from typing import Any, TypeVar, cast

import torch

F = TypeVar("F", bound=Callable[..., Any])

SAVED_SECONDS_PER_ACTIVATION = 2.5e-9
WARM_UP_SECONDS = 20.0
CHUNK_IMAGES = 64
"""Images per call on a CPU: the largest feature maps then stay in the cache."""


@functools.cache
def compiler_exists() -> bool:
    """Whether the C++ compiler that torch.compile needs on a CPU can be found."""
    return shutil.which(os.environ.get("CXX", "g++")) is not None


def pays(activations: float, device: torch.device) -> bool:
    """Whether compiling is worth its warm-up for so many activations over the whole run.

    Args:
        activations: activations per image x images per step x steps.
        device: CUDA runs eagerly for now: what compilation gains there was not measured.
    """
    return device.type == "cpu" and compiler_exists() and activations * SAVED_SECONDS_PER_ACTIVATION > WARM_UP_SECONDS


def compiled(function: F) -> F:
    """Compile for fixed shapes. Where the compiler turns out to be broken, the function runs eagerly, with a log line."""
    torch._dynamo.config.suppress_errors = True
    torch._dynamo.config.recompile_limit = 64  # one function serves several networks, shapes and gradient modes
    return cast(F, torch.compile(function, dynamic=False))


def chunk_sizes(count: int, limit: int) -> tuple[int, int]:
    """Cut `count` items into equal parts of at most `limit`: (parts, size), where parts x size >= count."""
    parts = max(1, -(-count // limit))
    return parts, -(-count // parts)
