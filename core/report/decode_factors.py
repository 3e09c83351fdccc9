"""Make the images of a factorized set from its bases and hallucinators. Needs numpy and safetensors, nothing else.

    python decode_factors.py factors.safetensors images.npz

A hallucinator is a 3x3 convolution without padding, an elementwise scale and shift, and a 3x3 transposed convolution. Any of
the K b bases may go through any of the A hallucinators; image number basis * A + hallucinator is that of `data.safetensors`, up
to rounding. For training, show each basis once in an epoch, through a hallucinator drawn at random.
Shapes: c basis / h hidden / C image channels, H W pixels.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]


def hallucinate(bases: Array, number: int, factors: Mapping[str, Array]) -> Array:
    """(N, c, H, W) bases through hallucinator `number` -> (N, C, H, W), normalised as `data.safetensors` is.

    Args:
        bases: any bases, of any class.
        number: 0 to A - 1.
        factors: the tensors of `factors.safetensors`: `encoder.weight` (A, h, c, 3, 3), `encoder.bias` (A, h), `scale` and
            `shift` (A, h, H - 2, W - 2), `decoder.weight` (A, h, C, 3, 3), `decoder.bias` (A, C).
    """
    names = ("encoder.weight", "encoder.bias", "scale", "shift", "decoder.weight", "decoder.bias")
    encoder, encoder_bias, scale, shift, decoder, decoder_bias = (factors[name][number] for name in names)
    height, width = bases.shape[2] - 2, bases.shape[3] - 2
    taps = [(y, x) for y in range(3) for x in range(3)]
    hidden = encoder_bias[:, None, None] + sum(
        np.einsum("nchw,dc->ndhw", bases[:, :, y : y + height, x : x + width], encoder[:, :, y, x]) for y, x in taps
    )
    hidden = hidden * scale + shift
    images = np.empty((len(bases), decoder.shape[1], height + 2, width + 2), bases.dtype)
    images[:] = decoder_bias[:, None, None]
    for y, x in taps:
        images[:, :, y : y + height, x : x + width] += np.einsum("ndhw,dc->nchw", hidden, decoder[:, :, y, x])
    return images


def decode(factors: Mapping[str, Array]) -> tuple[Array, Array]:
    """All images, (K b A, C, H, W), and their labels, in the order of `data.safetensors`."""
    count = len(factors["scale"])
    images = np.stack([hallucinate(factors["bases"], number, factors) for number in range(count)], axis=1)
    return images.reshape(-1, *images.shape[2:]), np.repeat(factors["labels"], count)


if __name__ == "__main__":
    from safetensors.numpy import load_file

    images, labels = decode(load_file(sys.argv[1]))
    np.savez(sys.argv[2], images=images, labels=labels)
