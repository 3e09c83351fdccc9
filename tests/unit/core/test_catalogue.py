from __future__ import annotations

import pytest

from core.catalogue import CATALOGUE, DatasetInfo, convnet_depth
from core.class_names import IMAGENETTE, IMAGEWOOF, TINY_IMAGENET

pytestmark = pytest.mark.unit


@pytest.mark.parametrize("info", CATALOGUE.values(), ids=CATALOGUE)
class TestEverySet:
    def test_facts_agree_with_each_other(self, info: DatasetInfo) -> None:
        assert len(info.train_per_class) == len(info.test_per_class) == info.num_classes
        assert len(set(info.classes)) == info.num_classes
        assert len(info.mean) == len(info.std) == info.channels
        assert all(0 < value < 1 for value in (*info.mean, *info.std))

    def test_identity_fits_a_folder_name_and_is_its_own(self, info: DatasetInfo) -> None:
        assert info.identity.replace("-", "").isalnum()
        assert [other.name for other in CATALOGUE.values() if other.identity == info.identity] == [info.name]


def test_totals_are_the_published_ones() -> None:
    totals = {name: (sum(info.train_per_class), sum(info.test_per_class)) for name, info in CATALOGUE.items()}
    assert totals == {
        "digits": (1352, 445), "mnist": (60_000, 10_000), "fashion-mnist": (60_000, 10_000), "svhn": (73_257, 26_032),
        "cifar10": (50_000, 10_000), "cifar100": (50_000, 10_000), "tiny-imagenet": (100_000, 10_000),
        "kmnist": (60_000, 10_000), "emnist-balanced": (112_800, 18_800), "emnist-byclass": (697_932, 116_323),
        "emnist-letters": (124_800, 20_800), "emnist-digits": (240_000, 40_000), "emnist-mnist": (60_000, 10_000),
        "stl10": (5000, 8000), "imagenette": (9469, 3925), "imagewoof": (9025, 3929), "mini-speech-commands": (7000, 1000),
        "fsdd": (2700, 300),
    }


@pytest.mark.parametrize(("name", "rare"), [("imagenette", ("chain saw", 1194)), ("imagewoof", ("English foxhound", 754))])
def test_subsets_of_imagenet_hold_all_its_images_of_each_class(name: str, rare: tuple[str, int]) -> None:
    info = CATALOGUE[name]
    totals = {c: sum(n) for c, *n in zip(info.classes, info.train_per_class, info.test_per_class, strict=True)}
    assert totals == dict.fromkeys(info.classes, 1300 + 50) | {rare[0]: rare[1] + 50}


def test_only_sets_that_were_at_hand_are_verified() -> None:
    verified = {name for name, info in CATALOGUE.items() if info.verified}
    assert verified == {"digits", "mnist", "fashion-mnist", "cifar10", "fsdd"}
    assert all(len(CATALOGUE[name].identity) == 64 for name in verified)


def test_a_mirrored_character_or_recording_is_another_class() -> None:
    assert {name for name, info in CATALOGUE.items() if not info.mirrored} == {
        "digits", "mnist", "svhn", "kmnist", "emnist-balanced", "emnist-byclass", "emnist-letters", "emnist-digits",
        "emnist-mnist", "mini-speech-commands", "fsdd",
    }


def test_the_width_of_a_spectrogram_is_time() -> None:
    assert {name for name, info in CATALOGUE.items() if info.time_axis} == {"mini-speech-commands", "fsdd"}


def test_labels_of_subsets_of_imagenet_follow_their_folders() -> None:
    assert all(list(names) == sorted(names) for names in (TINY_IMAGENET, IMAGENETTE, IMAGEWOOF))
    assert CATALOGUE["tiny-imagenet"].classes[:2] == ("goldfish", "European fire salamander")


@pytest.mark.parametrize(("side", "depth"), [(8, 1), (28, 3), (32, 3), (64, 4), (96, 5), (128, 5)])
def test_depth_rule(side: int, depth: int) -> None:
    assert convnet_depth(side) == depth
