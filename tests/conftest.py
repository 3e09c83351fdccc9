"""Fixtures shared by all tests. Servers are used where they answer; with CI=true a missing one is a failure."""

from __future__ import annotations

pytest_plugins = ["tests.fixtures.servers", "tests.fixtures.service"]
