"""The deployment files against the code: what they name must exist."""

from __future__ import annotations

import ast
import importlib.util
import os
import re
import shlex
import subprocess
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml

from core.settings import Settings

pytestmark = pytest.mark.unit

ROOT = Path(__file__).resolve().parents[2]
COMPOSE: dict[str, Any] = yaml.safe_load((ROOT / "docker-compose.yml").read_text())
SERVICES: dict[str, dict[str, Any]] = COMPOSE["services"]
DOCKERFILE = (ROOT / "Dockerfile").read_text()
OURS = {name: service for name, service in SERVICES.items() if "build" in service}
LONG_RUNNING = sorted(set(SERVICES) - {"migrate"})


def seconds(text: str) -> float:
    number, unit = re.fullmatch(r"(\d+)(s|m)", text).groups()  # type: ignore[union-attr]
    return int(number) * {"s": 1.0, "m": 60.0}[unit]


def defaults(text: str) -> str:
    """Compose's `${NAME:-default}` with nothing set."""
    return re.sub(r"\$\{\w+:-([^}]*)\}", r"\1", text)


def modules(command: list[str]) -> list[str]:
    return [command[i + 1] for i, word in enumerate(command[:-1]) if word == "-m"]


def stages() -> dict[str, tuple[str, str]]:
    """Name of each stage of the Dockerfile: (what it is from, its text)."""
    parts = re.split(r"^FROM (\S+) AS (\S+)$", DOCKERFILE, flags=re.MULTILINE)
    return {parts[i + 1]: (parts[i], parts[i + 2]) for i in range(1, len(parts), 3)}


