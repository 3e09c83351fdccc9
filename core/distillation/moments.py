"""Moments of class-wise features, in float32 at least: what the losses of the distribution-matching family share.

Real images may carry shares of their class, (K, N), that add up to 1; without shares all images count alike.
Shapes: K classes, N images per class, D features.
"""

from __future__ import annotations

import torch
from torch import Tensor


def widened(features: Tensor) -> Tensor:
    """The same values in float32 or wider: differences of moments cancel, which half precision does not survive."""
    return features.to(torch.promote_types(features.dtype, torch.float32))


def image_weights(features: Tensor, share: Tensor | None = None) -> Tensor:
    """(K, N), the weight of each of the (K, N, ...) images in the mean of its class: its share, else 1 / N."""
    if share is None:
        return features.new_full(features.shape[:2], 1.0 / features.shape[1])
    return share.to(features.dtype)


def class_mean(features: Tensor, share: Tensor | None = None) -> Tensor:
    """(K, N, ...) -> (K, ...): mean of each class, weighted by (K, N) shares where there are any."""
    features = widened(features)
    if share is None:
        return features.mean(1)
    return torch.einsum("kn,kn...->k...", image_weights(features, share), features)


def centred(features: Tensor, share: Tensor | None = None) -> Tensor:
    """(K, N, ...) less the mean of each class, entry by entry; exactly 0 where a class has one image."""
    return widened(features) - class_mean(features, share).unsqueeze(1)
