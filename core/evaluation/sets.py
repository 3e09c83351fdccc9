"""What networks are trained on in an evaluation: the distilled set, its 8-bit form, and real images at the same budget.

Random selection and coresets are full-size images under every protocol: ipc of each class. `mosaic` packs as many random real
images as the distilled set could start from, the way its parameterization stores and decodes them: what packing alone gives.
Shapes: N images, C channels, H W pixels, K classes.
"""

from __future__ import annotations

import torch
from torch import Tensor

from core.data.real_set import RealSet
from core.distillation.build import build_init
from core.distillation.init.random import RandomInit
from core.distillation.protocols import Parameterization
from core.distillation.randomness import rng
from core.experts import Experts
from core.progress import Hooks
from core.report.outcome import ScoreName
from core.specs.evaluation import EvaluationSpec

LabelledImages = tuple[Tensor, Tensor]
"""(N, C, H, W) float32 in network space, sorted by class, and (N,) int64."""


class Sets:
    """Answers with the set of each unit; what takes time to choose is chosen once, when it is first asked for."""

    def __init__(
        self,
        spec: EvaluationSpec,
        data: RealSet,
        distilled: LabelledImages,
        *,
        ipc: int,
        seed: int,
        experts: Experts,
        parameterization: Parameterization,
        hooks: Hooks,
    ) -> None:
        """Keep what all sets are made from; `parameterization` packs the mosaics."""
        self._spec = spec
        self._data = data
        self._distilled = distilled
        self._ipc = ipc
        self._seed = seed
        self._experts = experts
        self._parameterization = parameterization
        self._hooks = hooks
        self._coresets: dict[ScoreName, LabelledImages] = {}

    def of(self, name: ScoreName, index: int) -> LabelledImages:
        """The set of a score's network number `index`; only those that are drawn differ between networks."""
        data = self._data
        match name:
            case "distilled":
                return self._distilled
            case "distilled_8bit":
                images, labels = self._distilled
                return data.normalise(data.to_8bit(images)), labels
            case "random":
                return random_selection(data, self._ipc, self._seed, index)
            case "mosaic":
                return mosaic(data, self._parameterization, self._seed, index)
            case "herding" | "k_center" | "forgetting":
                if name not in self._coresets:
                    with self._hooks.busy(f"choosing {name}"):
                        init = build_init(self._spec.baseline_inits()[name], self._spec.network, self._experts)
                        chosen = init.choose(data, self._ipc, rng(self._seed, f"baseline/{name}"))
                    self._coresets[name] = _labelled(chosen.flatten(0, 1), data)
                return self._coresets[name]

    def variants(self, name: ScoreName) -> int:
        """Images of the set, side by side, of which an epoch shows one: several where one basis has several hallucinations."""
        return self._parameterization.num_variants if name in {"distilled", "distilled_8bit"} else 1


def random_selection(data: RealSet, ipc: int, seed: int, index: int) -> LabelledImages:
    """Draw number `index` of random real images at the budget of `ipc` per class: the baseline."""
    chosen = RandomInit().choose(data, ipc, rng(seed, "baseline/random", index))
    return _labelled(chosen.flatten(0, 1), data)


def mosaic(data: RealSet, parameterization: Parameterization, seed: int, index: int) -> LabelledImages:
    """Draw number `index` of random real images, packed and decoded as the parameterization packs and decodes its own."""
    chosen = RandomInit().choose(data, parameterization.num_initial_per_class, rng(seed, "baseline/mosaic", index))
    return _labelled(parameterization.pack(chosen), data)


def _labelled(images: Tensor, data: RealSet) -> LabelledImages:
    """Equally many images of every class, sorted by class."""
    per_class = len(images) // data.num_classes
    return images, torch.arange(data.num_classes, device=data.device).repeat_interleave(per_class)
