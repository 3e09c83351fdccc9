"""Every error class has a place in the one table."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from api import errors
from core.errors import DistillError, JobFailure

pytestmark = pytest.mark.unit


def classes(root: type[DistillError]) -> Iterator[type[DistillError]]:
    yield root
    for child in root.__subclasses__():
        yield from classes(child)


@pytest.mark.parametrize("cls", sorted(set(classes(DistillError)), key=lambda cls: cls.__name__))
def test_each_class_has_a_status(cls: type[DistillError]) -> None:
    kind = errors.kind_of(cls.__new__(cls))
    assert 400 <= kind.status < 600
    if not issubclass(cls, JobFailure) and cls is not DistillError:  # a job's failure is a state, never an answer
        assert kind is not errors.STATUSES[DistillError], cls


def test_what_servers_say_is_never_passed_on() -> None:
    assert all(kind.detail for kind in errors.STATUSES.values() if kind.status >= 500)
