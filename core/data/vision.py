"""The one place that imports torchvision.

torchvision's Linux wheel is compiled against CUDA. Beside a CPU build of torch its extension cannot load, and importing
the package then fails on two operator declarations that only the extension makes. They are declared here when, and only
when, the extension does not load; declaring them first would abort the process where it does.
"""

from __future__ import annotations

import importlib.util
from pathlib import Path

import torch


def _load_or_declare() -> torch.library.Library | None:
    spec = importlib.util.find_spec("torchvision")
    if spec is None or spec.origin is None:
        raise ModuleNotFoundError("torchvision is not installed")
    for extension in Path(spec.origin).parent.glob("_C*"):
        if extension.suffix not in {".so", ".pyd", ".dylib"}:
            continue
        try:
            torch.ops.load_library(str(extension))
        except OSError:
            continue
        return None
    library = torch.library.Library("torchvision", "FRAGMENT")
    for operator in ("nms", "qnms"):
        library.define(f"{operator}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    return library


_KEEP_ALIVE = _load_or_declare()  # the Library object must stay referenced

from torchvision import datasets  # noqa: E402 - the declarations above come first

__all__ = ["datasets"]
