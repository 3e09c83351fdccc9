"""The loop: one iteration for every method.

    networks, real images and one augmentation are drawn; the synthetic images the losses need are decoded once and cut
    from their graph; losses run on them, class chunk by class chunk where they can; one vector-Jacobian product carries the
    gradient through the decoder; the optimizer moves what is learned, unless something is not finite.

Nothing in the loop waits for the device: the loss is summed there, a non-finite one sets a sticky flag there, and both are
read when the caller is told about progress, at most four times a second.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import nullcontext

import torch
from torch import Tensor

from core import compilation
from core.data.real_set import RealSet
from core.distillation.build import Composition, merge_parameters
from core.distillation.pieces import pieces
from core.distillation.plan import Draw, Plan, merge
from core.distillation.protocols import Batch
from core.distillation.randomness import rng
from core.distillation.step import Step
from core.errors import DivergedError
from core.networks.network import Forward, Tensors
from core.progress import Hooks, Record, Stopped

REPORT_SECONDS = 0.25
MAX_CURVE_POINTS = 200
LOSS_SERIES = "distillation/loss"
CHUNK_IMAGES_CUDA = 4096
"""Synthetic images whose graph is kept at once on CUDA, about 2.5 MB each at 32 px and width 128."""


class Engine:
    """Runs iterations of one composition and knows where it is."""

    def __init__(
        self, composition: Composition, data: RealSet, *, seed: int, num_iterations: int, record: Record,
        num_networks: int | None = None, compiled: bool | None = None,
    ) -> None:
        """Start from what `init` chooses.

        Args:
            composition: one object for each slot.
            data: real set, on the device that computes.
            seed: seed of the job.
            num_iterations: length of the whole run, at most; fixes the spacing of the loss curve.
            record: where curves go.
            num_networks: end of the run in matching networks, for methods that count these.
            compiled: whether passes through the network are compiled; None decides by the length of the run alone.
        """
        self.parts = composition
        self.data = data
        self.seed = seed
        self.num_iterations = num_iterations
        self.num_networks = num_networks
        self.record = record
        self.completed = 0
        """Iterations done."""
        device = data.device
        parameterization = composition.parameterization
        self.initial = composition.init.choose(data, parameterization.num_initial_per_class, rng(seed, "init")).flatten(0, 1)
        parameterization.fill(self.initial.unflatten(0, (data.num_classes, -1)))
        composition.labels.start(parameterization, rng(seed, "labels"))
        self.plan = merge([loss.plan() for loss in composition.losses])
        """What the losses need together."""
        self.pieces = pieces(composition.losses, mixes_images=composition.net.mixes_images)
        if compiled is None:
            work = activations_per_iteration(composition, self.plan) * num_iterations
            compiled = compilation.pays(work, device)
        self.compiled = compiled
        self._forward = Forward.on(device, composition.net, compile_passes=compiled, training=True)
        self.chunk_images = compilation.CHUNK_IMAGES if device.type == "cpu" else CHUNK_IMAGES_CUDA
        """Synthetic images whose graph is kept at once: classes are computed in chunks of at most so many, to equal results."""
        self._loss_spacing = max(1, num_iterations // MAX_CURVE_POINTS)
        self._loss_sum = torch.zeros((), device=device)
        self._diverged_at = torch.full((), -1, dtype=torch.int64, device=device)
        self._pending: list[tuple[int, Tensor]] = []
        self._learned = [t for part in composition.parts().values() for ts in part.parameters().values() for t in ts]

    def run(
        self,
        stop: int,
        hooks: Hooks,
        *,
        save: Callable[[], None] | None = None,
        save_seconds: float = 60.0,
        before_iteration: Callable[[int], None] | None = None,
    ) -> None:
        """Iterate until `stop` iterations are complete, or until all matching networks have served.

        Args:
            stop: iterations, counted from the beginning of the job.
            hooks: told about progress; may ask to stop.
            save: writes a checkpoint; called every `save_seconds`.
            save_seconds: wall time between checkpoints.
            before_iteration: called with the number of completed iterations, before each iteration.

        Raises:
            DivergedError: a loss or gradient was not finite; the set was not changed by it.
            Stopped: the caller asked for it.
        """
        first = True
        started = reported = saved = time.monotonic()
        timed_from, paused = self.completed, 0.0
        try:
            while self.completed < stop and not self.finished:
                if hooks.should_stop():
                    raise Stopped
                if before_iteration is not None:
                    before = time.monotonic()
                    before_iteration(self.completed)
                    paused += time.monotonic() - before
                with hooks.busy("compiling") if first and self.compiled else nullcontext():
                    self.iterate()
                now = time.monotonic()
                if first:
                    first, started, paused, timed_from = False, now, 0.0, self.completed
                if now - reported >= REPORT_SECONDS:
                    timed = self.completed - timed_from
                    self._report(hooks, (now - started - paused) / timed if timed else None)
                    reported = now
                if save is not None and now - saved >= save_seconds:
                    self._report(hooks, None)
                    save()
                    saved = time.monotonic()
        finally:
            self._report(hooks, None)
            if self.completed > timed_from:
                self.record.timed_iterations += self.completed - timed_from
                self.record.timed_seconds += time.monotonic() - started - paused

    @property
    def finished(self) -> bool:
        """Whether the whole run is over."""
        done, total = self.position()
        return done >= total

    def position(self) -> tuple[int, int]:
        """How much of the run is done, and its length: in networks where the method counts these, else in iterations."""
        if self.num_networks is not None:
            return min(self.parts.models.networks_done(), self.num_networks), self.num_networks
        return self.completed, self.num_iterations

    def iterate(self) -> None:
        """One update of the synthetic set."""
        parts, number = self.parts, self.completed
        step, total = self._gradient(number)
        finite = total.isfinite()
        for tensor in self._learned:
            if tensor.grad is not None:
                finite = finite & tensor.grad.isfinite().all()
        done, total_length = self.position()
        allowed = torch.stack([finite, *(~veto for veto in step.vetoes)]).all()
        parts.optimizer.step(allowed, done / max(1, total_length))
        for tensor in self._learned:
            tensor.grad = None
        parts.parameterization.project(step)
        for loss in parts.losses:
            loss.update(step)
        parts.models.advance(step)
        self._note(number, total, finite)
        self.completed = number + 1

    @property
    def num_virtual(self) -> int:
        """Synthetic images of an iteration."""
        return self.num_images(self.plan)

    def num_images(self, plan: Plan) -> int:
        """Synthetic images that answer the draws of a plan."""
        return sum(self.parts.parameterization.count(draw) for draw in plan.syn)

    @property
    def num_real(self) -> int:
        """Real images of an iteration."""
        return 0 if self.plan.real is None else self.parts.selection.count(self.plan.real)

    def learned_rate(self) -> float | None:
        """Learning rate that was learned with the set, if any; waits for the device."""
        rates = merge_parameters(list(self.parts.parts().values())).get("rate", [])
        return float(rates[0].detach()) if rates else None

    def trial(self) -> None:
        """Compute the gradient of the next iteration and forget it: what it takes can be measured, nothing moves."""
        self._gradient(self.completed)
        for tensor in self._learned:
            tensor.grad = None

    def _gradient(self, number: int) -> tuple[Step, Tensor]:
        """The step of an iteration and its loss, (); the gradient gathers on everything that is learned."""
        step, images = self._prepare(number)
        total = self._to_the_leaves(step)
        self._pull_back(images, step.syn)
        return step, total

    def _to_the_leaves(self, step: Step) -> Tensor:
        """The loss of a step, (); its gradient gathers on the leaves, piece by piece, so that one graph is kept at a time."""
        total = torch.zeros((), device=self.data.device)
        for piece in self.pieces:
            for part in step.of(piece.plan).chunks(self.chunk_images) if piece.cut else (step,):
                value = torch.stack([loss.weight * loss.value(part).sum() for loss in piece.losses]).sum()
                if value.requires_grad:  # a term that has not begun moves nothing
                    value.backward()
                total = total + value.detach()
        return total

    def _prepare(self, number: int) -> tuple[Step, tuple[Tensor, Tensor]]:
        parts, plan, num_classes = self.parts, self.plan, self.data.num_classes
        generator = rng(self.seed, "draw", number)
        rows = [parts.parameterization.indices(draw, generator) for draw in plan.syn]
        index, back = torch.unique(torch.cat([r.reshape(-1) for r in rows]), return_inverse=True)
        images, classes = parts.parameterization.decode(index)
        weights = parts.models.next(number)
        parts.labels.observe(index, images, weights)
        labels = parts.labels.targets(index, classes)
        places = [p.view(r.shape) for p, r in zip(back.split([r.numel() for r in rows]), rows, strict=True)]
        syn = Batch(_leaf(images), _leaf(labels), classes, tuple(places), plan.syn)
        step = Step(
            number=number, seed=self.seed, data=self.data, weights=weights, plan=plan, syn=syn,
            forward=self._forward, augmentation=parts.augmentation,
            transform=parts.augmentation.draw(num_classes, rng(self.seed, "augmentation", number)),
            parameterization=parts.parameterization, labels=parts.labels, start=0, stop=num_classes,
        )
        if plan.real is not None:
            step.real_index, step.real_share = parts.selection.pick(plan.real, step)
        return step, (images, labels)

    @staticmethod
    def _pull_back(decoded: tuple[Tensor, Tensor], syn: Batch) -> None:
        """Carry the gradients that gathered on the leaves through the decoder, in one product."""
        pairs = [
            (value, leaf.grad)
            for value, leaf in zip(decoded, (syn.images, syn.labels), strict=True)
            if value.requires_grad and leaf.grad is not None
        ]
        if pairs:
            torch.autograd.backward([value for value, _ in pairs], [gradient for _, gradient in pairs])

    def _note(self, number: int, total: Tensor, finite: Tensor) -> None:
        sticky = (~finite) & (self._diverged_at < 0)
        self._diverged_at = torch.where(sticky, number, self._diverged_at)
        self._loss_sum = self._loss_sum + total
        if (number + 1) % self._loss_spacing == 0:
            self._pending.append((number + 1, self._loss_sum / self._loss_spacing))
            self._loss_sum = torch.zeros_like(self._loss_sum)

    def _check(self) -> None:
        number = int(self._diverged_at)  # the one place that waits for the device
        if number >= 0:
            raise DivergedError(f"the loss or its gradient is not finite at iteration {number}")

    def _report(self, hooks: Hooks, seconds_per_iteration: float | None) -> None:
        self._check()
        for at, value in self._pending:
            self.record.add(hooks, LOSS_SERIES, at, float(value))
        self._pending.clear()
        hooks.progress(*self.position(), seconds_per_iteration)

    def state(self) -> Tensors:
        """Everything a resumed run needs, by `slot/name`, on the CPU."""
        tensors = {f"{slot}/{name}": t for slot, part in self.parts.parts().items() for name, t in part.state().items()}
        tensors |= {"engine/loss_sum": self._loss_sum, "engine/initial": self.initial}
        return {name: tensor.detach().cpu().clone() for name, tensor in tensors.items()}

    def load(self, completed: int, state: Tensors) -> None:
        """Continue after `completed` iterations from what `state` gave."""
        device = self.data.device
        slots: dict[str, Tensors] = {slot: {} for slot in [*self.parts.parts(), "engine"]}
        for key, tensor in state.items():
            slot, _, name = key.partition("/")
            slots[slot][name] = tensor.to(device)
        for slot, part in self.parts.parts().items():
            part.load(slots[slot])
        self._loss_sum, self.initial = slots["engine"]["loss_sum"], slots["engine"]["initial"]
        self.completed = completed

    @torch.no_grad()
    def decoded(self) -> tuple[Tensor, Tensor]:
        """All images of the current set, (U, C, H, W) in network space, sorted by class, and their labels."""
        index = self.parts.parameterization.indices(Draw("all"), rng(self.seed, "decode"))
        images, classes = self.parts.parameterization.decode(index)
        order = classes.argsort(stable=True)
        return images[order].clone(), self.parts.labels.targets(index, classes)[order].clone()


def activations_per_iteration(parts: Composition, plan: Plan) -> float:
    """Activations that the networks of one iteration compute; the backward pass to the synthetic images counts once more."""
    syn = sum(parts.parameterization.count(draw) for draw in plan.syn)
    real = 0 if plan.real is None else parts.selection.count(plan.real)
    return float(parts.net.activations_per_image * (real + 2 * syn))


def _leaf(value: Tensor) -> Tensor:
    return value.detach().requires_grad_(value.requires_grad) if value.is_floating_point() else value

