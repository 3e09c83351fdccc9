"""The machine that computes: its device, memory and versions, as the report names them."""

from __future__ import annotations

import os
import platform
import resource
from importlib.metadata import version
from pathlib import Path

import numpy as np
import torch

from core.errors import DeviceFaultError, DeviceUnavailableError
from core.specs.run_options import ResourcesSpec

CGROUP = Path("/sys/fs/cgroup")
MEMINFO = Path("/proc/meminfo")


def choose_device(resources: ResourcesSpec) -> torch.device:
    """The device that a specification's resources name.

    Raises:
        DeviceUnavailableError: a GPU is asked for and this worker has none.
        DeviceFaultError: this worker has one, and it is not there.
    """
    if not resources.gpus:
        return torch.device("cpu")
    if not torch.cuda.is_available():
        if lost := os.environ.get("CUDA_VISIBLE_DEVICES"):
            raise DeviceFaultError(f"this worker's GPU, {lost}, is not there")
        raise DeviceUnavailableError("the job asks for a GPU (resources.gpus is 1) and this worker has none")
    if resources.deterministic:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
        torch.use_deterministic_algorithms(True)
    return torch.device("cuda", 0)


def device_name(device: torch.device) -> str:
    """For people: model of the GPU, or CPU and number of threads."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"cpu ({platform.machine()}, {torch.get_num_threads()} threads)"


def peak_memory_bytes(device: torch.device) -> int:
    """Largest amount of memory held so far: of the device on CUDA, resident memory of this process on a CPU."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def free_host_bytes() -> int | None:
    """Memory that this process may still take: of the machine, and of its control group; None where nothing says so."""
    found = []
    if MEMINFO.exists():
        lines = dict(line.split(":", 1) for line in MEMINFO.read_text().splitlines())
        found.append(int(lines["MemAvailable"].split()[0]) * 1024)
    limit = CGROUP / "memory.max"
    if limit.exists() and (text := limit.read_text().strip()) != "max":
        found.append(int(text) - int((CGROUP / "memory.current").read_text()))
    return min(found, default=None)


def versions() -> dict[str, str]:
    """Versions of what decides the numbers."""
    found = {"python": platform.python_version(), "torch": str(torch.__version__), "numpy": np.__version__}
    return found | {"distill-service": version("distill-service")}
