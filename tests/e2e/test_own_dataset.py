"""A stranger's folder of images: uploaded, read, looked at, distilled with a recipe's defaults; over HTTP only.

The images are real (scikit-learn's scans of digits, enlarged to 16 px and saved as JPEG), the class names are ones that no
recipe knows, and the split is the service's own.
"""

from __future__ import annotations

import base64
import io
import time
import zipfile
from pathlib import Path

import httpx
import numpy as np
import pytest
from PIL import Image

from api.client.errors import ClientError
from api.client.http import DistillClient
from tests.e2e.training import real
from tests.fixtures.service import Service

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(600)]

NAMES = ("naught", "ace", "deuce", "trey", "four", "five", "six", "seven", "eight", "nine")
MARGIN = 0.08
"""Fixed beforehand, as for the digits themselves: DM at ipc 1 beats random by 19 +- 3 points there."""


def write_folder(folder: Path) -> int:
    """Every digit as a JPEG file in a folder of its class; how many there are."""
    splits = real()
    images = np.concatenate([splits.train_images, splits.test_images])
    labels = np.concatenate([splits.train_labels, splits.test_labels])
    for name in NAMES:
        (folder / name).mkdir(parents=True)
    for number, (image, label) in enumerate(zip(images, labels, strict=True)):
        picture = Image.fromarray(image[0]).resize((16, 16), Image.Resampling.BICUBIC)
        picture.save(folder / NAMES[label] / f"scan {number:04d}.jpg", quality=95)
    return len(labels)


def test_a_folder_becomes_a_distilled_set(laptop_service: Service, tmp_path: Path) -> None:
    began = time.monotonic()
    folder = tmp_path / "my digits"
    count = write_folder(folder)
    archive = tmp_path / "digits.zip"
    with zipfile.ZipFile(archive, "w") as made:
        for path in sorted(folder.rglob("*.jpg")):
            made.write(path, path.relative_to(tmp_path))  # below one common folder, as most people pack it

    with DistillClient(laptop_service.url) as client:
        uploaded = client.upload(archive)
        dataset = client.register_dataset(
            uploaded["id"], name="my digits", file_format="imagefolder_zip", conversion={"mirrored": False}
        )
        assert dataset["state"] == "validating"
        ingest = client.wait(dataset["links"]["job"].rpartition("/")[2])
        assert ingest["state"] == "succeeded", (ingest["error"], laptop_service.logs())

        found = client.dataset(dataset["id"])
        assert found["state"] == "ready"
        assert found["classes"] == sorted(NAMES)
        assert (found["channels"], found["height"], found["width"]) == (1, 16, 16)
        assert found["num_train"] + found["num_test"] == count
        assert found["mirrored"] is False
        assert found["digest"]
        samples = client.samples(dataset["id"], class_name="deuce", split="test", count=3)
        assert [sample["class_name"] for sample in samples] == ["deuce"] * 3
        assert Image.open(io.BytesIO(base64.b64decode(samples[0]["png"]))).size == (16, 16)
        preview = httpx.get(f"{laptop_service.url}{found['links']['preview']}")
        assert Image.open(io.BytesIO(preview.content)).format == "PNG"

        job = client.submit({
            "dataset": {"id": dataset["id"]}, "ipc": 1, "recipe": "dm", "scale": "small",
            "evaluation": {"num_eval": 2, "num_epochs": 100, "random_draws": 2},
        })
        assert job["spec"]["defaults_from"] == "cifar10 ipc 1"
        with pytest.raises(ClientError) as refusal:
            client.delete_dataset(dataset["id"])
        assert refusal.value.code == "dataset_in_use"
        done = client.wait(job["id"])
        assert done["state"] == "succeeded", (done["error"], laptop_service.logs())
        scores = {score["name"]: score["mean"] for score in done["result"]["summary"]["scores"]}
        assert scores["distilled"] - scores["random"] > MARGIN, f"after {time.monotonic() - began:.0f} s"

        report = laptop_service.download(laptop_service.artifacts(job["id"])["report.html"]).decode()
        assert "my digits" in report
        assert "deuce" in report

        client.delete_dataset(dataset["id"])
        with pytest.raises(ClientError) as gone:
            client.submit({"dataset": {"id": dataset["id"]}, "ipc": 1, "recipe": "dm"})
        assert gone.value.code == "dataset_not_found"
        assert client.job(job["id"])["state"] == "succeeded"
