from __future__ import annotations

import io
import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from api.client import display
from tests.unit.client.contract_server import ContractServer, Handler

pytestmark = pytest.mark.unit

ROOT = Path(__file__).resolve().parents[3]
DIGITS = ("--dataset", "digits", "--ipc", "1", "--recipe", "dm")
SCORES = [
    {"name": "distilled", "mean": 0.7, "std": 0.012, "n": 5, "num_sets": 1, "network": "convnet-1 width 128"},
    {"name": "random", "mean": 0.5, "std": 0.05, "n": 3, "num_sets": 3, "network": "convnet-1 width 128"},
]


def distill(*arguments: str, cwd: Path = ROOT, stdin: str = "", **environment: str) -> subprocess.CompletedProcess[str]:
    """The command as a user runs it: its own process, whose output is no terminal."""
    return subprocess.run(
        [sys.executable, "-c", "from api.client.cli import main; main()", *arguments], input=stdin, capture_output=True,
        text=True, timeout=60, cwd=cwd, env=os.environ | {"PYTHONPATH": str(ROOT)} | environment, check=False,
    )


def succeeded_job(service: ContractServer) -> None:
    service.add_job(result={"summary": {"scores": SCORES}})
    service.add_event("job_1", "job.state", {"state": "running"})
    for step in range(0, 301, 3):
        progress = {"phase": "distilling", "step": step, "total_steps": 300, "seconds_per_step": 0.01}
        service.add_event("job_1", "job.progress", progress)
    service.add_event("job_1", "warning", message="the batch was clipped [bold]", level="warning")
    service.add_event("job_1", "job.state", {"state": "succeeded"})


class TestErrors:
    def test_no_service_is_one_line_and_no_traceback(self) -> None:
        done = distill("list", DISTILL_URL="http://127.0.0.1:1")
        assert done.returncode == 1
        assert done.stdout == ""
        assert done.stderr.count("\n") == 1
        assert "http://127.0.0.1:1" in done.stderr
        assert "distill up" in done.stderr

    def test_each_refused_field_has_its_line(self, service: ContractServer) -> None:
        errors = [
            {"pointer": "/ipc", "code": "x", "message": "must be at most 130"},
            {"pointer": "/method/objective", "code": "x", "message": "goes not with /labels"},
        ]
        service.faults.append(lambda h: h.problem(422, "validation_failed", "2 fields are wrong", errors=errors))
        done = distill("submit", *DIGITS)
        assert done.returncode == 1
        assert done.stderr.splitlines() == [
            "error: 2 fields are wrong", "  /ipc: must be at most 130", "  /method/objective: goes not with /labels",
        ]

    @pytest.mark.parametrize(
        ("arguments", "stdin", "said"),
        [
            (("submit",), "", "nothing to submit"),
            (("submit", "missing.json"), "", "cannot read missing.json"),
            (("submit", "-"), "{", "standard input is not JSON"),
            (("submit", "-"), '{"a": NaN}', "NaN is not JSON"),
            (("submit", "-"), "[1]", "no JSON object"),
            (("submit", *DIGITS, "--set", "method.x"), "", "PATH=VALUE"),
            (("submit", *DIGITS, "--set", "ipc.x=1"), "", "holds a value"),
            (("submit", *DIGITS, "--tag", "team"), "", "KEY=VALUE"),
            (("submit", "--ipc", "many"), "", "--ipc"),
            (("frobnicate",), "", "frobnicate"),
        ],
    )
    def test_what_cannot_be_meant_is_a_usage_error(self, arguments: tuple[str, ...], stdin: str, said: str) -> None:
        done = distill(*arguments, stdin=stdin)
        assert done.returncode == 2
        assert said in done.stderr
        assert "Traceback" not in done.stderr

    def test_a_folder_that_cannot_be_made_is_one_line(self, service: ContractServer, tmp_path: Path) -> None:
        service.add_job()
        service.add_artifact("report.html", b"x")
        (tmp_path / "file").write_bytes(b"")
        done = distill("download", "job_1", "-o", str(tmp_path / "file" / "x"))
        assert done.returncode == 1
        assert done.stderr.startswith("error: Not a directory")


