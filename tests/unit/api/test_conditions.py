"""Ranges and preconditions, against a naive reading of RFC 9110."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from api.artifacts.conditions import Conditions, Plan, Span, parse_range, plan
from api.errors import PreconditionFailedError, RangeNotSatisfiableError
from api.responses import tag_matches

pytestmark = pytest.mark.unit

TAG = '"sha256-aa"'


class TestParseRange:
    @pytest.mark.parametrize(
        ("header", "span"),
        [
            ("bytes=0-", (0, 100)), ("bytes=0-0", (0, 1)), ("bytes=5-5", (5, 6)), ("bytes=99-", (99, 100)),
            ("bytes=10-19", (10, 20)), ("bytes=90-1000", (90, 100)), ("bytes=-1", (99, 100)), ("bytes=-100", (0, 100)),
            ("bytes=-500", (0, 100)), ("BYTES=1-2", (1, 3)), (" bytes = 1-2 ", (1, 3)),
        ],
    )
    def test_satisfiable(self, header: str, span: tuple[int, int]) -> None:
        assert parse_range(header, 100) == Span(*span)

    @pytest.mark.parametrize("header", ["bytes=100-", "bytes=100-200", "bytes=-0", "bytes=999999999999999999-"])
    def test_beyond_the_end(self, header: str) -> None:
        with pytest.raises(RangeNotSatisfiableError) as caught:
            parse_range(header, 100)
        assert caught.value.size_bytes == 100

    @pytest.mark.parametrize("header", ["bytes=0-", "bytes=-1", "bytes=0-0"])
    def test_nothing_satisfies_an_empty_file(self, header: str) -> None:
        with pytest.raises(RangeNotSatisfiableError):
            parse_range(header, 0)

    @pytest.mark.parametrize(
        "header",
        [
            "", "bytes", "bytes=", "bytes=-", "bytes=a-b", "bytes=5-2", "bytes=1-2,4-5", "items=0-5", "bytes=1--2",
            "bytes=+1-2", "bytes=\u0661-\u0662", "bytes=0x1-2", "bytes=1.0-2", "bytes=1" + "0" * 30 + "-",
        ],
    )
    def test_anything_else_is_ignored(self, header: str) -> None:
        assert parse_range(header, 100) is None

    @given(st.integers(0, 300), st.integers(0, 300), st.integers(1, 200))
    def test_is_what_slicing_gives(self, first: int, last: int, size: int) -> None:
        body = bytes(i % 256 for i in range(size))
        try:
            span = parse_range(f"bytes={first}-{last}", size)
        except RangeNotSatisfiableError:
            assert last >= first >= size
            return
        assert (span is None) == (last < first)
        if span is not None:
            assert body[span.start : span.stop] == body[first : last + 1] != b""

    @given(st.integers(1, 300), st.integers(1, 200))
    def test_a_suffix_is_the_end(self, length: int, size: int) -> None:
        body = bytes(i % 256 for i in range(size))
        span = parse_range(f"bytes=-{length}", size)
        assert span is not None
        assert body[span.start : span.stop] == body[-length:]

    @given(st.text(max_size=40), st.integers(0, 100))
    def test_never_fails_otherwise(self, header: str, size: int) -> None:
        try:
            span = parse_range(header, size)
        except RangeNotSatisfiableError:
            return
        assert span is None or 0 <= span.start < span.stop <= size


class TestPlan:
    def test_without_conditions_everything_is_sent(self) -> None:
        assert plan(Conditions(), TAG, 10, ranges=True) == Plan(200, Span(0, 10))

    @pytest.mark.parametrize("given_tag", [TAG, f"W/{TAG}", f'"x", {TAG}', "*"])
    def test_if_none_match_compares_weakly(self, given_tag: str) -> None:
        assert plan(Conditions(if_none_match=given_tag, range="bytes=0-1"), TAG, 10, ranges=True).status == 304

    @pytest.mark.parametrize("given_tag", ['"sha256-bb"', "sha256-aa", ""])
    def test_another_version_is_sent(self, given_tag: str) -> None:
        assert plan(Conditions(if_none_match=given_tag), TAG, 10, ranges=True).status == 200

    @pytest.mark.parametrize("given_tag", ['"x"', f"W/{TAG}", ""])
    def test_if_match_compares_strongly(self, given_tag: str) -> None:
        with pytest.raises(PreconditionFailedError):
            plan(Conditions(if_match=given_tag), TAG, 10, ranges=True)

    @pytest.mark.parametrize("given_tag", [TAG, "*", f'"x",{TAG}'])
    def test_if_match_lets_the_same_version_pass(self, given_tag: str) -> None:
        assert plan(Conditions(if_match=given_tag, range="bytes=1-2"), TAG, 10, ranges=True) == Plan(206, Span(1, 3))

    @pytest.mark.parametrize("validator", ['"stale"', f"W/{TAG}", "Sat, 21 Nov 2026 00:00:00 GMT", ""])
    def test_a_stale_if_range_gives_everything(self, validator: str) -> None:
        assert plan(Conditions(range="bytes=50-", if_range=validator), TAG, 10, ranges=True) == Plan(200, Span(0, 10))

    def test_a_fresh_if_range_gives_the_range(self) -> None:
        assert plan(Conditions(range="bytes=5-", if_range=TAG), TAG, 10, ranges=True) == Plan(206, Span(5, 10))

    def test_head_has_no_ranges(self) -> None:
        assert plan(Conditions(range="bytes=50-"), TAG, 10, ranges=False) == Plan(200, Span(0, 10))


def test_tags_of_rows() -> None:
    assert tag_matches('W/"3"', 'W/"3"')
    assert tag_matches('"3"', 'W/"3"')
    assert not tag_matches('W/"2"', 'W/"3"')
    assert not tag_matches(None, 'W/"3"')
