"""Object keys, built from ids only. Each attempt writes below a prefix that no other attempt writes, each part its own key."""

from __future__ import annotations

import re
from uuid import uuid4

from core.jobs.ids import is_id

JOBS = "jobs"
UPLOADS = "uploads"
_NAME = re.compile(r"^[A-Za-z0-9][A-Za-z0-9._-]{0,127}$")


def attempt_prefix(job_id: str, attempt: int) -> str:
    """Prefix of everything one attempt stores."""
    return f"{job_prefix(job_id)}/attempts/{attempt}"


def job_prefix(job_id: str) -> str:
    """Prefix of everything a job stores."""
    assert is_id(job_id, "job"), job_id
    return f"{JOBS}/{job_id}"


def owner_of(key: str) -> tuple[str, int] | None:
    """Job and attempt that wrote an object; None for a key that no attempt writes."""
    match key.split("/"):
        case [start, job_id, "attempts", number, _, *_] if start == JOBS and is_id(job_id, "job") and number.isdecimal():
            return job_id, int(number)
    return None


def artifact_key(job_id: str, attempt: int, name: str) -> str:
    """Key of an artifact. `name` is one of ours, not a user's.

    Raises:
        ValueError: the name is not a plain file name.
    """
    if _NAME.fullmatch(name) is None:
        raise ValueError(f"{name!r} is not a plain file name")
    return f"{attempt_prefix(job_id, attempt)}/artifacts/{name}"


def log_key(job_id: str, attempt: int) -> str:
    """Key of what an attempt's child wrote for people."""
    return f"{attempt_prefix(job_id, attempt)}/log.txt"


def checkpoint_key(job_id: str, attempt: int, number: int) -> str:
    """Key of an attempt's checkpoint, by its number. Never used twice: a row must not lose its bytes to a later upload."""
    return f"{attempt_prefix(job_id, attempt)}/checkpoints/{number:06d}.safetensors"


def upload_prefix(upload_id: str) -> str:
    """Prefix of everything that is sent for an upload."""
    assert is_id(upload_id, "up"), upload_id
    return f"{UPLOADS}/{upload_id}"


def part_key(upload_id: str, number: int) -> str:
    """A new key for a part: whoever sends the same part at the same time writes another one."""
    return f"{upload_prefix(upload_id)}/parts/{number}-{uuid4().hex}"


def upload_of(key: str) -> str | None:
    """Upload that a part was sent for; None for a key that is not of a part."""
    match key.split("/"):
        case [start, upload_id, "parts", _] if start == UPLOADS and is_id(upload_id, "up"):
            return upload_id
    return None
