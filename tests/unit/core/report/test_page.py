from __future__ import annotations

import base64
import dataclasses
import io
import json
import re
import shutil
import zipfile
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from core.report.export import to_8bit
from core.report.loading import snippets
from core.report.outcome import Outcome
from core.specs.method import MethodSpec
from tests.unit.core.report.conftest import Write, normalised, spec_for

pytestmark = pytest.mark.unit

ATTACK = '<script>alert(1)</script>"><img src=x onerror=alert(2)>'
VOID = {"meta", "img", "link", "source", "br", "hr", "input"}


class Page(HTMLParser):
    """What a browser would build: every element, checked for balance, and the text."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(text)
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data

    def images(self) -> list[str]:
        return [str(attributes["src"]) for tag, attributes in self.elements if tag == "img"]


def page_of(outcome: Outcome, written: Write) -> tuple[str, Page]:
    text = (written(outcome) / "report.html").read_text(encoding="utf-8")
    return text, Page(text)


@pytest.fixture(scope="session")
def hostile(digits: Outcome) -> Outcome:
    classes = (ATTACK, "{{ 7 * 7 }}", "&amp;", *digits.info.classes[3:])
    info = digits.info.model_copy(update={"classes": classes, "title": ATTACK})
    spec = spec_for("digits", 3, tags={"team": ATTACK})
    return dataclasses.replace(
        digits, info=info, spec=spec, warnings=(ATTACK,), device=ATTACK, versions={ATTACK: ATTACK}, job_id=ATTACK,
        code_revision=ATTACK,
    )


class TestSafety:
    def test_every_text_is_escaped(self, hostile: Outcome, written: Write) -> None:
        text, page = page_of(hostile, written)
        assert "script" not in {tag for tag, _ in page.elements}
        assert not any(name.startswith("on") for _, attributes in page.elements for name in attributes)
        assert "<script" not in text
        assert page.text.count(ATTACK) >= 5
        assert "{{ 7 * 7 }}" in page.text

    @pytest.mark.parametrize("name", ["digits", "hostile", "colour"])
    def test_nothing_is_requested(self, name: str, request: pytest.FixtureRequest, written: Write) -> None:
        text, page = page_of(request.getfixturevalue(name), written)
        assert "://" not in text
        assert "url(" not in text
        assert "@import" not in text
        for tag, attributes in page.elements:
            assert tag not in {"script", "iframe", "object", "embed", "base", "form"}
            for key in ("src", "href", "srcset"):
                assert str(attributes.get(key, "data:")).startswith("data:")
        policy = [a["content"] for tag, a in page.elements if a.get("http-equiv") == "Content-Security-Policy"]
        assert policy == ["default-src 'none'; img-src data:; style-src 'unsafe-inline'"]


class TestContent:
    def test_pictures_are_the_8bit_images(self, digits: Outcome, written: Write) -> None:
        _, page = page_of(digits, written)
        decoded = []
        for uri in page.images():
            with Image.open(io.BytesIO(base64.b64decode(uri.removeprefix("data:image/png;base64,")))) as image:
                decoded.append(np.asarray(image))
        final = to_8bit(digits.images, digits.info.mean, digits.info.std)[:, 0]
        initial = to_8bit(digits.initial_images, digits.info.mean, digits.info.std)[:, 0]
        assert np.array_equal(np.stack(decoded[:30]), final)
        assert np.array_equal(np.stack(decoded[30:50:2]), initial[::3])
        assert np.array_equal(np.stack(decoded[31:50:2]), final[::3])

    def test_numbers_of_the_table(self, digits: Outcome, written: Write) -> None:
        _, page = page_of(digits, written)
        words = " ".join(page.text.split())
        assert "This set, float32convnet-1 width 32 88.3 \u00b1 1.1 3 +22.1" in words
        assert "66.2 \u00b1 3.5" in words
        assert "method.num_iterations: 20000 -> 300" in words
        assert "the real batch was clipped" in words
        assert digits.dataset_digest in words

    def test_every_baseline_and_architecture_has_a_row(self, compared: Outcome, written: Write) -> None:
        text, page = page_of(compared, written)
        words = " ".join(page.text.split())
        assert text.count('<tr class="ours">') == 4
        assert text.count('<tr class="baseline">') == 7
        assert "Mosaic of random real images, same budgetconvnet-1 width 32, 3 draws 70.0 \u00b1 1.0 3 +3.8" in words
        assert "Coreset: k-centerconvnet-1 width 32 60.0" in words
        assert "This set, float32mlp width 128 75.0 \u00b1 7.1 2 +25.0" in words
        assert "what packing alone gives" in words
        assert "+22.1 pointsagainst random selection" in words

    def test_without_a_mosaic_nothing_is_explained(self, digits: Outcome, written: Write) -> None:
        assert "mosaic" not in page_of(digits, written)[1].text.lower().partition("complete specification")[0]

    def test_a_run_that_counts_networks_says_so(self, single: Outcome, written: Write) -> None:
        method = single.spec.method.model_dump(mode="json") | {
            "models": {"kind": "dynamic_bilevel"}, "num_iterations": None, "num_networks": 2000,
        }
        spec = single.spec.model_copy(update={"method": MethodSpec.model_validate(method, strict=False)})
        _, page = page_of(dataclasses.replace(single, spec=spec), written)
        words = " ".join(page.text.split())
        assert "2,000 matching networks made of it" in words
        assert "Length2,000 matching networks" in words

    def test_a_set_without_a_known_digest_is_said(self, single: Outcome, written: Write) -> None:
        info = single.info.model_copy(update={"digest": None})
        out = written(dataclasses.replace(single, info=info, dataset_digest="ab" * 32))
        assert f"digest {'ab' * 32} (unverified)" in (out / "report.html").read_text()
        assert json.loads((out / "manifest.json").read_text())["dataset"]["verified"] is False
        assert json.loads((out / "report.json").read_text())["dataset"]["verified"] is False

    def test_published_rows_are_marked(self, paper: Outcome, written: Write) -> None:
        text, page = page_of(paper, written)
        assert text.count('<tr class="published">') == 2
        assert "not measured here" in page.text
        assert "Before you compare" not in page.text

    def test_a_coreset_is_not_called_distilled(self, digits: Outcome, written: Write) -> None:
        spec = spec_for("digits", 3, recipe="random", scale="paper")
        _, page = page_of(dataclasses.replace(digits, spec=spec, scores=digits.scores[:1]), written)
        assert "selected images stand in" in " ".join(page.text.split())
        assert "Before and after" not in page.text

    def test_a_set_over_its_budget_is_said(self, single: Outcome, written: Write) -> None:
        _, page = page_of(dataclasses.replace(single, storage={"pixels": 640, "labels": 1}), written)
        assert "641 scalars, more than the 640" in " ".join(page.text.split())

    def test_a_job_without_evaluation_or_curves_has_a_page(self, single: Outcome, written: Write) -> None:
        _, page = page_of(dataclasses.replace(single, scores=(), series={}, versions={}, warnings=()), written)
        assert "Test accuracy" not in page.text

    def test_a_cut_is_said(self, hundred: Outcome, written: Write) -> None:
        _, page = page_of(hundred, written)
        assert "Showing the first 10 of 12 images of each class." in page.text


def programs(outcome: Outcome) -> dict[str, str]:
    return snippets(outcome.info, soft=outcome.soft_labels is not None, whitened=outcome.whitened is not None)


def test_learned_things_are_shown(learned: Outcome, whitened: Outcome, written: Write) -> None:
    _, page = page_of(learned, written)
    assert "0.0123, used in the evaluation" in page.text
    assert "soft, learned" in page.text
    assert "whitening_matrix" in page_of(whitened, written)[1].text


class TestSnippets:
    """The programs of the page run as they stand, and give the right numbers."""

    @pytest.fixture(params=["digits", "colour", "learned", "whitened"])
    def outcome(
        self, request: pytest.FixtureRequest, written: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> Outcome:
        found: Outcome = request.getfixturevalue(request.param)
        text, page = page_of(found, written)
        shown = re.findall(r'<pre class="load"', text)
        assert len(shown) == 3
        assert all(program in page.text for program in programs(found).values())
        shutil.copytree(written(found), tmp_path / "out")
        monkeypatch.chdir(tmp_path / "out")
        return found

    def run(self, outcome: Outcome, form: str) -> dict[str, Any]:
        names: dict[str, Any] = {}
        exec(programs(outcome)[form], names)
        return names

    def expected(self, outcome: Outcome) -> np.ndarray[Any, Any]:
        what = outcome.whitened
        if what is not None:
            flat = what.pixels.reshape(len(what.pixels), -1) / np.float32(255)
            return np.asarray((flat - what.mean) @ what.matrix).reshape(what.pixels.shape)
        return normalised(to_8bit(outcome.images, outcome.info.mean, outcome.info.std), outcome.info)

    def test_parquet(self, outcome: Outcome, hub: Path) -> None:
        names = self.run(outcome, "parquet")
        assert names["images"].dtype == np.float32
        np.testing.assert_allclose(names["images"], self.expected(outcome), rtol=0, atol=1e-5)
        assert names["labels"].tolist() == outcome.labels.tolist()
        assert names["names"] == list(outcome.info.classes)
        if outcome.soft_labels is not None:
            assert np.array_equal(names["soft_labels"], outcome.soft_labels)

    def test_safetensors(self, outcome: Outcome) -> None:
        names = self.run(outcome, "safetensors")
        assert np.array_equal(names["images"], outcome.images)
        assert np.array_equal(names["labels"], outcome.labels)
        if outcome.soft_labels is not None:
            assert np.array_equal(names["soft_labels"], outcome.soft_labels)

    def test_folder(self, outcome: Outcome) -> None:
        import core.data.vision  # noqa: F401 - makes torchvision load beside a CPU build of torch

        with zipfile.ZipFile("images.zip") as archive:
            archive.extractall("images")
        data = self.run(outcome, "folder")["data"]
        images = np.stack([image.numpy() for image, _ in data])
        np.testing.assert_allclose(images, self.expected(outcome), rtol=0, atol=1e-5)
        assert [label for _, label in data] == outcome.labels.tolist()
