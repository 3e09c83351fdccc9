"""What a loss asks an iteration for: draws of images, features, and how much it keeps; and what all losses ask for together."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

DrawKind = Literal["per_class", "all", "minibatch", "pairs"]
"""`pairs`: images of the synthetic set that share what is their own, a basis, and differ in what all classes share."""


@dataclass(frozen=True)
class Draw:
    """Which images a loss wants, of the synthetic or of the real set."""

    kind: DrawKind = "per_class"
    count: int = 0
    """Images (per class, for `per_class`; pairs, for `pairs`); 0 leaves the number to the slot that answers."""


@dataclass(frozen=True)
class Plan:
    """What a loss needs in one iteration; the engine merges the plans of all losses."""

    syn: tuple[Draw, ...] = (Draw(),)
    real: Draw | None = None
    taps: tuple[str, ...] = ()
    separable: bool = True
    """Whether the value is a sum over classes, so that classes may be computed in chunks."""

    own_activations: int = 0
    """Numbers that networks of the loss's own put out for each synthetic image; a step has to hold their graph, too."""

    graph_images: int = 0
    """Most synthetic images whose graph the loss keeps at once; 0 for all that are computed together."""

    graph_copies: float = 1.0
    """Memory of that graph, in graphs of a plain backward pass: more where a gradient is differentiated again."""

    weight_vectors: int = 0
    """Vectors of the size of the network's weights that the value keeps, however the classes are cut."""

    weight_vectors_per_class: int = 0
    """The same for each class that is computed at once."""

    entries_per_pair: int = 0
    """Numbers that the value keeps for each pair of a synthetic and a real image."""

    @property
    def per_class(self) -> Draw:
        """The first draw that is per class: the one that features are computed for unless another is named."""
        return next(draw for draw in self.syn if draw.kind == "per_class")


def merge(plans: Sequence[Plan]) -> Plan:
    """One plan that serves all losses: every distinct draw once, the larger real draw, all taps."""
    real = [plan.real for plan in plans if plan.real is not None]
    if len({draw.kind for draw in real}) > 1:
        raise ValueError("losses ask for real images in different forms")
    graphs = [plan.graph_images for plan in plans]
    return Plan(
        syn=tuple(dict.fromkeys(draw for plan in plans for draw in plan.syn)),
        real=max(real, key=lambda draw: draw.count, default=None),
        taps=tuple(sorted({tap for plan in plans for tap in plan.taps})),
        separable=all(plan.separable for plan in plans),
        own_activations=sum(plan.own_activations for plan in plans),
        graph_images=max(graphs, default=0) if all(graphs) else 0,
        graph_copies=max((plan.graph_copies for plan in plans), default=1.0),
        weight_vectors=sum(plan.weight_vectors for plan in plans),
        weight_vectors_per_class=sum(plan.weight_vectors_per_class for plan in plans),
        entries_per_pair=sum(plan.entries_per_pair for plan in plans),
    )
