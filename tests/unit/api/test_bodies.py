"""Reading bodies: whatever comes in, the result is one finite object or a refusal of ours."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from api.bodies import MAX_DEPTH, parse_object
from api.errors import InvalidJsonError
from api.jobs.service import read_specification
from core.catalogue import dataset_info
from core.errors import SpecError
from core.settings import Settings

pytestmark = pytest.mark.unit

TEXT = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=8)
SCALARS = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | TEXT
TREES = st.recursive(
    SCALARS, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3), max_leaves=8
)


def nested(depth: int) -> bytes:
    return b'{"a":' * (depth - 1) + b"{}" + b"}" * (depth - 1)


class TestParseObject:
    @given(st.dictionaries(TEXT, TREES, max_size=4))
    def test_reads_what_json_writes(self, tree: dict[str, Any]) -> None:
        assert parse_object(json.dumps(tree).encode()) == tree
        assert parse_object(json.dumps(tree, ensure_ascii=False).encode()) == tree

    @given(st.binary(max_size=64))
    def test_refuses_or_reads_any_bytes(self, body: bytes) -> None:
        try:
            tree = parse_object(body)
        except (InvalidJsonError, SpecError):
            return
        json.dumps(tree, allow_nan=False).encode()

    def test_depth_is_bounded_exactly(self) -> None:
        parse_object(nested(MAX_DEPTH))
        with pytest.raises(InvalidJsonError, match="nested"):
            parse_object(nested(MAX_DEPTH + 2))

    @pytest.mark.parametrize("depth", [200, 900, 5_000, 200_000])
    def test_no_depth_breaks_the_reader(self, depth: int) -> None:
        for body in (nested(depth), b"[" * depth, b'{"a":[' * depth):
            with pytest.raises(InvalidJsonError):
                parse_object(body)

    @pytest.mark.parametrize("text", ["NaN", "Infinity", "-Infinity", "1e999", "-1e999", "9" * 5000])
    def test_numbers_that_are_none(self, text: str) -> None:
        with pytest.raises(InvalidJsonError):
            parse_object(f'{{"a": [{text}]}}'.encode())

    def test_the_key_that_stands_twice_is_named(self) -> None:
        with pytest.raises(InvalidJsonError, match="'seed'"):
            parse_object(b'{"ipc": 1, "seed": 1, "seed": 2}')

    @pytest.mark.parametrize("text", ['"\\u0000"', '"\\ud83d"', '"\\ude00\\ud83d"', '{"\\u0000": 1}'])
    def test_text_that_no_database_keeps(self, text: str) -> None:
        with pytest.raises(InvalidJsonError):
            parse_object(f'{{"a": {text}}}'.encode())

    def test_a_whole_surrogate_pair_is_a_character(self) -> None:
        assert parse_object(b'{"a": "\\ud83d\\ude00"}') == {"a": "\U0001f600"}

    @pytest.mark.parametrize("body", [b"[]", b"1", b'"x"', b"null", b"true"])
    def test_other_values_than_objects(self, body: bytes) -> None:
        with pytest.raises(SpecError, match="object"):
            parse_object(body)


FIELDS = st.sampled_from([
    "kind", "dataset", "ipc", "scale", "resources", "seed", "tags", "priority", "timeout_seconds", "max_attempts", "recipe",
    "method", "evaluation", "name", "network", "width", "depth", "optimizer", "num_iterations", "protocol", "augmentation", "x",
])
SPECIFICATIONS = st.dictionaries(FIELDS, st.recursive(
    SCALARS | st.sampled_from(["dm", "random", "digits", "convnet", "sgd", "dsa", "small", "paper"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(FIELDS, inner, max_size=4), max_leaves=10,
))


@settings(max_examples=300, deadline=None)
@given(SPECIFICATIONS)
def test_no_specification_escapes_the_rules(tree: dict[str, Any]) -> None:
    """Garbage in known places, merged over a valid request, is resolved or refused with a pointer; it never crashes."""
    for request in (tree, {"dataset": {"name": "digits"}, "ipc": 1, "recipe": "dm", **tree}):
        refused: list[SpecError] = []
        try:
            read_specification(json.loads(json.dumps(request)), Settings(), lambda dataset: dataset_info(dataset.name))
        except SpecError as error:
            refused.append(error)
        assert all(error.problems for error in refused)
