"""`distill demo`: one real job through the real service, from nothing to a downloaded set and its report."""

from __future__ import annotations

import os
import shlex
import signal
import sys
import threading
import time
from pathlib import Path
from types import FrameType

from rich.console import Console

from api.client import display
from api.client.archive import download_job
from api.client.connection import Json
from api.client.errors import ClientError, LauncherError
from api.client.http import DistillClient
from api.client.launcher import Launcher
from core.settings import Settings

DEMO_DATASET = "digits"

_FILES = {
    "report.html": "the whole report, for a browser",
    "preview.png": "the synthetic images",
    "images": "one PNG per image, a folder per class",
    "data.parquet": "the same for Hugging Face datasets",
    "data.safetensors": "images and labels as tensors, in network space",
    "manifest.json": "specification, seeds, versions, preprocessing, SHA-256 of every file",
}


def demo_request(dataset: str, ipc: int) -> Json:
    """The demo's job: DM on the CPU. `digits` is distilled at full width in half a minute; larger sets take `scale: small`."""
    request: Json = {"dataset": {"name": dataset}, "ipc": ipc, "recipe": "dm", "tags": {"made-by": "demo"}}
    if dataset == DEMO_DATASET:
        return request | {"method": {"num_iterations": 300}, "evaluation": {"num_epochs": 500}}
    return request | {"scale": "small"}


def run_demo(*, dataset: str, ipc: int, output: Path, out: Console, err: Console) -> int:
    """Run the demo and return an exit code. Everything it starts is stopped again, also after Ctrl-C."""
    if dataset == DEMO_DATASET:  # 8x8 images keep one thread busy; a second one only waits, and suffers on a busy machine
        os.environ.setdefault("DISTILL_CHILD_THREADS", "1")
    home = Settings().home_dir if os.environ.get("DISTILL_HOME") else output.absolute() / "home"
    launcher = Launcher(port=0, home=home, say=out.print)
    stopping = False

    def on_signal(_number: int, _frame: FrameType | None) -> None:
        if stopping:
            launcher.request_stop()  # the second one: kill instead of wait
        else:
            raise KeyboardInterrupt

    before = {number: signal.signal(number, on_signal) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)}
    tender = threading.Thread(target=_tend, args=(launcher, err), name="launcher", daemon=True)
    try:
        out.print(f"starting a service in {home}")
        started = time.monotonic()
        launcher.start()
        out.print(f"ready at {launcher.url} after {time.monotonic() - started:.1f} s")
        tender.start()
        code = _distil(launcher, demo_request(dataset, ipc), output / f"{dataset}-ipc{ipc}", out, err)
    except KeyboardInterrupt:
        err.print("\ninterrupted")
        code = 130
    except LauncherError as error:
        err.print(f"error: {error}")
        code = 1
    finally:
        stopping = True
        launcher.request_stop()
        if tender.ident is not None:
            tender.join()
        launcher.stop()
        for number, handler in before.items():
            signal.signal(number, handler)
    if code == 0:
        command = Path(sys.argv[0]) if Path(sys.argv[0]).name == "distill" else Path("distill")
        out.print(f"the service is stopped; start it again with: {shlex.join([str(command), 'up', '--home', str(home)])}")
    return code


def _tend(launcher: Launcher, err: Console) -> None:
    try:
        launcher.serve()
    except LauncherError as error:
        err.print(f"error: {error}")
        os.kill(os.getpid(), signal.SIGINT)  # the main thread waits for a job that will not end


def _distil(launcher: Launcher, request: Json, folder: Path, out: Console, err: Console) -> int:
    with DistillClient(launcher.url) as client:
        try:
            job = client.submit(request)
            out.print(f"submitted {job['id']}: {request['recipe']} on {request['dataset']['name']}, ipc {request['ipc']}")
            try:
                job = display.follow(client, job["id"], out)
            except KeyboardInterrupt:
                client.cancel(job["id"])
                raise
            if code := display.print_outcome(job, out, err):
                err.print(f"the logs are in {launcher.logs}")
                return code
            download_job(client, job["id"], folder)
        except ClientError as error:
            display.print_error(error, err)
            err.print(f"the logs are in {launcher.logs}")
            return 1
    out.print(f"files in {folder}:")
    for name, meaning in _FILES.items():
        if (folder / name).exists():
            out.print(f"  {name:<18} {meaning}")
    return 0
