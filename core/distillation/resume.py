"""Checkpoints: one safetensors file of `slot/name` tensors, with what belongs to them as JSON in its header.

No generator is saved; a resumed run draws what the uninterrupted one would have drawn. A file appears under its final name
only when all of it is on the disk. Another specification or another format number is refused.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from core.errors import InvalidInputError
from core.networks.network import Tensors
from core.progress import Record
from core.shared_files import flush

FORMAT = 1
KEEP = 3
"""Files kept: whoever copies the newest may still be reading the one before."""


@dataclass(frozen=True)
class Checkpoint:
    """State after `step` iterations."""

    step: int
    science_digest: str
    code_revision: str
    state: Tensors
    """Tensors by `slot/name`, on the CPU."""

    record: Record


def save(checkpoint: Checkpoint, folder: Path) -> Path:
    """Write into `folder`, drop what is too old, return the file."""
    folder.mkdir(parents=True, exist_ok=True)
    units = len(checkpoint.record.units)
    final = folder / f"step-{checkpoint.step:08d}-{units:04d}.safetensors"
    temporary = final.with_suffix(".partial")
    header = {
        "format": str(FORMAT),
        "step": str(checkpoint.step),
        "science_digest": checkpoint.science_digest,
        "code_revision": checkpoint.code_revision,
        "record": checkpoint.record.model_dump_json(),
    }
    save_file({name: tensor.contiguous() for name, tensor in checkpoint.state.items()}, temporary, metadata=header)
    flush(temporary)
    temporary.replace(final)
    flush(folder)
    for old in sorted(folder.glob("step-*.safetensors"))[:-KEEP]:
        old.unlink()
    return final


def load(path: Path, *, science_digest: str) -> Checkpoint:
    """Read a checkpoint of the same specification.

    Raises:
        InvalidInputError: it is unreadable, of another format, or of another specification.
    """
    try:
        with safe_open(path, framework="pt", device="cpu") as file:
            header: dict[str, Any] = file.metadata() or {}
            if header.get("format") != str(FORMAT):
                found = header.get("format")
                raise InvalidInputError(f"checkpoint {path.name} has format {found}, this version reads {FORMAT}")
            if header["science_digest"] != science_digest:
                raise InvalidInputError(f"checkpoint {path.name} belongs to another specification")
            state = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a mapping
            record = Record.model_validate(json.loads(header["record"]))
            return Checkpoint(int(header["step"]), science_digest, header["code_revision"], state, record)
    except (OSError, SafetensorError, KeyError, ValueError) as error:
        raise InvalidInputError(f"checkpoint {path.name} cannot be read: {error}") from error
