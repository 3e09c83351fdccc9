"""From a specification of the slot `labels` to the object that fills it. mypy fails here until a new kind has its arm."""

from __future__ import annotations

from typing import assert_never

from core.distillation.labels.hard import HardLabels
from core.distillation.labels.learned import LearnedLabels
from core.distillation.labels.teacher import TeacherLabels
from core.distillation.protocols import Labels
from core.experts import Pool
from core.specs.synthetic import HardLabelsSpec, LabelsSpec, LearnedLabelsSpec, TeacherLabelsSpec


def build_labels(spec: LabelsSpec, pool: Pool | None, num_virtual: int) -> Labels:
    """Slot `labels`, for so many virtual images; `pool` is that of slot `models`, where it has one."""
    match spec:
        case HardLabelsSpec():
            return HardLabels()
        case LearnedLabelsSpec():
            assert pool is not None, "legality asks for experts"
            return LearnedLabels(pool, num_virtual)
        case TeacherLabelsSpec():
            assert pool is not None, "legality asks for experts"
            return TeacherLabels(spec.teacher, pool, num_virtual)
        case _:
            assert_never(spec)
