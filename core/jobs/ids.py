"""Typed, opaque ids: a prefix and a UUIDv7 in hex, so that they sort by creation and say what they name."""

from __future__ import annotations

import re
from typing import Literal, get_args

import uuid_utils

Prefix = Literal["job", "art", "wkr", "req", "up", "ds"]
_PATTERN = re.compile(rf"^({'|'.join(get_args(Prefix))})_[0-9a-f]{{32}}$")


def new_id(prefix: Prefix) -> str:
    """A fresh id, for example `job_0199...`."""
    return f"{prefix}_{uuid_utils.uuid7().hex}"


def is_id(value: str, prefix: Prefix) -> bool:
    """Whether `value` is an id of this kind, and therefore safe as part of an object key."""
    return value.startswith(f"{prefix}_") and _PATTERN.fullmatch(value) is not None
