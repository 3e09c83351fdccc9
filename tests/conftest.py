"""Fixtures shared by all tests. Servers are used where they answer; with CI=true a missing one is a failure."""

from __future__ import annotations

import os

# Tensors in tests are small: a second thread gains nothing, and waits long for its turn on a busy machine.
os.environ.setdefault("OMP_NUM_THREADS", "1")

pytest_plugins = ["tests.fixtures.servers", "tests.fixtures.service", "tests.fixtures.digits"]
