"""Numbers as a report may hold them: finite or null, and as a person reads them."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any


def finite(value: Any) -> Any:
    """A JSON tree in which NaN and infinity became null, and mappings and sequences became objects and lists."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {str(key): finite(inner) for key, inner in value.items()}
    if isinstance(value, Sequence) and not isinstance(value, str):
        return [finite(inner) for inner in value]
    return value


def write_json(path: Path, value: Any) -> None:
    """Write a JSON file that every parser accepts and a person can read: indented, with lists of scalars on one line."""
    path.write_text(_text(finite(value), "\n") + "\n", encoding="utf-8")


def _text(value: Any, newline: str) -> str:
    deeper = newline + "  "
    if isinstance(value, dict) and value:
        lines = (f"{_scalar(key)}: {_text(inner, deeper)}" for key, inner in value.items())
        return "{" + deeper + ("," + deeper).join(lines) + newline + "}"
    if isinstance(value, list) and any(isinstance(inner, dict | list) for inner in value):
        return "[" + deeper + ("," + deeper).join(_text(inner, deeper) for inner in value) + newline + "]"
    return _scalar(value)


def _scalar(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, allow_nan=False)


def ratio(part: float, whole: float) -> float | None:
    """`part / whole`, or None for an empty whole."""
    return part / whole if whole else None


def percent(fraction: float) -> str:
    """A fraction in percent with one decimal, without the sign %."""
    return f"{100 * fraction:.1f}"


def small_percent(fraction: float) -> str:
    """A fraction in percent with two significant digits, without the sign %."""
    value = 100 * fraction
    return f"{value:.1f}" if value >= 10 else f"{value:.2g}"


def bytes_text(count: float) -> str:
    """Bytes in the largest fitting binary unit."""
    for unit in ("B", "KiB", "MiB"):
        if count < 1024:
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1024
    return f"{count:.2f} GiB"


def seconds_text(seconds: float | None) -> str:
    """A duration as a person says it; `unknown` when it was not measured."""
    if seconds is None or not math.isfinite(seconds):
        return "unknown"
    if seconds < 1:
        return f"{1000 * seconds:.3g} ms"
    if seconds < 120:
        return f"{seconds:.3g} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 120 else f"{minutes // 60} h {minutes % 60:02d} min"
