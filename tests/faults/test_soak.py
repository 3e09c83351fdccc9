"""The soak with few jobs. With 500: `python -m tests.faults.soak --out FILE`."""

from __future__ import annotations

import pytest

from tests.faults.soak import Plan, Soak, sound
from tests.faults.stand import TIME_SCALE, Stand

pytestmark = [pytest.mark.faults, pytest.mark.timeout(1200)]


def test_twenty_jobs_under_random_faults(stand: Stand) -> None:
    plan = Plan(jobs=20, workers=2, seed=7, kill_every_seconds=6 * TIME_SCALE, wipe_every_seconds=8 * TIME_SCALE)
    outcome = Soak(stand, plan).run()
    assert sound(outcome), (outcome, stand.logs())
    assert (outcome.probes, outcome.distillations) == (18, 2)
    assert outcome.kills_of_busy_workers, "a run without faults shows nothing"
    assert outcome.wipes
