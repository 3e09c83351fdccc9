"""The states of a job and the one table of transitions.

    waiting --> queued --> running --> succeeded | failed
       |          |  ^        |
       |          |  '--------'  drain, retryable error, lost lease
       |          |           '--> cancelling --> cancelled
       '----------'------------------------------> cancelled

Every write is a compare-and-set on the old state, so a transition that is not in the table cannot happen by accident and a
lost race changes nothing. Terminal states never change.
"""

from __future__ import annotations

from enum import StrEnum


class State(StrEnum):
    """States of a job."""

    WAITING = "waiting"
    QUEUED = "queued"
    RUNNING = "running"
    CANCELLING = "cancelling"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELLED = "cancelled"

    @property
    def terminal(self) -> bool:
        """Whether the state is final."""
        return not TRANSITIONS[self]


TRANSITIONS: dict[State, frozenset[State]] = {
    State.WAITING: frozenset({State.QUEUED, State.FAILED, State.CANCELLED}),
    State.QUEUED: frozenset({State.RUNNING, State.CANCELLED}),
    State.RUNNING: frozenset({State.QUEUED, State.WAITING, State.SUCCEEDED, State.FAILED, State.CANCELLING}),
    State.CANCELLING: frozenset({State.CANCELLED}),
    State.SUCCEEDED: frozenset(),
    State.FAILED: frozenset(),
    State.CANCELLED: frozenset(),
}

LEASED = frozenset({State.RUNNING, State.CANCELLING})
"""States in which a worker holds the job."""


def sources(target: State) -> frozenset[State]:
    """The states from which `target` may be entered."""
    return frozenset(state for state, targets in TRANSITIONS.items() if target in targets)
