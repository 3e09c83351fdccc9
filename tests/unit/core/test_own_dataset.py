"""Jobs on data sets that no catalogue knows: any number of channels, imbalanced classes, classes smaller than a batch."""

from __future__ import annotations

import io
import json
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from safetensors.numpy import load_file

from core.catalogue import DatasetInfo
from core.data import canonical
from core.data.sources import RawSplits
from core.specs.job import JobRequest
from core.specs.report import JobFile
from core.specs.resolve import resolve

pytestmark = pytest.mark.unit
ROOT = Path(__file__).parents[3]
TRAIN, TEST = (9, 30, 15), (2, 5, 3)


def written(folder: Path, channels: int) -> DatasetInfo:
    """A canonical set of three classes of 16x16 images."""
    rng = np.random.default_rng(channels)

    def split(counts: tuple[int, ...]) -> tuple[np.ndarray, np.ndarray]:
        labels = np.repeat(np.arange(3), counts).astype(np.int64)
        noise = rng.integers(0, 60, (len(labels), channels, 16, 16))
        return (noise + 60 * labels[:, None, None, None]).astype(np.uint8), labels

    digest = canonical.write(RawSplits(*split(TRAIN), *split(TEST)), folder)
    return DatasetInfo(
        name="ds_" + "0" * 32, title="Mine", channels=channels, height=16, width=16, classes=("a", "b", "c"),
        train_per_class=TRAIN, test_per_class=TEST, mean=(0.4,) * channels, std=(0.2,) * channels, mirrored=True,
        split_rule="named", digest=digest, source="here",
    )


@pytest.mark.parametrize("channels", [2, 4])
def test_images_have_one_to_four_channels(tmp_path: Path, channels: int) -> None:
    info = written(tmp_path / "data", channels)
    body = {
        "dataset": {"id": info.name}, "ipc": 2, "recipe": "dm", "scale": "small",
        "method": {"num_iterations": 2, "network": {"width": 8}, "selection": {"real_batch_per_class": 20}},
        "evaluation": {"num_eval": 1, "num_epochs": 2, "random_draws": 0, "check_8bit": False},
    }
    spec = resolve(JobRequest.model_validate_json(json.dumps(body)), info)
    job = tmp_path / "job"
    job.mkdir()
    file = JobFile(
        job_id="job_1", attempt=1, spec=spec.model_dump(mode="json"), dataset_dir=str(tmp_path / "data"), dataset=info
    )
    (job / "job.json").write_text(file.model_dump_json())
    done = subprocess.run(
        [sys.executable, "-m", "core.run", str(job)], cwd=ROOT, capture_output=True, text=True, stdin=subprocess.DEVNULL,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert load_file(job / "out" / "data.safetensors")["images"].shape == (6, channels, 16, 16)
    with zipfile.ZipFile(job / "out" / "images.zip") as archive:
        (first, *_) = (name for name in archive.namelist() if name.endswith(".png"))
        image = Image.open(io.BytesIO(archive.read(first)))
        assert (image.size, len(image.getbands())) == ((16, 16), channels)
    report = json.loads((job / "out" / "report.json").read_text())
    assert any("images of 32 px (here 16)" in warning for warning in report["warnings"]), report["warnings"]
