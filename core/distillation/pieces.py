"""In what parts the gradient of an iteration is computed: losses that couple classes on all of these, the others cut."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import compress
from typing import NamedTuple

from core.distillation.plan import Plan, merge
from core.distillation.protocols import Loss


class Piece(NamedTuple):
    """Losses that are computed together."""

    losses: tuple[Loss, ...]
    plan: Plan
    """What they need."""

    cut: bool
    """Whether class chunk by class chunk; else on all classes at once."""


def pieces(losses: Sequence[Loss], *, mixes_images: bool) -> tuple[Piece, ...]:
    """What is computed on all classes at once, then what is cut.

    Whole are the losses that couple classes, and with them those that look at the features that such a loss computes anyway;
    what differentiates a gradient again is cut even then, for its graph is several times as large.

    Args:
        losses: in order.
        mixes_images: whether an image's features depend on the others in its pass; then everything is whole.
    """
    plans = [loss.plan() for loss in losses]
    features = any(plan.taps for plan in plans if not plan.separable)
    whole = [
        mixes_images or not plan.separable or (features and bool(plan.taps) and plan.graph_copies <= 1.0) for plan in plans
    ]
    found = []
    for cut in (False, True):
        chosen = [together != cut for together in whole]
        if any(chosen):
            found.append(Piece(tuple(compress(losses, chosen)), merge(list(compress(plans, chosen))), cut))
    return tuple(found)
