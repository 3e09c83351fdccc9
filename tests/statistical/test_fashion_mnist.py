"""Claims on Fashion-MNIST: recipes beat random selection, and one another. Hours on two cores: run by `make stats`.

What DM gains over random selection has a calibrated margin (`claims.py`); the family's margins stand in `table.py`.
"""

from __future__ import annotations

import functools
import os
import statistics
from pathlib import Path

import pytest

from core.data.sources import DEBIAN_FASHION_MNIST
from tests.statistical import table
from tests.statistical.claims import CLAIMS, TEST_SEEDS, measure, threshold

pytestmark = [
    pytest.mark.statistical, pytest.mark.timeout(3600),
    pytest.mark.filterwarnings("ignore"),  # runs of this length are compiled, and torch's compiler warns about torch
]
SEEN = [claim for claim in table.MARGINS if claim not in table.NOT_SEEN]
ROOT = Path(os.environ.get("DISTILL_DATA_ROOT", "data"))


@pytest.fixture(autouse=True)
def _needs_fashion_mnist() -> None:
    if not DEBIAN_FASHION_MNIST.is_dir() and not (ROOT / "FashionMNIST").is_dir():
        pytest.skip("Fashion-MNIST is not on this machine (Debian: dataset-fashion-mnist)")


@pytest.mark.parametrize("name", ["dm_fashion_mnist_ipc1", "dm_fashion_mnist_ipc10"])
def test_distilled_beats_random_by_the_calibrated_margin(name: str) -> None:
    gains = [measure(CLAIMS[name], seed, ROOT).gain for seed in TEST_SEEDS]
    assert statistics.fmean(gains) > threshold(name) > 0.0, gains


def test_wrong_labels_fail() -> None:
    assert measure(CLAIMS["dm_fashion_mnist_ipc1"], TEST_SEEDS[0], ROOT, shuffle_labels=True).gain < 0.0


@functools.cache
def accuracy(row: str) -> float:
    """Mean accuracy of a row of the table at ipc 10, measured now."""
    return float(table.row_of([table.measure(row, 10, seed) for seed in table.SEEDS])["mean"])


@pytest.mark.parametrize(("better", "worse"), SEEN, ids=[f"{better} over {worse}" for better, worse in SEEN])
def test_better_row_of_the_table(better: str, worse: str) -> None:
    assert accuracy(better) - accuracy(worse) > table.MARGINS[better, worse]
