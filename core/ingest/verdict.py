"""From what is wrong with somebody's files to the error that ends the job."""

from __future__ import annotations

from collections.abc import Iterable

from core.errors import DatasetRejectedError, FieldProblem
from core.ingest.samples import Corrupt, Refused
from core.specs.ingest import ConversionSpec, IngestLimits, IngestProblem


def rejected(problems: Iterable[IngestProblem], limits: IngestLimits) -> DatasetRejectedError:
    """The error with at most `max_problems` of the problems; its message is that of the first. Pointers are members."""
    told = tuple(FieldProblem(one.member, one.code, one.message) for one in problems)[: limits.max_problems]
    first = told[0]
    return DatasetRejectedError(f"{first.pointer}: {first.message}" if first.pointer else first.message, problems=told)


def problems_of(error: DatasetRejectedError) -> list[IngestProblem]:
    """The problems, back from the error."""
    return [IngestProblem(code=code, message=message, member=pointer) for pointer, code, message in error.problems]


class Unreadable:
    """Counts images that cannot be decoded, up to those that a conversion bears and the problems that are told."""

    def __init__(self, conversion: ConversionSpec, limits: IngestLimits) -> None:
        self._bearable, self._limits = conversion.max_corrupt, limits
        self._first: list[IngestProblem] = []
        self.count = 0

    def add(self, error: Corrupt) -> None:
        """One more.

        Raises:
            DatasetRejectedError: there are more than can be borne, and enough of them to tell.
        """
        self.count += 1
        if len(self._first) < self._limits.max_problems:
            self._first.append(error.problem)
        if self.count >= self._limits.max_problems:
            self.require_bearable()

    def require_bearable(self) -> None:
        """Pass, unless there are too many.

        Raises:
            DatasetRejectedError: of as many images as are told.
        """
        if self.count > self._bearable:
            raise rejected(map(self._with_rule, self._first), self._limits)

    def beside(self, refusal: Refused) -> DatasetRejectedError:
        """The error of a refusal that came after these."""
        return rejected([refusal.problem, *self._first], self._limits)

    def _with_rule(self, problem: IngestProblem) -> IngestProblem:
        rule = f"conversion.max_corrupt allows {self._bearable} unreadable image(s)"
        return problem.model_copy(update={"message": f"{problem.message}; {rule}"})
