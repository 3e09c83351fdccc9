"""`report.json`: everything a job measured, as numbers. Accuracies are fractions; what is unknown is null."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from core.report.comparison import against_random, cautions, cost_of_8bit, published_rows, score_entry
from core.report.numbers import ratio
from core.report.outcome import TRAINED_ON, Outcome

FORMAT = 1
_FLOAT_BYTES = 4


def budget(outcome: Outcome) -> dict[str, Any]:
    """Stored scalars against classes x ipc x channels x height x width."""
    info = outcome.info
    allowed = info.num_classes * outcome.spec.ipc * info.scalars_per_image
    stored = sum(outcome.storage.values())
    return {
        "formula": "classes x ipc x channels x height x width", "scalars": allowed, "stored_by_kind": dict(outcome.storage),
        "stored": stored, "over_budget": stored > allowed,
    }


def size(outcome: Outcome) -> dict[str, Any]:
    """How much smaller the set is: images, and bytes of float32 scalars and of 8-bit images, against the real training set.

    Stored images are what the stored scalars would make as pixels; where images stand for one another an epoch shows fewer.
    """
    info = outcome.info
    decoded, real = len(outcome.labels), sum(info.train_per_class)
    stored = round(sum(outcome.storage.values()) / info.scalars_per_image, 2)
    real_bytes = real * info.scalars_per_image
    stored_bytes = _FLOAT_BYTES * sum(outcome.storage.values())
    decoded_bytes = decoded * info.scalars_per_image
    return {
        "stored_images": int(stored) if stored.is_integer() else stored, "stored_image_ratio": ratio(stored, real),
        "decoded_images": decoded, "images_per_epoch": decoded // outcome.variants,
        "real_training_images": real, "image_ratio": ratio(decoded, real),
        "stored_float32_bytes": stored_bytes, "decoded_8bit_bytes": decoded_bytes, "real_training_8bit_bytes": real_bytes,
        "stored_float32_byte_ratio": ratio(stored_bytes, real_bytes),
        "decoded_8bit_byte_ratio": ratio(decoded_bytes, real_bytes),
    }


def build_report(outcome: Outcome, files: Sequence[Path]) -> dict[str, Any]:
    """Assemble the report. `files` are the artifacts written so far, whose bytes it states."""
    spec, info = outcome.spec, outcome.info
    return {
        "format": FORMAT,
        "job_id": outcome.job_id,
        "attempt": outcome.attempt,
        "resumed_from_step": outcome.resumed_from_step,
        "recipe": spec.recipe,
        "ipc": spec.ipc,
        "seed": spec.seed,
        "scale": spec.scale,
        "capped": list(spec.capped),
        "dataset": {
            "name": info.name, "title": info.title, "digest": outcome.dataset_digest, "verified": info.verified,
            "num_classes": info.num_classes, "channels": info.channels, "height": info.height, "width": info.width,
            "held_out_fraction": spec.dataset.held_out_fraction, "split_rule": info.split_rule,
            "test_images": sum(info.test_per_class),
        },
        "protocol": spec.evaluation.model_dump(mode="json"),
        "iterate": "last",
        "learned_rate": outcome.learned_rate,
        "labels": "hard" if outcome.soft_labels is None else "soft",
        "chance": 1.0 / info.num_classes,
        "scores": [score_entry(score) for score in outcome.scores],
        "trained_on": {name: TRAINED_ON[name] for name in dict.fromkeys(score.name for score in outcome.scores)},
        "against_random": against_random(outcome),
        "cautions": cautions(outcome),
        "cost_of_8bit": cost_of_8bit(outcome),
        "published": published_rows(outcome),
        "budget": budget(outcome),
        "size": size(outcome),
        "files": {path.name: path.stat().st_size for path in files},
        "seconds": dict(outcome.seconds) | {"total": sum(outcome.seconds.values())},
        "seconds_per_iteration": outcome.seconds_per_iteration,
        "peak_memory_bytes": outcome.peak_memory_bytes,
        "first_step": dict(outcome.first_step),
        "device": outcome.device,
        "deterministic": spec.resources.gpus == 0 or spec.resources.deterministic,
        "code_revision": outcome.code_revision,
        "versions": dict(outcome.versions),
        "warnings": list(outcome.warnings),
        "curves": {
            name: {"steps": [step for step, _ in points], "values": [value for _, value in points]}
            for name, points in outcome.series.items()
        },
    }
