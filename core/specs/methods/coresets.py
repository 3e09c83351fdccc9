"""Recipes of real images at the same budget: `init` kinds with 0 iterations. They are the baselines of the tables."""

from __future__ import annotations

from core.catalogue import DatasetInfo
from core.specs.init import ForgettingInitSpec, HerdingInitSpec, InitSpec, KCenterInitSpec, KMeansInitSpec, RandomInitSpec
from core.specs.methods.common import Resolved, packed
from core.specs.methods.distribution_matching import dm
from core.specs.synthetic import ParameterizationSpec, PixelsSpec


def random(info: DatasetInfo, ipc: int) -> Resolved:
    """Random selection: the set is what `init` drew."""
    return _chosen(info, ipc, RandomInitSpec())


def herding(info: DatasetInfo, ipc: int) -> Resolved:
    """Herding (Welling 2009) in the features of one network trained on the real set for 50 epochs."""
    return _chosen(info, ipc, HerdingInitSpec())


def k_center(info: DatasetInfo, ipc: int) -> Resolved:
    """Greedy k-center, from the image nearest to its class mean, in the features of one trained network."""
    return _chosen(info, ipc, KCenterInitSpec())


def forgetting(info: DatasetInfo, ipc: int) -> Resolved:
    """The images that 50 epochs of training forget most often (Toneva et al., ICLR 2019)."""
    return _chosen(info, ipc, ForgettingInitSpec())


def k_means(info: DatasetInfo, ipc: int) -> Resolved:
    """Medoids of feature clusters: what DREAM starts from, kept as it is."""
    return _chosen(info, ipc, KMeansInitSpec())


def mosaic(info: DatasetInfo, ipc: int) -> Resolved:
    """Random real images, packed 2 x 2 as IDM packs: the control with the same pixels for every packed set."""
    return _chosen(info, ipc, RandomInitSpec(), packed(info, space="normalised", shrink="mean"))


def _chosen(info: DatasetInfo, ipc: int, init: InitSpec, parameterization: ParameterizationSpec | None = None) -> Resolved:
    method, evaluation, _ = dm(info, ipc)
    chosen = {"init": init, "parameterization": parameterization or PixelsSpec(), "num_iterations": 0}
    update = {"random_draws": 0} if isinstance(init, RandomInitSpec) and parameterization is None else {}
    return Resolved(method.model_copy(update=chosen), evaluation.model_copy(update=update))
