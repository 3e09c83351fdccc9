"""`manifest.json`: where the files come from, how to use them, and a checksum of each. Written last."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from core.catalogue import DatasetInfo
from core.report.export import normalisation
from core.report.outcome import Outcome

FORMAT = 1
_FACTORS = {
    "factors.safetensors": "bases, their labels and hallucinators; decode_factors.py makes the normalised images of them",
}


def sha256_of(path: Path) -> str:
    """SHA-256 of a file, in hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def build_manifest(outcome: Outcome, files: Sequence[tuple[Path, str]]) -> dict[str, Any]:
    """Assemble the manifest. `files` are all other artifacts, each with its media type."""
    info, spec = outcome.info, outcome.spec
    return {
        "format": FORMAT,
        "job_id": outcome.job_id,
        "attempt": outcome.attempt,
        "resumed_from_step": outcome.resumed_from_step,
        "code_revision": outcome.code_revision,
        "versions": dict(outcome.versions),
        "device": outcome.device,
        "seed": spec.seed,
        "spec": spec.model_dump(mode="json"),
        "science_digest": spec.science_digest(),
        "dataset": dataset_facts(info, outcome.dataset_digest),
        "classes": list(info.classes),
        "images": {"count": len(outcome.labels), "channels": info.channels, "height": info.height, "width": info.width},
        "normalisation": normalisation(outcome),
        "preprocessing": {
            "data.safetensors": "images (N, C, H, W) float32 are normalised already: use them as they are; labels int64",
            "data.parquet": "8-bit PNG images: apply the formula of `normalisation` before training",
            "images.zip": "the same 8-bit PNG images; folders sort by class index",
        } | (_FACTORS if outcome.factors else {}),
        "training": _training(outcome),
        "files": file_facts(files),
    }


def _training(outcome: Outcome) -> dict[str, Any]:
    """What belongs to the set beside its images: the rate that was learned with it, and where its soft labels stand."""
    places = {
        "data.safetensors": "soft_labels (N, K) float32", "data.parquet": "column soft_label", "images.zip": "soft_labels.csv",
    }
    return {"learned_rate": outcome.learned_rate, "soft_labels": None if outcome.soft_labels is None else places}


def dataset_facts(info: DatasetInfo, digest: str) -> dict[str, Any]:
    """Which data was read; `digest` is that of its canonical form."""
    return {
        "name": info.name, "title": info.title, "digest": digest, "verified": info.verified,
        "split_rule": info.split_rule, "source": info.source,
    }


def file_facts(files: Sequence[tuple[Path, str]]) -> dict[str, Any]:
    """Checksum and size of files, each with its media type, by name."""
    return {
        path.name: {"sha256": sha256_of(path), "bytes": path.stat().st_size, "media_type": media_type}
        for path, media_type in files
    }
