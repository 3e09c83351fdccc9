from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from core.settings import Settings
from tests.fixtures.api import Api, serving
from tests.fixtures.servers import valkey


@pytest.fixture(scope="session")
def broker_url() -> Iterator[str]:
    """One Valkey for all tests of the API: none of them reads what is published, except where it says so."""
    with valkey() as url:
        yield url


@pytest.fixture
def settings(database_url: str, broker_url: str, tmp_path: Path) -> Settings:
    """On both databases, with a local store and quick streams."""
    return Settings(home=tmp_path / "home", database_url=database_url, broker_url=broker_url, stream_seconds=0.03)


@pytest.fixture
def api(settings: Settings) -> Iterator[Api]:
    """A running API over an empty database."""
    with serving(settings) as made:
        yield made
