"""Combinations that can never run, each one predicate with a message that names the fields.

Everything that is not refused here runs. A predicate sees the resolved specification and the facts of the data set, and
returns the problem or None.
"""

from __future__ import annotations

from collections.abc import Callable

from core.catalogue import DatasetInfo
from core.errors import FieldProblem, SpecError
from core.specs.compatibility import COMPATIBILITY
from core.specs.fit import NETWORK_RULES
from core.specs.job import DistillationSpec
from core.specs.trajectories import TRAJECTORY_RULES

Rule = Callable[[DistillationSpec, DatasetInfo], FieldProblem | None]


def _ipc_fits_smallest_class(spec: DistillationSpec, info: DatasetInfo) -> FieldProblem | None:
    counts = info.train_per_class_after(spec.dataset.held_out_fraction)
    smallest = min(counts)
    if spec.ipc <= smallest:
        return None
    label = info.classes[counts.index(smallest)]
    return FieldProblem(
        "/ipc", "ipc_too_large",
        f"ipc is {spec.ipc}, but class {label!r} of {info.name} has only {smallest} training images",
    )


def _held_out_exists(spec: DistillationSpec, info: DatasetInfo) -> FieldProblem | None:
    fraction = spec.dataset.held_out_fraction
    if not spec.evaluation.held_out_every_iterations or all(int(n * fraction) >= 1 for n in info.train_per_class):
        return None
    return FieldProblem(
        "/evaluation/held_out_every_iterations", "nothing_held_out",
        "held_out_every_iterations needs dataset.held_out_fraction large enough to hold out an image of every class",
    )


RULES: tuple[Rule, ...] = (_ipc_fits_smallest_class, *NETWORK_RULES, _held_out_exists, *COMPATIBILITY, *TRAJECTORY_RULES)


def check(spec: DistillationSpec, info: DatasetInfo) -> None:
    """Apply every rule.

    Raises:
        SpecError: at least one rule is broken; `problems` lists all of them.
    """
    problems = tuple(problem for rule in RULES if (problem := rule(spec, info)) is not None)
    if problems:
        raise SpecError("; ".join(p.message for p in problems), problems=problems)
