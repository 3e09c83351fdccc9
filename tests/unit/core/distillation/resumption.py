"""A run that is cut after any iteration and resumed by a new engine ends as the uninterrupted one does, to the last bit."""

from __future__ import annotations

from collections.abc import Callable

from core.distillation.engine import Engine


def assert_resumes_exactly(engine_of: Callable[[], Engine], *, stop: int = 4) -> Engine:
    """Compare all states after `stop` iterations; gives the engine that ran through."""
    whole, states = engine_of(), []
    for _ in range(stop):
        states.append(whole.state())
        whole.iterate()
    for cut in range(1, stop):
        resumed = engine_of()
        resumed.load(cut, states[cut])
        while resumed.completed < stop:
            resumed.iterate()
        assert {k: v.tolist() for k, v in resumed.state().items()} == {k: v.tolist() for k, v in whole.state().items()}
    return whole
