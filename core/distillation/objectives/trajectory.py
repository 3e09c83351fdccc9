"""Trajectory matching: training on the synthetic set must lead where training on real images led.

Cazenavette et al., "Dataset Distillation by Matching Training Trajectories", CVPR 2022, arXiv:2203.11932, as its published
code computes it. From an expert's weights th_0, N steps of plain gradient descent on the synthetic set at a learned rate a,

    th_{i+1} = th_i - a g_i,   g_i = d/d th CE(th_i; A_i(S[b_i]), y[b_i])

end at th_N; with th* the expert's weights some epochs after th_0 the loss is L = |th_N - th*|^2 / |th_0 - th*|^2. The batches
b_i are cut from permutations of S that are used up before the next; A_i is one operation with parameters of each image. Where
images stand for one another (bases through hallucinators, HaBa), a permutation is of their groups, and a step sees those of its
groups through one hallucinator, drawn for the step; an iteration decodes the whole set once.

The gradient comes from the reverse sweep (`adjoint`): with l = dL / d th_N and, for i = N - 1 .. 0,

    dL/dS -= a d<g_i, l>/dS,   dL/dy -= a d<g_i, l>/dy,   dL/da -= <g_i, l>,   l -= a d<g_i, l>/d th_i

where each line is one double backward pass through one step: exact, in the memory of one step and N weight vectors.
TESLA (Cui et al., ICML 2023, arXiv:2211.10586) leaves the last line out (`frozen_adjoint`): its gradient is that of the
loss with every th_i held constant, with the factor 2 of the square. Its published code computes this factor as the repetition
of a tuple, so that the images' gradient there is half of this one. DATM (Guo et al., ICLR 2024, arXiv:2310.05773) skips
iterations whose loss exceeds a limit.

It runs eagerly: for a ConvNet-3 of width 32 on 28 px, compiling both passes was measured to save a fifth to a third of their
CPU time after a warm-up of 80 seconds, more than a run of a few hundred iterations gains.

Deviations: the rate is clamped to an interval after each update (published: free, and it diverges); an expert and its start
are drawn anew at each iteration (published: experts in shuffled order).
Shapes: M images, B images of a step, C channels, H W pixels, K classes, P weights.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from core.distillation.attach import attach
from core.distillation.plan import Draw, Plan
from core.distillation.protocols import Transform
from core.distillation.step import Step
from core.errors import InvalidInputError
from core.networks.network import Network, Tensors
from core.specs.estimate.memory import graph_copies, weight_vectors
from core.specs.objective import TrajectorySpec

ALL = Draw("all")


class TrainingStep(NamedTuple):
    """What one step of training on the synthetic set sees."""

    rows: Tensor
    """(B,) int64 on the device of the images."""

    transform: Transform
    """One group for each image."""

    def take(self, images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """Augmented images (B, C, H, W) of the step and their labels (B, ...), with graph to both arguments."""
        seen = self.transform.apply(images.index_select(0, self.rows)[:, None]).squeeze(1)
        return seen, labels.index_select(0, self.rows)


class Segment(NamedTuple):
    """A piece of an expert's trajectory."""

    net: Network
    start: Tensor
    """(P,) th_0."""

    target: Tensor
    """(P,) th*."""

    def gradient(self, weights: Tensor, images: Tensor, labels: Tensor, *, graph: bool) -> Tensor:
        """(P,) gradient of the mean cross-entropy; `graph` keeps what a second derivative needs."""
        if not weights.requires_grad:
            weights = weights.detach().requires_grad_()
        logits = self.net(weights, {}, images, ("logits",), training=True)["logits"]
        (gradient,) = torch.autograd.grad(F.cross_entropy(logits, labels), weights, create_graph=graph)
        return gradient

    def loss(self, end: Tensor) -> Tensor:
        """() squared distance of (P,) weights from the target, relative to that of the start."""
        return (end - self.target).square().sum() / self.scale

    @property
    def scale(self) -> Tensor:
        """() squared distance between the two ends."""
        return (self.start - self.target).square().sum()


class Gradients(NamedTuple):
    """Derivatives of the loss."""

    images: Tensor
    """(M, C, H, W)."""

    labels: Tensor | None
    """(M, K), where labels are learned."""

    rate: Tensor
    """()."""


def unroll(segment: Segment, rate: Tensor, images: Tensor, labels: Tensor, steps: list[TrainingStep]) -> Tensor:
    """() the loss, with the graph of all steps."""
    weights = segment.start
    for step in steps:
        weights = weights - rate * segment.gradient(weights, *step.take(images, labels), graph=True)
    return segment.loss(weights)


