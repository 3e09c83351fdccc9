"""Inputs that are fetched while somebody wants them."""

from __future__ import annotations

import threading

import pytest

from worker.inputs import UnwantedError, unless_unwanted

pytestmark = pytest.mark.unit


def test_what_is_fetched_and_what_goes_wrong_reach_the_caller() -> None:
    assert unless_unwanted(lambda: "name", lambda: True) == "name"

    def fails() -> str:
        raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        unless_unwanted(fails, lambda: False)


def test_a_fetch_that_hangs_is_left_when_it_is_not_wanted_any_more() -> None:
    release, looks = threading.Event(), iter([False, False, True])
    with pytest.raises(UnwantedError):
        unless_unwanted(release.wait, lambda: next(looks))
    release.set()
