from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest

from tests.unit.client.contract_server import ContractServer, Handler, Server


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