class TestCompose:
    def test_has_every_part(self) -> None:
        assert set(SERVICES) == {"db", "redis", "store", "migrate", "api", "worker", "worker-gpu", "reconciler"}

    @pytest.mark.parametrize("name", sorted(OURS))
    def test_every_variable_is_a_setting_with_a_valid_value(self, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
        given = {key: defaults(str(value)) for key, value in OURS[name]["environment"].items()}
        assert all(key.startswith("DISTILL_") for key in given)
        known = {f"DISTILL_{field.upper()}" for field in Settings.model_fields}
        assert given.keys() <= known
        for key, value in given.items():
            monkeypatch.setenv(key, value)
        settings = Settings()
        assert settings.database.startswith("postgresql+psycopg://")
        assert settings.broker.startswith("redis://")
        assert settings.store.startswith("s3://")

    @pytest.mark.parametrize("name", sorted(OURS))
    def test_every_command_names_modules_that_exist(self, name: str) -> None:
        service = OURS[name]
        checked = modules(service["command"]) + modules(service.get("healthcheck", {}).get("test", []))
        assert checked
        for module in checked:
            assert importlib.util.find_spec(module) is not None, module
        factories = [word for word in service["command"] if re.fullmatch(r"[\w.]+:\w+", word)]
        for module, _, function in (word.partition(":") for word in factories):
            tree = ast.parse((ROOT / f"{module.replace('.', '/')}.py").read_text())
            assert function in {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}

    @pytest.mark.parametrize("name", LONG_RUNNING)
    def test_long_running_parts_are_watched_restarted_and_reaped(self, name: str) -> None:
        service = SERVICES[name]
        assert service["init"] is True
        assert service["restart"] == "unless-stopped"
        assert {"test", "interval", "timeout", "retries", "start_period"} <= service["healthcheck"].keys()

    @pytest.mark.parametrize("name", LONG_RUNNING)
    def test_waits_for_what_it_needs(self, name: str) -> None:
        needed = SERVICES[name].get("depends_on", {})
        for other, how in needed.items():
            assert how["condition"] == ("service_completed_successfully" if other == "migrate" else "service_healthy")
        if name in OURS:
            assert {"migrate", "redis"} <= needed.keys()

    def test_workers_have_time_to_save_their_jobs(self) -> None:
        for name in ("worker", "worker-gpu"):
            drain = float(SERVICES[name]["environment"]["DISTILL_DRAIN_SECONDS"])
            assert seconds(SERVICES[name]["stop_grace_period"]) > drain + 30
        command = SERVICES["api"]["command"]
        assert seconds(SERVICES["api"]["stop_grace_period"]) > float(command[command.index("--timeout-graceful-shutdown") + 1])

    def test_every_queue_has_a_worker_and_the_gpu_is_reserved(self) -> None:
        served = {name: SERVICES[name]["command"][-1] for name in ("worker", "worker-gpu")}
        assert served == {"worker": "cpu", "worker-gpu": "gpu"}
        assert SERVICES["worker-gpu"]["profiles"] == ["gpu"]
        (device,) = SERVICES["worker-gpu"]["deploy"]["resources"]["reservations"]["devices"]
        assert device == {"driver": "nvidia", "count": 1, "capabilities": ["gpu"]}

    def test_the_queue_never_forgets(self) -> None:
        command = SERVICES["redis"]["command"]
        given = dict(zip(command[1::2], command[2::2], strict=False))
        assert given["--appendonly"] == "yes"
        assert given["--maxmemory-policy"] == "noeviction"

    def test_servers_and_their_clients_agree(self) -> None:
        ours = {key: defaults(str(value)) for key, value in SERVICES["api"]["environment"].items()}
        database = {key: defaults(value) for key, value in SERVICES["db"]["environment"].items()}
        url = "postgresql+psycopg://{POSTGRES_USER}:{POSTGRES_PASSWORD}@db:5432/{POSTGRES_DB}".format(**database)
        assert ours["DISTILL_DATABASE_URL"] == url
        password = defaults(SERVICES["redis"]["command"][-1])
        assert ours["DISTILL_BROKER_URL"] == f"redis://:{password}@redis:6379/0"
        store = {key: defaults(value) for key, value in SERVICES["store"]["environment"].items()}
        assert ours["DISTILL_S3_ACCESS_KEY_ID"] == store["AWS_ACCESS_KEY_ID"]
        assert ours["DISTILL_S3_SECRET_ACCESS_KEY"] == store["AWS_SECRET_ACCESS_KEY"]
        bucket = ours["DISTILL_STORE_URL"].removeprefix("s3://").partition("/")[0]
        assert f"-bucket={bucket}" in SERVICES["store"]["command"]
        assert f"-s3.port={ours['DISTILL_S3_ENDPOINT'].rpartition(':')[2]}" in SERVICES["store"]["command"]

    def test_only_the_api_is_published_and_only_here(self) -> None:
        published = {name: service["ports"] for name, service in SERVICES.items() if "ports" in service}
        assert published == {"api": ["127.0.0.1:8000:8000"]}

    def test_every_volume_is_declared(self) -> None:
        used = {volume.partition(":")[0] for service in SERVICES.values() for volume in service.get("volumes", [])}
        assert used == COMPOSE["volumes"].keys()


class TestDockerfile:
    def test_every_target_that_compose_builds_exists(self) -> None:
        assert {service["build"]["target"] for service in OURS.values()} == {"api", "worker"} <= stages().keys()

    @pytest.mark.parametrize("target", ["api", "worker"])
    def test_images_run_as_an_ordinary_user_and_hold_the_code(self, target: str) -> None:
        text = stages()[target][1]
        assert re.search(r"^USER distill$", text, re.MULTILINE)
        assert set(re.findall(r"^COPY (\w+) \1$", text, re.MULTILINE)) == {"api", "core", "migrations", "worker"}
        assert 'CMD ["python", "-m", ' in text

    def test_only_the_worker_has_torch(self) -> None:
        found = stages()
        assert found["worker"][0] == "worker-base"
        assert found["api"][0] == found["worker-base"][0] == "base"
        assert "['worker']" in found["worker-base"][1]
        assert "['worker']" not in found["base"][1] + found["api"][1]
        plain = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["dependencies"]
        assert not [line for line in plain if re.match(r"(torch|torchvision|numpy)\b", line)]

    def test_the_build_sees_what_it_copies(self) -> None:
        seen = {line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")}
        copied = {word for line in re.findall(r"^COPY (.+) \S+$", DOCKERFILE, re.MULTILINE) for word in shlex.split(line)}
        assert copied == seen
        assert all((ROOT / name).exists() for name in copied - {"README.md"})

    def test_home_is_the_volume(self) -> None:
        (home,) = re.findall(r"DISTILL_HOME=(\S+)", DOCKERFILE)
        assert SERVICES["worker"]["volumes"] == [f"worker-home:{home}"]


class TestMakefile:
    def dry_run(self, *arguments: str) -> str:
        command = ["make", "--no-print-directory", "-n", "-o", ".venv/.installed", *arguments]
        return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True, env=self.environment()).stdout

    def environment(self) -> dict[str, str]:
        """Without what an outer `make` hands down."""
        return {name: value for name, value in os.environ.items() if name not in {"MAKEFLAGS", "MAKELEVEL", "MFLAGS"}}

    def test_bare_make_explains_every_target(self) -> None:
        shown = subprocess.run(
            ["make", "--no-print-directory"], cwd=ROOT, capture_output=True, text=True, check=True, env=self.environment()
        ).stdout
        listed = {line.split()[1] for line in shown.splitlines()}
        (phony,) = re.findall(r"^\.PHONY: (.+)$", (ROOT / "Makefile").read_text(), re.MULTILINE)
        assert listed == set(phony.split())
        assert {"help", "demo", "test", "check", "stats", "bench", "clean"} <= listed

    def test_demo_passes_its_arguments_on(self) -> None:
        assert "distill demo --dataset 'digits' --ipc '1'" in self.dry_run("demo")
        assert "--dataset 'fashion-mnist' --ipc '10'" in self.dry_run("demo", "DATASET=fashion-mnist", "IPC=10")

    def test_check_is_lint_types_and_migrations(self) -> None:
        assert [line.split("/")[-1] for line in self.dry_run("check").splitlines()] == [
            "ruff check", "mypy", "python -m migrations check",
        ]

    def test_test_runs_what_bare_pytest_runs_on_every_core(self) -> None:
        command = self.dry_run("test").splitlines()[-1]
        assert command == ".venv/bin/python -m pytest -n auto --maxprocesses 4 --dist worksteal"

    def test_a_new_machine_installs_torch_first(self) -> None:
        made = subprocess.run(
            ["make", "--no-print-directory", "-n", "-W", "pyproject.toml", "test"], cwd=ROOT, capture_output=True, text=True,
            check=True, env=self.environment(),
        ).stdout
        installs = [line for line in made.splitlines() if "pip install" in line]
        bound = re.search(r'"(torch>=[^"]+)"', (ROOT / "pyproject.toml").read_text())
        assert bound is not None
        assert bound[1] in installs[0]
        assert installs[1].endswith("-e '.[dev]'")
        assert all("-c constraints.txt" in line for line in installs)


def test_ci_runs_the_same_commands_as_a_developer() -> None:
    script = ROOT / ".ci" / "run"
    lines = script.read_text().splitlines()
    assert os.access(script, os.X_OK)
    assert "set -euo pipefail" in lines
    assert [line for line in lines if line.startswith("make ")] == [
        "make test", "make check", "make e2e", "make faults FAULTS='not long'",
    ]
    subprocess.run(["bash", "-n", str(script)], check=True)
