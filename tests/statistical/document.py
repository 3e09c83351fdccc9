"""`docs/results.md`: the table of all recipes as a page, written from the results files alone.

    python -m tests.statistical.document
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from core.specs.published import CONVNET, published
from tests.statistical.table import MARGINS, RESULTS, ROWS

PAGE = Path(__file__).parents[2] / "docs" / "results.md"
BUDGETS = (1, 10)

_HEAD = """\
# Every recipe under one evaluation

Written by `python -m tests.statistical.document` from `tests/statistical/results/table_ipc*.json`, which
`python -m tests.statistical.table` measures.

Fashion-MNIST, ConvNet-3 of width 32, every recipe at `scale: small`, the `dm` protocol with {epochs} epochs for all rows:
networks trained from scratch on the decoded set, tested once on the 10,000 test images. Accuracy is the mean over {sets}
independent sets x {networks} networks each; the deviation is over sets. Memory is the process's peak before its first
evaluation. Rows were measured on several machines of two x86-64 cores, without a GPU; seconds per iteration on one of
them, row after row, alone, with all cores:
{hardware}, torch {torch}.
`published` is what the papers print for their own, much larger scale and their own protocols: it is quoted for orientation.
"""

_READING = """\
- **DSDM above M3D above DM**: seen (<dsdm>, <m3d> and <dm> %). The parts of DSDM, one added to the other: prototypes of
  packed images <dsdm: prototypes>, trained networks <dsdm: + trained networks>, covariance <dsdm: + covariance>, history
  <dsdm> %.
- **Representative images reach DM's accuracy in a fraction of the iterations**: seen. `dm_dream` has <dm_dream, a fifth> %
  after 60 iterations, `dm` <dm> % after 300. They help matching gradients as much: DC <dc_dream> beside <dc> %, DSA
  <dsa_dream> beside <dsa> %.
- **IID's terms help DM and IDM**: not seen (<iid_dm> beside <dm> %, <iid_idm> beside <idm> %). Their gains are published for
  20,000 iterations, with a ResNet-18 of width 64 that was trained for 40 epochs; here it is 300 iterations, width 8 and one
  epoch. With another seed (two networks each) DM reached 79.6 and IID 78.7 %; with ten times the weight of the covariance
  79.5, of the centralization 77.3 %: pulling images towards their class's centre costs more than it gives at this scale.
- **Coresets below distillation**: random (<random> %), herding (<herding> %), k-center (<k_center> %) and forgetting
  (<forgetting> %) are; the medoids of k-means (<k_means> %), from which DREAM starts, equal DM. K-center and forgetting
  choose the odd images of a class, which a training set of ten images for each cannot afford.
- **Packed images**: the same crops without distillation, `mosaic`, have <mosaic> %.
- **DSA above DC**: seen against DC from noise, as it is published (<dsa> beside <dc: from noise> %; random real images have
  <random> %, and from noise ten thousand steps are needed). Not from the same start: <dsa> beside <dc> %. There both begin
  with the same real images, and in 300 steps at the published rate their images move little.
- **IDC above DSA, and DREAM as good as IDC in a fifth of its iterations**: seen (<idc> beside <dsa> %; <dream, a fifth> %
  after 60 iterations beside <idc> % after 300). After all 300 DREAM has <dream> %.
- **Classes contrasted (DCC, DSAC)**: as good as DC and DSA, no better (<dcc> beside <dc> %, <dsac> beside <dsa> %).
- **Trajectories**: TESLA's simpler gradient costs MTT nothing (<tesla> beside <mtt> %); with DATM's growing window, chosen
  start and learned labels it is <datm> %.
- **MIM4DD improves its base**: not seen. DREAM <dream_mim4dd> beside <dream> %, MTT <mtt_mim4dd> beside <mtt> %, DM
  <dm_mim4dd> beside <dm> %: differences of a tenth of a point, where sets differ by a third of one to a whole one. The gains
  are published for CIFAR-10 (1.4 points on DREAM). On DM the term weighs a tenth of what is published; with the whole of it
  77.0 % (another seed, DM 79.4). No gain on DM is published, whose networks are new in every iteration, so that the term's
  heads learn on features that they never see again.
