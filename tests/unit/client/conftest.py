from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from api.main import create_app
from core.settings import Settings
from tests.fixtures.api import serving
from tests.unit.client.contract_server import ContractServer, Handler, Server
from tests.unit.client.installation import PART_BYTES, Installation, Wire


@pytest.fixture
def service(monkeypatch: pytest.MonkeyPatch) -> Iterator[ContractServer]:
    monkeypatch.setenv("NO_COLOR", "1")
    with Server(("127.0.0.1", 0), Handler) as server:
        contract = server.contract = ContractServer(url=f"http://127.0.0.1:{server.server_address[1]}")
        monkeypatch.setenv("DISTILL_URL", contract.url)
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield contract
        server.shutdown()
        thread.join()


@pytest.fixture
def there(sqlite_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Installation]:
    """An API with parts of 100 kB. No broker: uploads need none."""
    monkeypatch.setattr("core.uploads.parts.PART_BYTES", PART_BYTES)
    settings = Settings(home=tmp_path / "home", database_url=sqlite_url, broker_url=f"redis+socket://{tmp_path}/none")
    wire = Wire(create_app(settings))
    with serving(settings, wire) as api:
        yield Installation(api, wire)