class TestSubmit:
    def test_options_override_the_file(self, service: ContractServer, tmp_path: Path) -> None:
        file = tmp_path / "job.json"
        file.write_text(json.dumps({"dataset": {"name": "mnist"}, "ipc": 1, "recipe": "dm", "tags": {"a": "1"}}))
        done = distill(
            "submit", str(file), "--dataset", "digits", "--ipc", "10", "--scale", "small", "--seed", "7", "--iterations", "300",
            "--priority", "high", "--gpus", "1", "--tag", "team=b", "--set", "method.network.width=32",
            "--set", "evaluation.protocol=dm",
        )
        assert done.returncode == 0
        assert done.stdout == "job_1\n"
        assert json.loads(service.requests[0].body) == {
            "dataset": {"name": "digits"}, "ipc": 10, "recipe": "dm", "scale": "small", "seed": 7, "priority": "high",
            "method": {"num_iterations": 300, "network": {"width": 32}}, "resources": {"gpus": 1},
            "evaluation": {"protocol": "dm"}, "tags": {"a": "1", "team": "b"},
        }

    def test_standard_input_and_a_key_of_ones_own(self, service: ContractServer) -> None:
        spec = json.dumps({"dataset": {"name": "digits"}, "ipc": 1})
        first = distill("submit", "-", "--idempotency-key", "k", "--json", stdin=spec)
        second = distill("submit", "-", "--idempotency-key", "k", "--json", stdin=spec)
        assert json.loads(first.stdout)["id"] == json.loads(second.stdout)["id"] == "job_1"

    def test_validate_only_creates_nothing(self, service: ContractServer) -> None:
        done = distill("submit", *DIGITS, "--validate-only")
        shown = json.loads(done.stdout)
        assert shown["spec"]["resolved"] is True
        assert shown["estimate"] == {"seconds": 1.0}
        assert service.jobs == {}


class TestRetry:
    def test_changes_go_into_the_body(self, service: ContractServer) -> None:
        service.add_job(state="failed")
        done = distill("retry", "job_1", "--seed", "7", "--set", "method.num_iterations=600")
        assert (done.returncode, done.stdout) == (0, "job_2\n"), done.stderr
        (sent,) = service.sent("POST", "/v1/jobs/job_1/retry")
        assert json.loads(sent.body) == {"seed": 7, "method": {"num_iterations": 600}}
        assert sent.headers["Idempotency-Key"]

    def test_nothing_needs_to_change(self, service: ContractServer) -> None:
        service.add_job(state="failed")
        done = distill("retry", "job_1", "--json")
        assert json.loads(done.stdout)["retried_from"] == "job_1"
        assert json.loads(service.requests[0].body) == {}


class TestWatch:
    def test_success_ends_with_the_accuracies_and_0(self, service: ContractServer) -> None:
        succeeded_job(service)
        service.jobs["job_1"]["state"] = "running"

        def answer_then_succeed(handler: Handler) -> None:
            handler.json(service.jobs["job_1"])
            service.jobs["job_1"]["state"] = "succeeded"

        service.faults.append(answer_then_succeed)
        done = distill("watch", "job_1")
        assert done.returncode == 0, done.stderr
        assert "distilling 300/300 100.0/s" in done.stdout
        assert "warning: the batch was clipped [bold]" in done.stdout
        assert "distilled set\t70.0 % +/- 1.2\t5 networks\tconvnet-1 width 128" in done.stdout
        assert "random real images, same budget\t50.0 % +/- 5.0\t3 networks, 3 sets" in done.stdout
        assert "\x1b" not in done.stdout
        assert done.stdout.count("distilling") < 10

    @pytest.mark.parametrize("state", ["failed", "cancelled"])
    def test_any_other_end_is_1(self, service: ContractServer, state: str) -> None:
        error = {"code": "diverged", "message": "the loss is not finite"}
        service.add_job(state=state, error=error if state == "failed" else None)
        done = distill("watch", "job_1")
        assert done.returncode == 1
        assert ("the loss is not finite (diverged)" if state == "failed" else "was cancelled") in done.stderr

    def test_json_gives_one_line_per_event_then_the_job(self, service: ContractServer) -> None:
        succeeded_job(service)
        done = distill("watch", "job_1", "--json")
        lines: list[dict[str, Any]] = [json.loads(line) for line in done.stdout.splitlines()]
        assert done.returncode == 0
        assert [line["seq"] for line in lines[:-1]] == list(range(1, len(lines)))
        assert lines[-1]["state"] == "succeeded"

    def test_ctrl_c_only_stops_watching(self, service: ContractServer) -> None:
        service.add_job(state="running", progress={"phase": "distilling", "step": 1, "total_steps": 300})
        service.streams = False
        # Where the tests themselves run in the background, the shell has them ignore Ctrl-C, and a child inherits that.
        heed = "import signal; signal.signal(signal.SIGINT, signal.default_int_handler)"
        process = subprocess.Popen(
            [sys.executable, "-c", f"{heed}; from api.client.cli import main; main()", "watch", "job_1"],
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=ROOT,
        )
        assert process.stdout is not None
        while "distilling" not in process.stdout.readline():
            pass
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=30)
        assert process.returncode == 130
        assert "job_1 goes on" in err
        assert "Traceback" not in err
        assert not service.sent("POST", "/v1/jobs/job_1/cancel")