- **HaBa beats plain pixels at equal bytes**: not seen on DM (<haba_dm> beside <dm> %), DC (<haba_dc> beside <dc> %), DSA
  (<haba_dsa> beside <dsa> %) and MTT (<haba> beside <mtt> %). Nine bases for a class and five shared hallucinators stand for
  ten images; the published gain takes 15,000 iterations. On DM with another seed: ten and a hundred times the hallucinators'
  rate 78.5 and 77.9 %, ten times that of the bases 79.4 %, with a tenth of the adversary's weight 79.1; DM 79.4, and 80.3 %
  at ten times its own rate.
"""


def page(documents: Mapping[int, Mapping[str, Any]]) -> str:
    """The whole page from the results files, by ipc."""
    any_document = next(iter(documents.values()))
    head = _HEAD.format(
        epochs=any_document["num_epochs"], sets=len(any_document["seeds"]), networks=any_document["networks_per_set"],
        hardware=any_document["hardware"], torch=any_document["torch"],
    )
    parts = [head]
    for ipc, document in documents.items():
        parts += [f"## {ipc} image{'s' if ipc > 1 else ''} per class\n", "\n".join(_table(document["rows"], ipc)) + "\n"]
    if 10 in documents:
        parts += ["## What the papers say, and what is seen here\n", _reading(documents[10]["rows"])]
        parts += ["## Claims\n", "\n".join(_claims(documents[10]["rows"])) + "\n"]
    return "\n".join(parts)


def _table(rows: Mapping[str, Any], ipc: int) -> Iterator[str]:
    yield "| row | accuracy, % | images decoded | iterations | s per iteration | peak memory, MiB | published, % |"
    yield "|---|---|---|---|---|---|---|"
    for name in (name for name in ROWS if name in rows):
        row = rows[name]
        seconds = f"{row['seconds_per_iteration']:.3f}" if row.get("seconds_per_iteration") else "—"
        yield (
            f"| {name} | {100 * row['mean']:.1f} ± {100 * row['std_over_sets']:.1f} | {row['decoded_images']} | "
            f"{row['iterations'] or '—'} | {seconds} | {row['peak_memory_mib']} | {_published(name, ipc)} |"
        )


def _published(name: str, ipc: int) -> str:
    """The paper's own row; an ablation's variants were printed for CIFAR-10 only."""
    for found in published():
        if (found.recipe, found.dataset, found.ipc, found.network, found.variant) == (name, "fashion-mnist", ipc, CONVNET, ""):
            return f"{100 * found.mean:.1f} ± {100 * found.std:.1f}"
    return "—"


def _reading(rows: Mapping[str, Any]) -> str:
    """What the distribution-matching papers say of their methods, and what the rows show of it."""
    shown = {name: f"{100 * row['mean']:.1f}" for name, row in rows.items()}
    return re.sub("<(.+?)>", lambda found: shown.get(found[1], "—"), _READING)


def _claims(rows: Mapping[str, Any]) -> Iterator[str]:
    yield "Margins, seeds and numbers of sets were fixed before the rows were measured; `make stats` tests them anew.\n"
    yield "| claim | margin, points | measured, points | holds |"
    yield "|---|---|---|---|"
    for (better, worse), margin in MARGINS.items():
        if better in rows and worse in rows:
            gain = rows[better]["mean"] - rows[worse]["mean"]
            yield f"| {better} over {worse} | {100 * margin:.1f} | {100 * gain:.1f} | {'yes' if gain > margin else 'no'} |"


def results() -> dict[int, dict[str, Any]]:
    """The results files that exist, by ipc."""
    paths = {ipc: RESULTS / f"table_ipc{ipc}.json" for ipc in BUDGETS}
    return {ipc: json.loads(path.read_text()) for ipc, path in paths.items() if path.exists()}


if __name__ == "__main__":
    PAGE.write_text(page(results()))
