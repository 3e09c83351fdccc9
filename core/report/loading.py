"""How to load each form of the set: short programs that run as they stand beside the files."""

from __future__ import annotations

from core.catalogue import DatasetInfo


def snippets(info: DatasetInfo, *, soft: bool = False, whitened: bool = False, factored: bool = False) -> dict[str, str]:
    """Program text by form; every program ends with normalised images (N, C, H, W) and their labels, or a data set of both.

    Where labels are `soft`, programs that read tensors give these too; a `whitened` set brings its matrix; one that is
    `factored` can be made of its factors, too.
    """
    column = '\nsoft_labels = np.array(data["soft_label"][:], np.float32)' if soft else ""
    tensor = '\nsoft_labels = data["soft_labels"]' if soft else ""
    mean, std = list(info.mean), list(info.std)
    grey = "transforms.Grayscale(), " if info.channels == 1 else ""
    load = 'from safetensors.numpy import load_file\n' if whitened else ""
    to_channels_first = "[:, None]" if info.channels == 1 else ".transpose(0, 3, 1, 2)"
    if whitened:
        normalised = f"""\
pixels, whitening = np.stack(data["image"][:]) / np.float32(255), load_file("data.safetensors")
flat = pixels{to_channels_first}.reshape(len(pixels), -1) - whitening["whitening_mean"]
images = (flat @ whitening["whitening_matrix"]).reshape(-1, {info.channels}, {info.height}, {info.width})"""
        normalise = """\
whitening = load_file("data.safetensors")
normalise = transforms.LinearTransformation(whitening["whitening_matrix"], whitening["whitening_mean"])"""
    else:
        normalised = f"""\
pixels, mean, std = np.stack(data["image"][:]) / 255, {mean}, {std}
images = ((pixels - mean) / std){to_channels_first}.astype(np.float32)"""
        normalise = f"normalise = transforms.Normalize({mean}, {std})"
    forms = {
        "parquet": f"""\
import numpy as np
from datasets import load_dataset
{load}
data = load_dataset("parquet", data_files="data.parquet", split="train")  # data[0]["image"] is a PIL image
{normalised}
labels, names = np.array(data["label"][:]), data.features["label"].names{column}""",
        "safetensors": f"""\
from safetensors.numpy import load_file  # or safetensors.torch

data = load_file("data.safetensors")
images, labels = data["images"], data["labels"]{tensor}""",
    }
    if info.channels in (1, 3):  # torchvision reads every file as RGB
        forms["folder"] = f"""\
{load.replace(".numpy", ".torch")}from torchvision import datasets, transforms

{normalise}
normalise = transforms.Compose([{grey}transforms.ToTensor(), normalise])
data = datasets.ImageFolder("images", normalise)  # data[0] is (image, label)"""
    if factored:
        forms["factors"] = """\
from decode_factors import decode
from safetensors.numpy import load_file

images, labels = decode(load_file("factors.safetensors"))"""
    return forms
