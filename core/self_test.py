"""`python -m core.self_test`: whether the device that a job would use computes, and computes right.

Exit code 0; 72 when the device is missing, fails, or gives another result than the CPU does.
"""

from __future__ import annotations

import os
import sys

import torch

from core.child import hold_life_line
from core.specs.report import ExitCode

SIDE = 1024


def device_computes(device: torch.device) -> bool:
    """Multiply two matrices of small whole numbers there, which is exact in float32 in any order, and compare."""
    generator = torch.Generator().manual_seed(0)
    a, b = (torch.randint(-8, 9, (SIDE, SIDE), generator=generator).float() for _ in range(2))
    return torch.equal((a.to(device) @ b.to(device)).cpu(), a @ b)


def main() -> int:
    """Test the first visible GPU, or the CPU where none is meant to be used."""
    wanted = bool(os.environ.get("CUDA_VISIBLE_DEVICES"))
    if wanted and not torch.cuda.is_available():
        sys.stderr.write("the GPU is not there\n")
        return int(ExitCode.DEVICE_FAULT)
    try:
        right = device_computes(torch.device("cuda" if wanted else "cpu"))
    except RuntimeError as error:
        sys.stderr.write(f"{error}\n")
        return int(ExitCode.DEVICE_FAULT)
    return 0 if right else int(ExitCode.DEVICE_FAULT)


if __name__ == "__main__":
    hold_life_line()
    sys.exit(main())
