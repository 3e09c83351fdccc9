"""Object keys, built from ids only. Each attempt writes below a prefix that no other attempt writes."""

from __future__ import annotations

import re

from core.jobs.ids import is_id

JOBS = "jobs"
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
