"""How a distillation does while it runs, on training images that it never sees."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

from core.data.real_set import RealSet
from core.evaluation.protocol import rate_for, trainer_of
from core.progress import Hooks, Record
from core.specs.evaluation import EvaluationSpec

HELD_OUT_SERIES = "held_out/accuracy"


class HeldOut:
    """Every so many iterations: one network on the set as it is, tested on held-out training images."""

    def __init__(self, spec: EvaluationSpec, data: RealSet, *, num_images: int, num_iterations: int, seed: int) -> None:
        """Decide by the number of decoded images and the length of the run whether training is compiled."""
        self._every = spec.held_out_every_iterations
        self._spec = spec
        self._data = data
        self._seed = seed
        num_runs = 1 + num_iterations // self._every if self._every else 0
        self._trainer = trainer_of(spec, spec.network, data, num_images, num_runs) if self._every else None

    def __call__(
        self, completed: int, decoded: Callable[[], tuple[Tensor, Tensor]], record: Record, hooks: Hooks, *,
        learned_rate: Callable[[], float | None] = lambda: None, variants: int = 1,
    ) -> None:
        """Look at the set after `completed` iterations, once for each such number; `variants` as in `Trainer.train`.

        Raises:
            InvalidInputError: the protocol asks for a learned rate and there is none.
        """
        if self._trainer is None or not completed or completed % self._every:
            return
        if any(at == completed for at, _ in record.series.get(HELD_OUT_SERIES, [])):
            return
        (images, labels), data = decoded(), self._data
        with hooks.busy("watching on held-out images"):
            trained = self._trainer.train(
                images, labels, seed=self._seed, name="held_out_watch", index=completed, hooks=hooks, variants=variants,
                lr_net=rate_for(self._spec, learned_rate()),
            )
            value = self._trainer.accuracy(trained, data, data.held_out_images, data.held_out_labels)
        record.add(hooks, HELD_OUT_SERIES, completed, value)