class TestOther:
    def test_lists_are_tab_separated_where_no_terminal_is(self, service: ContractServer) -> None:
        service.add_job("job_" + "x" * 60, state="running", progress={"fraction": 0.25})
        done = distill("list", "--state", "running")
        assert done.stdout.splitlines()[1].split("\t")[:6] == ["job_" + "x" * 60, "running", "dm", "digits", "1", "25 %"]
        assert distill("methods").stdout.splitlines()[1] == "dm\tDistribution matching\tWACV 2023"
        assert distill("datasets").stdout.splitlines()[1] == "digits\tDigits\tready\t1x8x8\t2\t1,134\tyes"
        assert json.loads(distill("list", "--json").stdout)[0]["state"] == "running"

    def test_a_list_that_is_cut_says_so(self, service: ContractServer) -> None:
        for number in range(3):
            service.add_job(f"job_{number}", state="queued")
        cut, whole = distill("list", "--limit", "2"), distill("list", "--limit", "3")
        assert (len(cut.stdout.splitlines()), "the newest 2; for more: --limit" in cut.stderr) == (3, True)
        assert (len(whole.stdout.splitlines()), whole.stderr) == (4, "")
        assert (len(json.loads(distill("list", "--limit", "2", "--json").stdout)), cut.returncode) == (2, 0)

    def test_show_and_cancel(self, service: ContractServer) -> None:
        succeeded_job(service)
        service.add_job("job_2", state="queued")
        shown = distill("show", "job_1").stdout
        assert "dm on digits, 1 per class, seed 0" in shown
        assert "70.0 %" in shown
        assert json.loads(distill("show", "job_1", "--spec").stdout) == {"ipc": 1}
        assert distill("cancel", "job_2").stdout == "job_2 is cancelled\n"
        refused = distill("cancel", "job_1")
        assert (refused.returncode, refused.stderr) == (1, "error: the job is over\n")

    def test_download_prints_where_everything_is(self, service: ContractServer, tmp_path: Path) -> None:
        service.add_job()
        service.add_artifact("report.html", b"<html>")
        done = distill("download", "job_1", cwd=tmp_path)
        assert done.stdout == "job_1/report.html\n"
        assert (tmp_path / "job_1" / "report.html").read_bytes() == b"<html>"

    def test_version_and_help(self) -> None:
        assert distill("--version").stdout.startswith("distill 0.")
        assert "Examples" in distill("submit", "--help").stdout or "Example:" in distill("submit", "--help").stdout

    def test_up_refuses_every_other_address(self, tmp_path: Path) -> None:
        done = distill("up", "--host", "0.0.0.0", "--home", str(tmp_path))
        assert done.returncode == 1
        assert "refused to listen on 0.0.0.0" in done.stderr
        assert list(tmp_path.iterdir()) == []

    def test_the_client_needs_no_server_library(self) -> None:
        code = (
            "import sys, api.client.cli, api.client.launcher\n"
            "print([n for n in ('torch', 'sqlalchemy', 'celery', 'fastapi', 'numpy', 'worker') if n in sys.modules])"
        )
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=True)
        assert done.stdout == "[]\n"


class TestTextOfUnknownOrigin:
    TEXT = "50 %\r\x1b[31mred\x1b[0m\tä\n"

    def test_a_terminal_gets_nothing_that_controls_it(self) -> None:
        shown = io.StringIO()
        display.print_text(Console(file=shown, force_terminal=True), self.TEXT)
        assert shown.getvalue() == "50 %[31mred[0m\tä\n"

    def test_a_pipe_gets_it_as_it_is(self, capfdbinary: pytest.CaptureFixture[bytes]) -> None:
        display.print_text(Console(file=io.StringIO()), self.TEXT)
        assert capfdbinary.readouterr().out == self.TEXT.encode()
