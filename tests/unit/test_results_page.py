"""`docs/results.md` says what the results files say."""

from __future__ import annotations

import pytest

from tests.statistical.document import PAGE, page, results

pytestmark = pytest.mark.unit


def test_the_page_is_current() -> None:
    assert PAGE.read_text() == page(results()), "run: python -m tests.statistical.document"
