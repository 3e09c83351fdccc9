"""The bodies of `distill submit` (a file's specification, and on top of it what the options say) and `distill retry`."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn

from api.client.connection import Json
from api.client.errors import UsageError


def job_request(source: str, given: Mapping[str, Any], *, assignments: Sequence[str], tags: Sequence[str]) -> Json:
    """Put a request together.

    Args:
        source: a file with a JSON object; `-` is standard input, empty is none.
        given: value of each option by its path, such as `dataset.name`; None where the option was not used.
        assignments: `PATH=VALUE` for any field.
        tags: `KEY=VALUE`.

    Raises:
        UsageError: something cannot be read, or nothing was said at all.
    """
    request = _read_spec(source) if source else {}
    _apply(request, given, assignments)
    for text in tags:
        key, found, value = text.partition("=")
        if not found:
            raise UsageError(f"--tag {text!r}: write KEY=VALUE")
        request["tags"] = {**request.get("tags", {}), key: value}
    if not request:
        raise UsageError("nothing to submit: name a FILE, or at least --dataset, --ipc and --recipe")
    return request


def retry_request(given: Mapping[str, Any], assignments: Sequence[str]) -> Json:
    """What a repeated job changes; arguments as for `job_request`. Empty when nothing was said.

    Raises:
        UsageError: an assignment cannot be read.
    """
    request: Json = {}
    _apply(request, given, assignments)
    return request


def _apply(request: Json, given: Mapping[str, Any], assignments: Sequence[str]) -> None:
    used = [(path, value) for path, value in given.items() if value is not None]
    if any(path in {"dataset.name", "dataset.id"} for path, _ in used) and isinstance(request.get("dataset"), dict):
        request["dataset"] = {key: value for key, value in request["dataset"].items() if key not in {"name", "id"}}
    for path, value in used + [_assignment(text) for text in assignments]:
        _put(request, path, value)


def _read_spec(source: str) -> Json:
    def refuse(constant: str) -> NoReturn:
        raise ValueError(f"{constant} is not JSON")

    try:
        text = sys.stdin.read() if source == "-" else Path(source).read_text(encoding="utf-8")
        value = json.loads(text, parse_constant=refuse)
    except OSError as error:
        raise UsageError(f"cannot read {source}: {error.strerror}") from None
    except ValueError as error:
        raise UsageError(f"{'standard input' if source == '-' else source} is not JSON: {error}") from None
    if not isinstance(value, dict):
        raise UsageError(f"{source} holds no JSON object")
    return value


def _assignment(text: str) -> tuple[str, Any]:
    path, found, raw = text.partition("=")
    if not found or not all(path.split(".")):
        raise UsageError(f"--set {text!r}: write PATH=VALUE, for example method.network.width=32")
    try:
        return path, json.loads(raw)
    except ValueError:
        return path, raw


def _put(tree: Json, path: str, value: Any) -> None:
    *parents, last = path.split(".")
    for key in parents:
        tree = tree.setdefault(key, {})
        if not isinstance(tree, dict):
            raise UsageError(f"{path}: {key!r} holds a value, not an object")
    tree[last] = value