def sweep(
    segment: Segment, rate: Tensor, images: Tensor, labels: Tensor, steps: list[TrainingStep], *, frozen: bool = False
) -> tuple[Tensor, Gradients]:
    """The loss, (), and its derivatives by the reverse sweep, in the memory of one step.

    Args:
        segment: where training starts and should end.
        rate: () learning rate a.
        images: (M, C, H, W) synthetic images.
        labels: (M,) int64, or (M, K) that add up to 1 and may require gradient.
        steps: what the N steps see.
        frozen: leave out how an image moves the weights that later steps start from (TESLA).
    """
    images, rate = images.detach(), rate.detach()
    learned = labels.requires_grad
    labels = labels.detach()
    path = [segment.start]
    for step in steps:
        path.append(path[-1] - rate * segment.gradient(path[-1], *step.take(images, labels), graph=False))
    adjoint = 2.0 * (path[-1] - segment.target) / segment.scale
    of_images, of_rate = torch.zeros_like(images), torch.zeros_like(rate)
    of_labels = torch.zeros_like(labels) if learned else None
    for step, weights in zip(reversed(steps), reversed(path[:-1]), strict=True):
        images.requires_grad_()
        labels.requires_grad_(learned)
        weights = weights.detach().requires_grad_()
        gradient = segment.gradient(weights, *step.take(images, labels), graph=True)
        wanted = [images, *([labels] if learned else []), *([] if frozen else [weights])]
        found = torch.autograd.grad(gradient @ adjoint, wanted)
        of_images -= rate * found[0]
        of_rate -= (gradient.detach() @ adjoint).to(of_rate.dtype)
        if of_labels is not None:
            of_labels -= rate * found[1]
        if not frozen:
            adjoint = adjoint - rate * found[-1]
    return segment.loss(path[-1]), Gradients(of_images, of_labels, of_rate)


class Trajectory:
    """The loss, and the learned rate."""

    def __init__(self, spec: TrajectorySpec, device: torch.device, num_images: int) -> None:
        """Start from the rate of the specification; an epoch of training on the set shows `num_images`."""
        self.weight = spec.weight
        self._spec = spec
        self._batch_size = min(spec.batch_size or num_images, num_images)
        self._rate = torch.full((), spec.lr_net, device=device, requires_grad=True)

    def plan(self) -> Plan:
        """All synthetic images; the steps choose among them."""
        return Plan(
            syn=(ALL,), separable=False, graph_images=self._batch_size, graph_copies=graph_copies(self._spec),
            weight_vectors=weight_vectors(self._spec),
        )

    def value(self, step: Step) -> Tensor:
        """() float32, >= 0; 1 where training on the set leads nowhere, 0 where it leads to the target.

        Raises:
            InvalidInputError: the source of networks does not know where its networks went.
        """
        if step.weights.target is None:
            raise InvalidInputError("objective 'trajectory' needs the end of an expert's piece, which this slot 'models' lacks")
        segment = Segment(step.weights.net, step.weights.params, step.weights.target)
        images, labels, steps = step.syn.images, step.syn.labels, self._steps(step)
        if self._spec.gradient_mode == "unrolled":
            loss = unroll(segment, self._rate, images, labels, steps)
        else:
            frozen = self._spec.gradient_mode == "frozen_adjoint"
            value, found = sweep(segment, self._rate, images, labels, steps, frozen=frozen)
            gradients = [(images, found.images), (self._rate, found.rate)]
            if found.labels is not None:
                gradients.append((labels, found.labels))
            loss = attach(value, gradients)
        if self._spec.max_loss:
            step.veto(loss.detach() > self._spec.max_loss)
        return loss

    def _steps(self, step: Step) -> list[TrainingStep]:
        """Batches and augmentations of all steps, drawn on the CPU: permutation when needed, then variant, then operation."""
        groups = step.syn.rows[step.syn.draws.index(ALL)].view(-1, step.parameterization.num_variants)
        everything, variants = groups.shape
        generator = step.rng("trajectory")
        steps: list[TrainingStep] = []
        waiting: list[Tensor] = []
        for _ in range(self._spec.num_steps):
            if self._batch_size == everything:
                chosen = groups
            else:
                if not waiting:
                    waiting = list(groups[torch.randperm(everything, generator=generator)].split(self._batch_size))
                chosen = waiting.pop(0)
            rows = chosen[:, 0] if variants == 1 else chosen[:, int(torch.randint(variants, (), generator=generator))]
            transform = step.augmentation.draw(len(rows), generator, shared_operation=True)
            steps.append(TrainingStep(rows.to(step.syn.images.device, non_blocking=True), transform))
        return steps

    @torch.no_grad()
    def update(self, step: Step) -> None:
        """Back into the interval of the rate."""
        self._rate.clamp_(self._spec.lr_net_min, self._spec.lr_net_max)

    def parameters(self) -> dict[str, list[Tensor]]:
        """The learned rate."""
        return {"rate": [self._rate]}

    def state(self) -> Tensors:
        """The learned rate."""
        return {"rate": self._rate.detach()}

    @torch.no_grad()
    def load(self, state: Tensors) -> None:
        """Take the rate back."""
        self._rate.copy_(state["rate"])
