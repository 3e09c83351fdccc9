"""The README's commands work as they stand: those of "One job, from submit to download" are run, the others must exist."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import httpx
import numpy as np
import pytest
from PIL import Image

from tests.fixtures.servers import free_port
from tests.fixtures.service import FAST, ROOT

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(600)]

README = (ROOT / "README.md").read_text()
BLOCK = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def section(title: str) -> str:
    return README.split(f"\n## {title}\n")[1].split("\n## ")[0]


def make_shoes(folder: Path) -> None:
    """A folder of images for each class."""
    rng = np.random.default_rng(0)
    for label, name in enumerate(("boot", "sandal", "sneaker")):
        (folder / name).mkdir(parents=True)
        for number in range(12):
            pixels = rng.integers(60 * label, 60 * label + 100, (16, 16), np.uint8)
            Image.fromarray(pixels).save(folder / name / f"{number}.png")


def test_one_job_from_submit_to_download_and_another_on_own_images(tmp_path: Path) -> None:
    blocks = BLOCK.findall(section("One job, from submit to download"))
    own = [text for language, text in BLOCK.findall(section("Your own images")) if language == "bash"]
    bash = [text for language, text in blocks if language == "bash"]
    python = [text for language, text in blocks if language == "python"]
    (start,) = (text for text in bash if "distill up" in text)
    port = str(free_port())
    kept = {name: value for name, value in os.environ.items() if not name.startswith("DISTILL_")}
    env = kept | FAST | {
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}", "DISTILL_URL": f"http://127.0.0.1:{port}",
        "DISTILL_HOME": str(tmp_path / "home"), "HF_HOME": str(tmp_path / "hf"), "HF_HUB_OFFLINE": "1",
    }  # fmt: skip

    def run(text: str, *command: str) -> str:
        done = subprocess.run(
            [*command, text.replace("8000", port)], env=env, cwd=tmp_path, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, f"{text}\n{done.stdout}\n{done.stderr}"
        return done.stdout

    launcher = subprocess.Popen(
        ["bash", "-c", start.replace("8000", port).replace(" &\n", "\n").replace("distill up", "exec distill up")],
        env=env, cwd=tmp_path, stdout=subprocess.DEVNULL,
    )  # fmt: skip
    try:
        wait_for(f"http://127.0.0.1:{port}/readyz")
        rest = [text for text in bash if text is not start]
        said = run("set -e\n" + "\n".join(rest), "bash", "-c")
        assert "distilled" in said
        assert "random" in said
        assert {"data.parquet", "report.html", "manifest.json"} <= {path.name for path in (tmp_path / "my-digits").iterdir()}
        assert len(list((tmp_path / "my-digits" / "images").rglob("*.png"))) == 10
        for text in python:
            assert "(8, 8)" in run(text, sys.executable, "-c")
        make_shoes(tmp_path / "shoes")
        said = run("set -e\n" + "\n".join(own), "bash", "-c")
        assert "3: boot, sandal, sneaker" in said
        assert "distilled set" in said
        assert len(list((tmp_path / "shoes-samples").glob("*.png"))) == 20
    finally:
        launcher.send_signal(signal.SIGTERM)
        assert launcher.wait(timeout=60) == 0


def wait_for(url: str, seconds: float = 60) -> None:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        try:
            if httpx.get(url, timeout=2).status_code == 200:
                return
        except httpx.HTTPError:
            pass
        time.sleep(0.1)
    raise AssertionError(f"{url} did not answer")


def test_every_make_target_named_exists() -> None:
    targets = set(re.findall(r"^([a-z0-9]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    assert set(re.findall(r"`make ([a-z0-9]+)", README)) | {"demo", "test"} <= targets


def test_every_setting_named_exists() -> None:
    from core.settings import Settings

    named = {name.removeprefix("DISTILL_").lower() for name in re.findall(r"DISTILL_[A-Z0-9_]+", README)}
    assert named <= set(Settings.model_fields)


def test_every_figure_of_the_table_stands_in_its_results_file() -> None:
    import json

    rows = re.findall(r"^\| .*\((tests/\S+\.json)\).* \|$", section("What it gives"), re.MULTILINE)
    assert rows
    for line in section("What it gives").splitlines():
        found = re.search(r"\]\((tests/\S+\.json)\)", line)
        if found is None:
            continue
        document = json.loads((ROOT / found[1]).read_text())
        for name in ("distilled", "random"):
            shown = f"{100 * document[name]['mean']:.1f} ± {100 * document[name]['sd']:.1f}"
            assert shown in line, (line, name, shown)
