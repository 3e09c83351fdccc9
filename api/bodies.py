"""Request bodies: bytes to one JSON object, refusing what JSON text may hold and this service may not.

Python's reader accepts NaN, lets the last of two equal keys win, turns `1e999` into infinity and recurses as deep as the
text does; PostgreSQL stores no NUL in text. All of that is refused here, once, before any rule looks at the tree.
"""

from __future__ import annotations

import json
import math
from typing import Any, NoReturn, TypeVar

from fastapi import Request
from pydantic import BaseModel, ValidationError

from api.errors import InvalidJsonError, UnsupportedMediaTypeError
from core.errors import SpecError
from core.specs.resolve import spec_error

M = TypeVar("M", bound=BaseModel)

MAX_DEPTH = 32
"""Levels of nesting. The deepest specification has six."""


async def json_body(request: Request) -> bytes:
    """The body of a route that takes JSON.

    Raises:
        UnsupportedMediaTypeError: there is a body, and it is not declared as JSON.
    """
    body = await request.body()  # first, so that the connection can serve the next request
    declared = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if declared != "application/json" and (body or declared):
        raise UnsupportedMediaTypeError("send the body as application/json")
    return body


def parse_object(body: bytes) -> dict[str, Any]:
    """Read one JSON object.

    Raises:
        InvalidJsonError: the bytes are not JSON text that this API reads.
        SpecError: the text is JSON, but not an object.
    """
    try:
        tree = json.loads(
            body.decode(),  # strict UTF-8; handing bytes over would also accept UTF-16
            parse_constant=_refuse_constant, parse_float=_finite, object_pairs_hook=_without_duplicates,
        )
    except UnicodeDecodeError:
        raise InvalidJsonError("the body is not UTF-8 text") from None
    except json.JSONDecodeError as error:
        raise InvalidJsonError(f"{error.msg} at line {error.lineno}, column {error.colno}") from None
    except RecursionError:
        raise InvalidJsonError(f"the body is nested deeper than {MAX_DEPTH} levels") from None
    except ValueError:  # an integer beyond Python's own limit of digits
        raise InvalidJsonError("a number has too many digits") from None
    _check(tree)
    if not isinstance(tree, dict):
        raise SpecError.at("", "the body must be a JSON object", "object_type")
    return tree


def parse_model(body: bytes, model: type[M]) -> tuple[dict[str, Any], M]:
    """The body's tree and what a model reads in it.

    Raises:
        InvalidJsonError: the bytes are not JSON text that this API reads.
        SpecError: a field is missing, unknown, or breaks a rule.
    """
    tree = parse_object(body)
    try:
        return tree, model.model_validate_json(json.dumps(tree, allow_nan=False))
    except ValidationError as error:
        raise spec_error(error, tree) from None


def _refuse_constant(name: str) -> NoReturn:
    raise InvalidJsonError(f"{name} is not a JSON number")


def _finite(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise InvalidJsonError("a number is too large for a 64-bit float")
    return value


def _without_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    made = dict(pairs)
    if len(made) != len(pairs):
        seen: set[str] = set()
        twice = next(key for key, _ in pairs if key in seen or seen.add(key))  # type: ignore[func-returns-value]
        raise InvalidJsonError(f"the key {twice[:64]!r} stands twice in one object")
    return made


def _check(tree: Any) -> None:
    """Bound the depth, and refuse text that no database keeps. Iterative, because the tree is a stranger's."""
    waiting: list[tuple[Any, int]] = [(tree, 1)]
    while waiting:
        value, depth = waiting.pop()
        if isinstance(value, str):
            _check_text(value)
            continue
        if isinstance(value, dict):
            for key in value:
                _check_text(key)
            children = list(value.values())
        elif isinstance(value, list):
            children = value
        else:
            continue
        if depth > MAX_DEPTH:
            raise InvalidJsonError(f"the body is nested deeper than {MAX_DEPTH} levels")
        waiting.extend((child, depth + 1) for child in children)


def _check_text(text: str) -> None:
    if "\0" in text or (not text.isascii() and any("\ud800" <= character <= "\udfff" for character in text)):
        raise InvalidJsonError("text holds a NUL character or half of a surrogate pair")
