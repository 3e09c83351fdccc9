"""Claims on Fashion-MNIST: recipes beat random selection, and one another. Hours on two cores: run by `make stats`.

A claim is tested once its results file holds a calibration.
"""

from __future__ import annotations

import os
import statistics
from pathlib import Path

import pytest

from core.data.sources import DEBIAN_FASHION_MNIST
from tests.statistical.claims import CLAIMS, TEST_SEEDS, calibrated, measure, threshold

pytestmark = [
    pytest.mark.statistical, pytest.mark.timeout(3600),
    pytest.mark.filterwarnings("ignore"),  # runs of this length are compiled, and torch's compiler warns about torch
]
ROOT = Path(os.environ.get("DISTILL_DATA_ROOT", "data"))


@pytest.fixture(autouse=True)
def _needs_fashion_mnist() -> None:
    if not DEBIAN_FASHION_MNIST.is_dir() and not (ROOT / "FashionMNIST").is_dir():
        pytest.skip("Fashion-MNIST is not on this machine (Debian: dataset-fashion-mnist)")


@pytest.mark.parametrize("name", [name for name in CLAIMS if name != "dm_digits_ipc1" and calibrated(name)])
def test_distilled_beats_random_by_the_calibrated_margin(name: str) -> None:
    gains = [measure(CLAIMS[name], seed, ROOT).gain for seed in TEST_SEEDS]
    assert statistics.fmean(gains) > threshold(name) > 0.0, gains


def test_wrong_labels_fail() -> None:
    assert measure(CLAIMS["dm_fashion_mnist_ipc1"], TEST_SEEDS[0], ROOT, shuffle_labels=True).gain < 0.0
