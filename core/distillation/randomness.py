"""Every random draw of a job, made repeatable without saving any generator.

A generator is seeded by a hash of (job seed, name of the draw, step), used, and dropped. A resumed job therefore draws
exactly what the uninterrupted one would have drawn. Indices and augmentation parameters are drawn on the CPU, so that
they are the same on every device; network weights are drawn on the device that uses them.
"""

from __future__ import annotations

import hashlib

import torch


def rng(seed: int, name: str, step: int = 0, device: torch.device | str = "cpu") -> torch.Generator:
    """A fresh generator for one draw.

    Args:
        seed: seed of the job.
        name: what is drawn, for example `draw/real`; different names give unrelated streams.
        step: iteration, network or epoch that draws.
        device: where the numbers are wanted; streams of different devices differ.
    """
    value = hashlib.sha256(f"{seed}/{name}/{step}".encode()).digest()[:8]
    generator = torch.Generator(device=device)
    # The CPU generator (MT19937) looks at 32 bits of the seed only; more do no harm.
    generator.manual_seed(int.from_bytes(value, "little") >> 1)
    return generator
