"""Thinning out of curves."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from api.jobs.metrics import Sample, thin

pytestmark = pytest.mark.unit

VALUES = st.lists(st.none() | st.floats(-1e6, 1e6), max_size=400)


def samples(values: list[float | None]) -> list[Sample]:
    return [Sample(3 * i, value, 1) for i, value in enumerate(values)]


@given(VALUES, st.integers(5, 100))
def test_keeps_bounds_order_ends_extremes_and_gaps(values: list[float | None], max_points: int) -> None:
    given_points = samples(values)
    kept = list(thin(given_points, max_points))
    assert len(kept) <= max_points
    assert set(kept) <= set(given_points)
    assert [s.step for s in kept] == sorted({s.step for s in kept})
    if len(values) <= max_points:
        assert kept == given_points
        return
    assert (kept[0], kept[-1]) == (given_points[0], given_points[-1])
    finite = [value for value in values if value is not None]
    if finite:
        remaining = [s.value for s in kept if s.value is not None]
        assert (min(remaining), max(remaining)) == (min(finite), max(finite))
    assert any(s.value is None for s in kept) == (None in values)


def test_a_single_spike_survives() -> None:
    values: list[float | None] = [0.0] * 20_000
    values[12_345] = 7.0
    kept = thin(samples(values), 1000)
    assert Sample(3 * 12_345, 7.0, 1) in kept
    assert len(kept) <= 1000
