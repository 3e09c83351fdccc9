"""What a supervisor does next: two pure functions over what it can see, tested by a table.

`decide` answers while a child runs (leave it, ask it to stop, kill it); `conclude` answers when it is gone. Neither touches
a clock, a process or a database.
"""

from __future__ import annotations

import signal
from dataclasses import dataclass
from enum import StrEnum

from core.jobs.states import State
from core.specs.report import ErrorLine, ExitCode


class Stop(StrEnum):
    """Why a child has to stop, the strongest first."""

    LOST = "lost"
    """The lease is gone: nothing may be written any more."""
    CANCEL = "cancel"
    TIMEOUT = "timeout"
    STALL = "stall"
    DRAIN = "drain"


class Action(StrEnum):
    """What to do with a running child."""

    WAIT = "wait"
    TERMINATE = "terminate"
    """SIGTERM: checkpoint and exit 75."""
    KILL = "kill"
    """SIGKILL to the whole process group."""
    ABANDON = "abandon"
    """Leave it: it outlived SIGKILL, so it hangs in the kernel and can write nothing any more."""


@dataclass(frozen=True)
class View:
    """What the supervisor sees. Times are seconds of one monotonic clock."""

    now: float
    state: State | None
    """As last read from SQL; None when the lease is lost."""
    draining: bool
    started: float
    heard: float
    """When the child last said anything."""
    stop: Stop | None
    """What the child was already asked to stop for."""
    asked: float
    """When it was asked."""


@dataclass(frozen=True)
class Limits:
    """Seconds."""

    timeout: float
    stall: float
    cancel_grace: float
    drain: float
    unkillable: float
    """Time from SIGKILL to giving the child up."""

    def grace(self, stop: Stop) -> float:
        """Time from SIGTERM to SIGKILL."""
        return {Stop.LOST: 0.0, Stop.STALL: 0.0, Stop.DRAIN: self.drain}.get(stop, self.cancel_grace)


def reason_to_stop(view: View, limits: Limits) -> Stop | None:
    """The strongest reason in sight."""
    if view.state is None:
        return Stop.LOST
    if view.state is State.CANCELLING:
        return Stop.CANCEL
    if view.now - view.started >= limits.timeout:
        return Stop.TIMEOUT
    if view.now - view.heard >= limits.stall:
        return Stop.STALL
    return Stop.DRAIN if view.draining else None


def decide(view: View, limits: Limits) -> tuple[Action, Stop | None]:
    """What to do with a running child, and the reason from now on.

    A stronger reason replaces a weaker one (a cancel during a drain shortens the patience); a child that does not stop
    within its grace is killed.
    """
    seen = reason_to_stop(view, limits)
    order = list(Stop)
    if seen is not None and (view.stop is None or order.index(seen) < order.index(view.stop)):
        return (Action.KILL if limits.grace(seen) == 0 else Action.TERMINATE), seen
    if view.stop is None or (late := view.now - view.asked - limits.grace(view.stop)) < 0:
        return Action.WAIT, view.stop
    return (Action.KILL if late < limits.unkillable else Action.ABANDON), view.stop


class Verdict(StrEnum):
    """How an attempt ends."""

    COMMIT = "commit"
    FAIL = "fail"
    GIVE_BACK = "give_back"
    """Queued again, not counted as a failure."""
    WAIT = "wait"
    """Other jobs have to make first what this one reads."""
    CANCELLED = "cancelled"
    DISCARD = "discard"
    """The lease is lost: write nothing."""


@dataclass(frozen=True)
class Conclusion:
    """The verdict, and the error for `FAIL`."""

    verdict: Verdict
    code: str = ""
    message: str = ""
    retryable: bool = False


RETRYABLE = frozenset({"worker_lost", "child_killed", "device_fault", "object_store_unavailable", "stalled"})
"""Error codes for which another attempt may end otherwise."""

_BY_EXIT = {
    ExitCode.BAD_SPEC: ("invalid_input", "the specification cannot be run"),
    ExitCode.BAD_DATA: ("dataset_unreadable", "the data set cannot be read"),
    ExitCode.DEVICE_MEMORY: ("gpu_out_of_memory", "the device ran out of memory"),
    ExitCode.DEVICE_FAULT: ("device_fault", "the device failed"),
    ExitCode.DIVERGED: ("diverged", "the loss is no longer finite"),
}


def conclude(
    exit_code: int | None, stop: Stop | None, state: State | None, error: ErrorLine | None, *, short_of_memory: bool = False
) -> Conclusion:
    """How the attempt ends, from how its child ended.

    Args:
        exit_code: the child's; negative for a signal, None when it was abandoned.
        stop: what the child was asked to stop for.
        state: the job's state as last read; None when the lease is lost.
        error: the error line the child wrote, if any.
        short_of_memory: whether the kernel ended a process for want of memory meanwhile.
    """
    if state is None or stop is Stop.LOST:
        return Conclusion(Verdict.DISCARD)
    if state is State.CANCELLING:
        return Conclusion(Verdict.CANCELLED)
    if exit_code is None and stop is Stop.DRAIN:
        return Conclusion(Verdict.GIVE_BACK)
    if exit_code is None:
        message = "the child process outlived SIGKILL: it hangs in the kernel, in a driver or on a disk"
        return Conclusion(Verdict.FAIL, "device_fault", message, retryable=True)
    if exit_code == ExitCode.OK:
        return Conclusion(Verdict.COMMIT)
    if exit_code == ExitCode.WAITING:
        return Conclusion(Verdict.WAIT)
    if stop is Stop.TIMEOUT:
        return Conclusion(Verdict.FAIL, "timeout", "the attempt ran longer than timeout_seconds")
    if stop is Stop.STALL:
        return Conclusion(Verdict.FAIL, "stalled", "the child process said nothing for too long", retryable=True)
    if stop is Stop.DRAIN or exit_code == ExitCode.STOPPED:
        return Conclusion(Verdict.GIVE_BACK)
    if error is not None:
        return Conclusion(Verdict.FAIL, error.code, error.message, error.code in RETRYABLE)
    if exit_code == -signal.SIGKILL and short_of_memory:
        return Conclusion(Verdict.FAIL, "host_out_of_memory", "the kernel ended the child process for want of memory")
    if exit_code < 0:
        return Conclusion(Verdict.FAIL, "child_killed", f"the child process was ended by signal {-exit_code}", True)
    code, message = _BY_EXIT.get(exit_code, ("internal", f"the child process ended with exit code {exit_code}"))  # type: ignore[call-overload]
    return Conclusion(Verdict.FAIL, code, message, code in RETRYABLE)
