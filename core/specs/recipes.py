"""The table of recipes: published methods by their usual abbreviation, each one complete method and evaluation protocol.

The functions and their hyper-parameters are in `core/specs/methods`; published accuracies stand in `published.toml`.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import NamedTuple

from core.catalogue import DatasetInfo
from core.errors import UnknownMethodError
from core.specs.job import Scale
from core.specs.methods import add_ons, coresets, small
from core.specs.methods import distribution_matching as matching
from core.specs.methods import gradient_matching as gradients
from core.specs.methods import trajectory_matching as trajectories
from core.specs.methods.common import Published, Resolved


class Recipe(NamedTuple):
    """A published method by its usual abbreviation."""

    name: str
    title: str
    paper: str
    build: Callable[[DatasetInfo, int], Resolved]
    rows: Collection[Published] | None = None
    """Data sets and ipcs for which it has hyper-parameters of their own; None where one set of them serves all, and empty
    where it has none."""


_BASELINE = "baseline of every comparison table"

RECIPES: dict[str, Recipe] = {
    recipe.name: recipe
    for recipe in (
        Recipe("dm", "Distribution matching", "Zhao & Bilen, WACV 2023, arXiv:2110.04181", matching.dm),
        Recipe("cafe", "Feature alignment of every layer", "Wang et al., CVPR 2022, arXiv:2203.01531", matching.cafe),
        Recipe("cafe_dsa", "CAFE with siamese augmentation", "Wang et al., CVPR 2022, arXiv:2203.01531", matching.cafe_dsa),
        Recipe("idm", "Improved distribution matching", "Zhao et al., CVPR 2023", matching.idm, matching.IDM),
        Recipe("m3d", "Maximum mean discrepancy", "Zhang et al., AAAI 2024", matching.m3d),
        Recipe("iid_dm", "Inter- and intra-class terms on DM", "Deng et al., CVPR 2024", matching.iid_dm),
        Recipe("iid_idm", "Inter- and intra-class terms on IDM", "Deng et al., CVPR 2024", matching.iid_idm, matching.IDM),
        Recipe("dsdm", "Prototypes, covariance and history", "Li et al., ACM MM 2024", matching.dsdm),
        Recipe("dm_dream", "DM on representative images", "Liu et al., ICCV 2023, on DM", matching.dm_dream),
        Recipe("dsdm_dream", "DSDM on representative images", "Liu et al., ICCV 2023, on DSDM", matching.dsdm_dream),
        Recipe("dc", "Gradient matching", "Zhao et al., ICLR 2021, arXiv:2006.05929", gradients.dc, gradients.DC),
        Recipe("dsa", "DC with siamese augmentation", "Zhao & Bilen, ICML 2021, arXiv:2102.08259", gradients.dsa, gradients.DC),
        Recipe(
            "dcc", "Summed gradients of all classes", "Lee et al., ICML 2022, arXiv:2202.02916",
            gradients.dcc, gradients.DCC,
        ),
        Recipe(
            "dsac", "DCC with siamese augmentation", "Lee et al., ICML 2022, arXiv:2202.02916",
            gradients.dsac, gradients.DCC,
        ),
        Recipe(
            "idc", "Packed images, gradients of filters", "Kim et al., ICML 2022, arXiv:2205.14959",
            gradients.idc, gradients.IDC,
        ),
        Recipe(
            "dream", "IDC on representative images", "Liu et al., ICCV 2023, arXiv:2302.14416",
            gradients.dream, gradients.IDC,
        ),
        Recipe("dc_dream", "DC on representative images", "Liu et al., ICCV 2023, on DC", gradients.dc_dream, gradients.DC),
        Recipe("dsa_dream", "DSA on representative images", "Liu et al., ICCV 2023, on DSA", gradients.dsa_dream, gradients.DC),
        Recipe(
            "mtt", "Matching training trajectories", "Cazenavette et al., CVPR 2022, arXiv:2203.11932",
            trajectories.mtt, trajectories.MTT,
        ),
        Recipe(
            "tesla", "Trajectories in constant memory", "Cui et al., ICML 2023, arXiv:2211.10586",
            trajectories.tesla, trajectories.TESLA,
        ),
        Recipe(
            "datm", "Difficulty-aligned trajectories", "Guo et al., ICLR 2024, arXiv:2310.05773",
            trajectories.datm, trajectories.DATM,
        ),
        Recipe("haba", "Bases and hallucinators", "Liu et al., NeurIPS 2022, arXiv:2210.16774", add_ons.haba, add_ons.HABA),
        Recipe("haba_dm", "Bases and hallucinators on DM", "Liu et al., NeurIPS 2022 (HaBa), on DM", add_ons.haba_dm),
        Recipe(
            "haba_dc", "Bases and hallucinators on DC", "Liu et al., NeurIPS 2022 (HaBa), on DC",
            add_ons.haba_dc, gradients.DC,
        ),
        Recipe(
            "haba_dsa", "Bases and hallucinators on DSA", "Liu et al., NeurIPS 2022 (HaBa), on DSA",
            add_ons.haba_dsa, gradients.DC,
        ),
        Recipe("dm_mim4dd", "Mutual information on DM", "Shang et al., NeurIPS 2023 (MIM4DD), on DM", add_ons.dm_mim4dd),
        Recipe(
            "dream_mim4dd", "Mutual information on DREAM", "Shang et al., NeurIPS 2023 (MIM4DD)",
            add_ons.dream_mim4dd, gradients.IDC,
        ),
        Recipe(
            "mtt_mim4dd", "Mutual information on MTT", "Shang et al., NeurIPS 2023 (MIM4DD)",
            add_ons.mtt_mim4dd, trajectories.MTT,
        ),
        Recipe("random", "Random selection of real images", _BASELINE, coresets.random, ()),
        Recipe("herding", "Herding of real images", "Welling, ICML 2009; " + _BASELINE, coresets.herding, ()),
        Recipe("k_center", "Greedy k-center of real images", _BASELINE, coresets.k_center, ()),
        Recipe("forgetting", "Most forgotten real images", "Toneva et al., ICLR 2019; " + _BASELINE, coresets.forgetting, ()),
        Recipe(
            "k_means", "Cluster medoids of real images", "what DREAM starts from (Liu et al., ICCV 2023)",
            coresets.k_means, (),
        ),
        Recipe("mosaic", "Random real images, packed 2 x 2", "control for packed sets", coresets.mosaic, ()),
    )
}


def recipe_by_name(name: str) -> Recipe:
    """Look a recipe up.

    Raises:
        UnknownMethodError: no recipe has this name.
    """
    try:
        return RECIPES[name]
    except KeyError:
        raise UnknownMethodError.at("/recipe", f"unknown recipe {name!r}; known: {', '.join(RECIPES)}") from None


def resolved_recipe(name: str, scale: Scale, info: DatasetInfo, ipc: int) -> Resolved:
    """A recipe for a data set at a budget, as published or at small scale.

    Raises:
        UnknownMethodError: no recipe has this name.
    """
    found = recipe_by_name(name).build(info, ipc)
    return small.at_small_scale(name, found) if scale == "small" else found
