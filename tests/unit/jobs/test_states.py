"""The transition table says what the service contract says."""

from __future__ import annotations

import pytest

from core.jobs.states import TRANSITIONS, State, sources

pytestmark = pytest.mark.unit


def test_terminal_states_never_change() -> None:
    assert {state for state in State if state.terminal} == {State.SUCCEEDED, State.FAILED, State.CANCELLED}


def test_a_cancel_that_was_accepted_wins() -> None:
    assert TRANSITIONS[State.CANCELLING] == {State.CANCELLED}
    assert State.CANCELLING not in sources(State.SUCCEEDED)


def test_only_a_claim_starts_a_job() -> None:
    assert sources(State.RUNNING) == {State.QUEUED}


def test_every_state_can_be_reached() -> None:
    reached = set().union(*TRANSITIONS.values()) | {State.WAITING}
    assert reached == set(State)
