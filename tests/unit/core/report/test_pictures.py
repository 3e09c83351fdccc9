from __future__ import annotations

import dataclasses
import io

import numpy as np
import pytest
from PIL import Image

from core.report import curves
from core.report.export import to_8bit
from core.report.layout import MAX_PIXELS, cut
from core.report.outcome import Outcome
from core.report.pictures import preview, short
from tests.unit.core.report.conftest import Write

pytestmark = pytest.mark.unit


class TestCut:
    def test_a_small_set_is_shown_whole(self) -> None:
        found = cut(np.repeat(np.arange(10), 3), 10, 8, 8)
        assert found.rows[4] == (12, 13, 14)
        assert (found.columns, found.note) == (3, "")

    def test_a_big_set_is_cut_and_says_so(self) -> None:
        found = cut(np.repeat(np.arange(200), 50), 200, 64, 64)
        assert len(found.rows) == 100
        assert len(found.rows) * found.columns * 64 * 64 <= MAX_PIXELS
        assert found.note == "Showing the first 3 of 50 images of each class and the first 100 of 200 classes."

    def test_classes_may_differ_in_size_and_be_unsorted(self) -> None:
        found = cut(np.array([1, 0, 1, 1]), 3, 8, 8)
        assert found.rows == ((1,), (0, 2, 3), ())

    def test_huge_images_still_give_one_column(self) -> None:
        assert cut(np.arange(10), 10, 1024, 1024).columns == 1


class TestPreview:
    @pytest.mark.parametrize("name", ["digits", "single", "colour", "hundred"])
    def test_it_has_a_pleasant_shape(self, name: str, request: pytest.FixtureRequest, written: Write) -> None:
        out = written(request.getfixturevalue(name))
        for file in ("preview.png", "preview_initial.png"):
            with Image.open(out / file) as image:
                width, height = image.size
                assert image.format == "PNG"
            assert 0.6 < width / height < 4
            assert max(width, height) < 3000

    def test_small_images_are_enlarged_without_smoothing(self, single: Outcome) -> None:
        pixels = to_8bit(single.images, single.info.mean, single.info.std)
        drawn = np.asarray(preview(pixels, cut(single.labels, 10, 8, 8), single.info.classes, "digits"))[..., 0]
        tile = pixels[0, 0].repeat(9, axis=0).repeat(9, axis=1)
        windows = np.lib.stride_tricks.sliding_window_view(drawn, tile.shape)
        assert (windows[:, :200, ::9, ::9] == pixels[0, 0]).all(axis=(2, 3)).any()

    def test_a_name_stays_on_its_line(self) -> None:
        assert short("one\ntwo\x00three\u202e") == "one two three"
        assert short("x" * 100) == "x" * 19 + "..."


class TestCurves:
    def test_series_that_differ_in_a_number_share_a_panel(self) -> None:
        found = curves.panels({"distilled/0/loss": [(0, 1.0)], "distilled/1/loss": [(0, 2.0)], "held_out/accuracy": [(0, 0.5)]})
        assert [(panel.title, len(panel.lines), panel.is_fraction) for panel in found] == [
            ("distilled loss", 2, False), ("held-out accuracy", 1, True),
        ]
        assert found[1].steps == "iteration"

    def test_many_series_and_lines_are_capped(self) -> None:
        series = {f"a{i}/loss": [(0, 1.0)] for i in range(20)} | {f"a/{i}/loss": [(0, 1.0)] for i in range(20)}
        found = curves.panels(series)
        assert len(found) == curves.MAX_PANELS - 1
        assert (len(found[0].lines), found[0].hidden) == (8, 12)

    @pytest.mark.parametrize("count", [0, 1, 3, 4, 7])
    def test_any_number_of_panels_is_drawn(self, digits: Outcome, count: int) -> None:
        series = {f"series_{chr(97 + i)}": [(0, 1.0), (1, -1.0)] for i in range(count)}
        png = curves.compose(curves.draw_each(dataclasses.replace(digits, series=series)))
        with Image.open(io.BytesIO(png)) as image:
            assert image.size[0] > 500

    def test_several_architectures_have_a_panel_of_their_own(self, digits: Outcome, compared: Outcome) -> None:
        assert len(curves.draw_each(compared)) == len(curves.draw_each(digits)) + 1

    def test_nothing_to_draw_is_said(self, digits: Outcome) -> None:
        drawn = curves.draw_each(dataclasses.replace(digits, series={"loss": []}, scores=()))
        assert [png[:4] for png in drawn] == [b"\x89PNG", b"\x89PNG"]
