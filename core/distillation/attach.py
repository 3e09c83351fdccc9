"""Gradients made by hand, as part of a graph: `attach` gives a value the backward pass that its maker computed already."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor


def attach(value: Tensor, gradients: Sequence[tuple[Tensor, Tensor]]) -> Tensor:
    """A scalar whose derivative with respect to each leaf is the gradient given for it.

    Args:
        value: () what the scalar is worth; its own graph, if any, is left behind.
        gradients: leaves that require gradient, each with a tensor of its shape.

    Returns:
        () with graph to the leaves. A leaf or gradient that is not finite makes it not a number.
    """
    total = value.detach()
    for leaf, gradient in gradients:
        total = total + ((leaf - leaf.detach()) * gradient.detach()).sum().to(total.dtype)
    return total
