"""One stand for all tests: its servers, API and reconciler live on, and are mended and emptied before each test."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.faults.stand import Stand, standing

FOLDER = Path(__file__).parent


SHORT = frozenset({
    "test_a2_killed_between_commit_and_answer", "test_b2_wiped_with_jobs_queued", "test_w2_killed_while_training",
    "test_w8_a_zombie", "test_w11_connection_lost_during_the_commit", "test_w12_drain",
    "test_w13_cancel_while_the_child_computes", "test_d3_restart_when_every_lease_looks_expired",
    "test_o3_down_at_the_end", "test_r2_two_are_running", "test_a5_killed_in_the_middle_of_a_part",
    "test_a6_killed_while_its_child_reads", "test_a_job_survives_the_launcher_being_killed",
})
"""What `-m "not long"` keeps: one row of each kind, so few that they fit into minutes."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark every other test of this folder as long."""
    for item in items:
        if item.path.parent == FOLDER and getattr(item, "originalname", item.name) not in SHORT:
            item.add_marker(pytest.mark.long)


@pytest.fixture(scope="session")
def _stand(s3_server: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stand]:
    if not sys.platform.startswith("linux") or shutil.which("setpriv") is None:
        pytest.skip("this suite needs Linux and setpriv (util-linux)")
    with standing(tmp_path_factory.mktemp("stand"), s3_server) as made:
        yield made


@pytest.fixture
def stand(_stand: Stand) -> Iterator[Stand]:
    """The stand, whole and empty."""
    _stand.prepare()
    try:
        yield _stand
    finally:
        _stand.clear()
