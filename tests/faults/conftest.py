"""One stand for all tests: its servers, API and reconciler live on, and are mended and emptied before each test."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Iterator

import pytest

from tests.faults.stand import Stand, standing


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
