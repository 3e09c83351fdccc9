"""DM at ipc 1 on real digits beats random selection: small enough for every run of the suite.

Margin, n and seeds were fixed beforehand by `claims.py`; its results file holds the calibration.
"""

from __future__ import annotations

import statistics
from pathlib import Path

import pytest

from tests.statistical.claims import CLAIMS, TEST_SEEDS, measure, threshold

pytestmark = [pytest.mark.statistical, pytest.mark.timeout(600)]
CLAIM = CLAIMS["dm_digits_ipc1"]


def test_distilled_beats_random_by_the_calibrated_margin() -> None:
    gains = [measure(CLAIM, seed, Path()).gain for seed in TEST_SEEDS]
    assert statistics.fmean(gains) > threshold(CLAIM.name) > 0.1, gains


def test_wrong_labels_fail() -> None:
    assert measure(CLAIM, TEST_SEEDS[0], Path(), shuffle_labels=True).gain < 0.0
