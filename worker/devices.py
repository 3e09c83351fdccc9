"""The GPUs of this host, as `nvidia-smi` names them: the driver is asked without a CUDA context in this process."""

from __future__ import annotations

import csv
import shutil
import subprocess
from collections.abc import Sequence

from core.jobs.workers import Device

PROGRAM = "nvidia-smi"
FIELDS = "uuid,name,memory.total,driver_version"
TIMEOUT_SECONDS = 60.0


class DeviceError(Exception):
    """The GPUs cannot be listed, or the one that was named is not there. Its text is for an operator."""


def listed() -> list[Device]:
    """Every GPU of the host, in the driver's order; none where there is no driver.

    Raises:
        DeviceError: the driver is installed and does not answer.
    """
    program = shutil.which(PROGRAM)
    if program is None:
        return []
    try:
        answer = subprocess.run(
            [program, f"--query-gpu={FIELDS}", "--format=csv,noheader,nounits"],
            capture_output=True, text=True, check=True, timeout=TIMEOUT_SECONDS,
        ).stdout
    except subprocess.TimeoutExpired:
        raise DeviceError(f"{PROGRAM} did not answer within {TIMEOUT_SECONDS:.0f} s") from None
    except (OSError, subprocess.CalledProcessError) as error:
        said = getattr(error, "stdout", "") or getattr(error, "stderr", "") or str(error)
        raise DeviceError(f"{PROGRAM} failed: {said.strip()}") from None
    return [_device(row) for row in csv.reader(answer.splitlines(), skipinitialspace=True) if row]


def _device(row: list[str]) -> Device:
    try:
        uuid, name, mebibytes, driver = row
        return Device(uuid=uuid, name=name, memory_bytes=int(mebibytes) << 20, driver=driver)
    except ValueError:
        raise DeviceError(f"{PROGRAM} says of a GPU what nobody can read: {', '.join(row)!r}") from None


def first_for(queues: Sequence[str]) -> list[Device]:
    """What a worker of the queue `gpu` uses unless told. Where there is no driver, jobs fail on it with `device_unavailable`.

    Raises:
        DeviceError: there is a driver, and it does not answer or has no GPU: every job would fail here, and quickly.
    """
    if "gpu" not in queues:
        return []
    found = listed()
    if not found and shutil.which(PROGRAM) is not None:
        raise DeviceError("the driver is installed and knows no GPU: a worker of the queue gpu cannot serve here")
    return found[:1]


def chosen(wanted: str) -> list[Device]:
    """The GPUs that an operator means.

    Args:
        wanted: `all`, or UUIDs or indices, comma separated.

    Raises:
        DeviceError: one of them is not there, is named twice, or the GPUs cannot be listed.
    """
    found = listed()
    if wanted == "all":
        if not found:
            raise DeviceError("this host has no GPU that nvidia-smi knows")
        return found
    by_name = {name: gpu for index, gpu in enumerate(found) for name in (str(index), gpu["uuid"])}
    picked = []
    for name in (part.strip() for part in wanted.split(",")):
        if name not in by_name:
            known = ", ".join(f"{index} = {gpu['uuid']}" for index, gpu in enumerate(found)) or "none"
            raise DeviceError(f"there is no GPU {name!r}; known: {known}")
        picked.append(by_name[name])
    if len({gpu["uuid"] for gpu in picked}) != len(picked):
        raise DeviceError(f"a GPU is named twice in {wanted!r}")
    return picked
