"""How to load each form of the set: short programs that run as they stand beside the files."""

from __future__ import annotations

from core.catalogue import DatasetInfo


def snippets(info: DatasetInfo, *, soft: bool = False) -> dict[str, str]:
    """Program text by form; every program ends with normalised images (N, C, H, W) and their labels, or a data set of both.

    Where labels are `soft`, programs that read tensors give these too.
    """
    column = '\nsoft_labels = np.array(data["soft_label"][:], np.float32)' if soft else ""
    tensor = '\nsoft_labels = data["soft_labels"]' if soft else ""
    mean, std = list(info.mean), list(info.std)
    grey = "transforms.Grayscale(), " if info.channels == 1 else ""
    to_channels_first = "[:, None]" if info.channels == 1 else ".transpose(0, 3, 1, 2)"
    return {
        "parquet": f"""\
import numpy as np
from datasets import load_dataset

data = load_dataset("parquet", data_files="data.parquet", split="train")  # data[0]["image"] is a PIL image
pixels, mean, std = np.stack(data["image"][:]) / 255, {mean}, {std}
images = ((pixels - mean) / std){to_channels_first}.astype(np.float32)
labels, names = np.array(data["label"][:]), data.features["label"].names{column}""",
        "safetensors": f"""\
from safetensors.numpy import load_file  # or safetensors.torch

data = load_file("data.safetensors")
images, labels = data["images"], data["labels"]{tensor}""",
        "folder": f"""\
from torchvision import datasets, transforms

normalise = transforms.Normalize({mean}, {std})
normalise = transforms.Compose([{grey}transforms.ToTensor(), normalise])
data = datasets.ImageFolder("images", normalise)  # data[0] is (image, label)""",
    }
