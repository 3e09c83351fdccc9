"""Published accuracies: the rows of `published.toml`. They are quoted, never measured here."""

from __future__ import annotations

import tomllib
from collections.abc import Iterator, Mapping
from decimal import Decimal
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

CONVNET = "convnet-3"
"""Network of the tables unless a row says otherwise: ConvNet of three blocks and width 128."""


class PublishedRow(NamedTuple):
    """One accuracy of one paper's table, as a fraction; `std` and `n` are 0 where the paper gives none."""

    recipe: str
    dataset: str
    ipc: int
    mean: float
    std: float
    paper: str
    table: str
    protocol: str
    n: int = 0
    network: str = CONVNET
    """What was trained on the set: `convnet-3`, or the kind of a network specification."""

    variant: str = ""
    """What the paper left out of the method for this row; empty for the method itself."""

    note: str = ""
    """What to know before comparing with it."""


@cache
def published() -> tuple[PublishedRow, ...]:
    """Every row of `published.toml`."""
    # Decimal, because 48.9 / 100 in binary is not always the double nearest to 0.489.
    document = tomllib.loads((Path(__file__).parent / "published.toml").read_text(), parse_float=Decimal)
    return tuple(row for result in document["result"] for row in _rows(result, document["papers"]))


def _rows(result: Mapping[str, Any], papers: Mapping[str, str]) -> Iterator[PublishedRow]:
    shared = {**result, "paper": papers[result["paper"]]}
    for dataset, by_ipc in shared.pop("accuracy").items():
        for ipc, cell in by_ipc.items():
            mean, std = (float(value / 100) for value in (*cell, Decimal())[:2])
            yield PublishedRow(**shared, dataset=dataset, ipc=int(ipc), mean=mean, std=std)
