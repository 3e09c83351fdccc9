"""Directions of imports, by reading the source, and the weight of the API process, by starting one."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

pytestmark = pytest.mark.unit

ROOT = Path(__file__).resolve().parents[2]
TORCH_HALF = ("core/data", "core/ingest", "core/networks", "core/distillation", "core/evaluation", "core/report",
              "core/training", "core/experts.py", "core/run.py", "core/run_distillation.py", "core/run_experts.py",
              "core/attempt.py", "core/probe.py", "core/self_test.py", "core/machine.py", "core/child.py", "core/progress.py",
              "core/compilation.py", "core/shared_files.py")
HEAVY = ("torch", "torchvision", "numpy", "PIL", "matplotlib", "pyarrow", "safetensors", "sklearn", "jinja2")
SERVICE = ("sqlalchemy", "celery", "kombu", "redis", "fastapi", "starlette", "obstore", "core.jobs", "core.store",
           "core.uploads")


def modules(*places: str) -> list[Path]:
    found = [path for place in places for path in ([ROOT / place] if place.endswith(".py") else (ROOT / place).rglob("*.py"))]
    return sorted(path for path in found if path.exists())


def imports(path: Path) -> Iterator[str]:
    """Every module a file imports, wherever in the file, as absolute names; `from a import b` gives `a` and `a.b`."""
    package = path.relative_to(ROOT).with_suffix("").parts[:-1]
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            parents = package[: len(package) - node.level + 1] if node.level else ()
            base = ".".join([*parents, *filter(None, [node.module])])
            yield base
            yield from (f"{base}.{alias.name}" for alias in node.names)


def within(name: str, *packages: str) -> bool:
    return any(name == package or name.startswith(f"{package}.") for package in packages)


def offences(places: tuple[str, ...], forbidden: tuple[str, ...], allowed: tuple[str, ...] = ()) -> list[str]:
    return [
        f"{path.relative_to(ROOT)} imports {name}"
        for path in modules(*places) for name in imports(path)
        if within(name, *forbidden) and not within(name, *allowed)
    ]


def test_the_reader_of_imports_sees_them() -> None:
    assert "core.jobs.repository" in set(imports(ROOT / "api/jobs/endpoints.py"))
    assert offences(("api/jobs",), ("core.jobs",))


def test_api_and_worker_never_import_each_other() -> None:
    assert offences(("api",), ("worker",)) == []
    assert offences(("worker",), ("api",)) == []


def test_core_imports_neither() -> None:
    assert offences(("core",), ("api", "worker", "migrations", "tests")) == []


def test_the_torch_half_knows_nothing_of_the_service() -> None:
    assert offences(TORCH_HALF, SERVICE) == []


def test_specifications_know_only_errors_and_the_catalogue() -> None:
    assert offences(("core/specs",), ("core",), ("core.specs", "core.errors", "core.catalogue")) == []
    assert offences(("core/errors.py",), ("core",)) == []


def test_the_torch_free_half_names_no_heavy_package() -> None:
    files = ("core/errors.py", "core/settings.py", "core/catalogue.py", "core/class_names.py", "core/logging.py",
             "core/shared_files.py")
    assert offences(("api", "core/specs", "core/jobs", "core/store", "core/uploads", *files), HEAVY) == []


def test_specifications_need_no_server_library() -> None:
    assert offences(("core/specs", "core/errors.py", "core/catalogue.py"), SERVICE) == []


def test_nothing_imports_the_tests() -> None:
    assert offences(("api", "core", "worker", "migrations"), ("tests",)) == []


@pytest.mark.parametrize(
    "module",
    [
        "api.main", "api.openapi", "api.client.http", "api.client.cli", "core.probe", "worker.__main__", "worker.reconciler",
        "migrations.commands",
    ],
)
@pytest.mark.parametrize("installed", [True, False], ids=["installed", "absent"])
def test_a_fresh_interpreter_loads_no_heavy_package(module: str, installed: bool) -> None:
    """Neither where the packages are installed, nor where importing one of them would fail, as in the API image."""
    absent = "" if installed else f"import sys; sys.modules.update(dict.fromkeys({HEAVY!r}))\n"
    program = absent + (
        f"import sys, {module}\n"
        f"heavy = sorted({{n.partition('.')[0] for n, m in sys.modules.items() if m is not None}} & set({HEAVY!r}))\n"
        "sys.exit(f'loaded: {heavy}' if heavy else 0)"
    )
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
