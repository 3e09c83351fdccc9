"""The supervisor's choices, as tables."""

from __future__ import annotations

from dataclasses import replace

import pytest

from core.jobs.states import State
from core.specs.report import ErrorLine
from worker.decide import Action, Limits, Stop, Verdict, View, conclude, decide

pytestmark = pytest.mark.unit

LIMITS = Limits(timeout=1000.0, stall=100.0, cancel_grace=5.0, drain=60.0, unkillable=20.0)
CALM = View(now=50.0, state=State.RUNNING, draining=False, started=0.0, heard=49.0, stop=None, asked=0.0)


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({}, (Action.WAIT, None)),
        ({"state": None}, (Action.KILL, Stop.LOST)),
        ({"state": State.CANCELLING}, (Action.TERMINATE, Stop.CANCEL)),
        ({"draining": True}, (Action.TERMINATE, Stop.DRAIN)),
        ({"now": 1000.0, "heard": 999.0}, (Action.TERMINATE, Stop.TIMEOUT)),
        ({"now": 149.0}, (Action.KILL, Stop.STALL)),
        ({"now": 148.9}, (Action.WAIT, None)),
        # already asked: patience, then force
        ({"draining": True, "stop": Stop.DRAIN, "asked": 0.0}, (Action.WAIT, Stop.DRAIN)),
        ({"draining": True, "stop": Stop.DRAIN, "asked": -10.0}, (Action.KILL, Stop.DRAIN)),
        ({"state": State.CANCELLING, "stop": Stop.CANCEL, "asked": 46.0}, (Action.WAIT, Stop.CANCEL)),
        ({"state": State.CANCELLING, "stop": Stop.CANCEL, "asked": 45.0}, (Action.KILL, Stop.CANCEL)),
        # what outlives the force is left
        ({"draining": True, "stop": Stop.DRAIN, "asked": -29.9}, (Action.KILL, Stop.DRAIN)),
        ({"draining": True, "stop": Stop.DRAIN, "asked": -30.0}, (Action.ABANDON, Stop.DRAIN)),
        ({"state": None, "stop": Stop.LOST, "asked": 30.0}, (Action.ABANDON, Stop.LOST)),
        ({"state": State.CANCELLING, "stop": Stop.STALL, "asked": 0.0}, (Action.TERMINATE, Stop.CANCEL)),
        # a stronger reason replaces a weaker one, never the other way round
        ({"state": State.CANCELLING, "draining": True, "stop": Stop.DRAIN, "asked": 49.0}, (Action.TERMINATE, Stop.CANCEL)),
        ({"state": State.CANCELLING, "draining": True, "stop": Stop.CANCEL, "asked": 49.0}, (Action.WAIT, Stop.CANCEL)),
        ({"state": None, "stop": Stop.CANCEL, "asked": 49.0}, (Action.KILL, Stop.LOST)),
    ],
)
def test_while_the_child_runs(change: dict[str, object], expected: tuple[Action, Stop | None]) -> None:
    assert decide(replace(CALM, **change), LIMITS) == expected  # type: ignore[arg-type]


DIVERGED = ErrorLine(code="diverged", message="not finite at iteration 7")
OUTAGE = ErrorLine(code="device_fault", message="lost")


@pytest.mark.parametrize(
    ("exit_code", "stop", "state", "error", "verdict", "code", "retryable"),
    [
        (0, None, State.RUNNING, None, Verdict.COMMIT, "", False),
        (0, Stop.DRAIN, State.RUNNING, None, Verdict.COMMIT, "", False),
        (0, None, State.CANCELLING, None, Verdict.CANCELLED, "", False),
        (0, None, None, None, Verdict.DISCARD, "", False),
        (-9, Stop.LOST, State.RUNNING, None, Verdict.DISCARD, "", False),
        (75, Stop.DRAIN, State.RUNNING, None, Verdict.GIVE_BACK, "", False),
        (75, None, State.RUNNING, None, Verdict.GIVE_BACK, "", False),
        (-9, Stop.DRAIN, State.RUNNING, None, Verdict.GIVE_BACK, "", False),
        (-9, Stop.CANCEL, State.CANCELLING, None, Verdict.CANCELLED, "", False),
        (75, Stop.TIMEOUT, State.RUNNING, None, Verdict.FAIL, "timeout", False),
        (-9, Stop.STALL, State.RUNNING, None, Verdict.FAIL, "stalled", True),
        (73, None, State.RUNNING, DIVERGED, Verdict.FAIL, "diverged", False),
        (73, None, State.RUNNING, None, Verdict.FAIL, "diverged", False),
        (72, None, State.RUNNING, OUTAGE, Verdict.FAIL, "device_fault", True),
        (71, None, State.RUNNING, None, Verdict.FAIL, "gpu_out_of_memory", False),
        (65, None, State.RUNNING, None, Verdict.FAIL, "dataset_unreadable", False),
        (64, None, State.RUNNING, None, Verdict.FAIL, "invalid_input", False),
        (1, None, State.RUNNING, None, Verdict.FAIL, "internal", False),
        (-11, None, State.RUNNING, None, Verdict.FAIL, "child_killed", True),
        (None, Stop.STALL, State.RUNNING, None, Verdict.FAIL, "device_fault", True),
        (None, Stop.DRAIN, State.RUNNING, None, Verdict.GIVE_BACK, "", False),
        (None, Stop.LOST, None, None, Verdict.DISCARD, "", False),
        (None, Stop.CANCEL, State.CANCELLING, None, Verdict.CANCELLED, "", False),
    ],
)
def test_when_the_child_is_gone(
    exit_code: int | None,
    stop: Stop | None,
    state: State | None,
    error: ErrorLine | None,
    verdict: Verdict,
    code: str,
    retryable: bool,
) -> None:
    conclusion = conclude(exit_code, stop, state, error)
    assert (conclusion.verdict, conclusion.code, conclusion.retryable) == (verdict, code, retryable)


@pytest.mark.parametrize(
    ("exit_code", "short_of_memory", "code", "retryable"),
    [(-9, True, "host_out_of_memory", False), (-9, False, "child_killed", True), (-11, True, "child_killed", True)],
)
def test_a_kill_for_want_of_memory_is_told_from_any_other(
    exit_code: int, short_of_memory: bool, code: str, retryable: bool
) -> None:
    conclusion = conclude(exit_code, None, State.RUNNING, None, short_of_memory=short_of_memory)
    assert (conclusion.verdict, conclusion.code, conclusion.retryable) == (Verdict.FAIL, code, retryable)
