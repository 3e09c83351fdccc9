"""Overrides: a request's partial tree merged over a recipe's complete one."""

from __future__ import annotations

from typing import Any


def merge(base: dict[str, Any], override: dict[str, Any]) -> dict[str, Any]:
    """Merge `override` over `base` and return a new tree.

    Objects merge deeply while the override's `kind` is absent or equal to the base's; another `kind` replaces the whole
    object, because the fields of one kind mean nothing to another. Lists and scalars replace.
    """
    if override.get("kind", base.get("kind")) != base.get("kind"):
        return dict(override)
    merged = dict(base)
    for key, value in override.items():
        inner = base.get(key)
        merged[key] = merge(inner, value) if isinstance(inner, dict) and isinstance(value, dict) else value
    return merged
