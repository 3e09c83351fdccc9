"""What the tables show of the objects that the service sends."""

from __future__ import annotations

from api.client.connection import Json
from api.client.display import duration, local_time


def job_row(job: Json) -> tuple[str, ...]:
    """A job in `distill list`."""
    fraction = (job.get("progress") or {}).get("fraction")
    done = f"{100 * fraction:.0f} %" if fraction is not None and job["state"] == "running" else ""
    dataset = job.get("dataset")
    name = dataset.get("name", "") if isinstance(dataset, dict) else dataset
    created = local_time(job.get("created_at"))
    recipe = str(job.get("recipe") or ("-" if job.get("kind", "distillation") == "distillation" else job["kind"]))
    ipc = job.get("ipc")
    return (job["id"], job["state"], recipe, str(name or ""), "" if ipc is None else str(ipc), done, created)


def job_facts(job: Json) -> list[tuple[str, str]]:
    """A job in `distill show`: what each fact is called, and its text, empty where there is none."""
    _, _, recipe, dataset, ipc, _, created = job_row(job)
    progress, durations = job.get("progress") or {}, job.get("durations") or {}
    what = recipe + (f" on {dataset}" if dataset else "") + (f", {ipc} per class" if ipc else "")
    step = f"{progress.get('phase')} {progress.get('step')}/{progress.get('total_steps')}" if progress else ""
    left = duration(progress.get("eta_seconds"))
    reason, error = job.get("state_reason") or {}, job.get("error") or {}
    return [
        ("job", job["id"]),
        ("state", job["state"] + (f" ({reason['message']})" if reason.get("message") else "")),
        ("job spec", f"{what}, seed {job.get('seed', 0)}"),
        ("repeats", job.get("retried_from") or ""),
        ("made for", job.get("parent_id") or ""),
        ("waits for", ", ".join(job.get("waiting_for") or ())),
        ("progress", (step + (f", {left} left" if left else "")) if job["state"] == "running" else ""),
        ("attempt", f"{job.get('attempt')} ({job.get('failures', 0)} of at most {job.get('max_attempts')} ended badly)"),
        ("created", created),
        ("queued for", duration(durations.get("queued"))),
        ("ran for", duration(durations.get("running"))),
        ("tags", ", ".join(f"{key}={value}" for key, value in (job.get("tags") or {}).items())),
        ("error", f"{error.get('message')} ({error.get('code')})" if error else ""),
    ]


def method_row(method: Json) -> tuple[str, ...]:
    """A recipe in `distill methods`."""
    return (str(method["name"]), str(method.get("title", "")), str(method.get("paper", "")))


def dataset_row(dataset: Json) -> tuple[str, ...]:
    """A data set in `distill datasets`."""
    shape = dataset.get("shape") or [dataset.get(key, "?") for key in ("channels", "height", "width")]
    classes, train = dataset.get("classes", ()), dataset.get("train_per_class")
    return (
        str(dataset["name"]), str(dataset.get("title", "")), "x".join(str(side) for side in shape),
        str(len(classes) if isinstance(classes, list) else classes),
        f"{sum(train):,}" if isinstance(train, list) else str(dataset.get("num_train", "")),
        "yes" if dataset.get("verified") else "no",
    )


def worker_row(worker: Json) -> tuple[str, ...]:
    """A worker in `distill workers`."""
    reason = worker.get("quarantined_reason")
    draining = worker.get("drain_requested") and worker["state"] in {"idle", "busy"}
    state = str(worker["state"]) + (f" ({reason})" if reason else ", draining" if draining else "")
    gpus = ", ".join(device["name"] for device in worker.get("devices") or ()) or "none"
    return (
        worker["id"], state, f"{worker['host']}, process {worker['pid']}", ", ".join(worker.get("queues") or ()), gpus,
        worker.get("job_id") or "", local_time(worker.get("seen_at")),
    )


def queue_row(queue: Json) -> tuple[str, ...]:
    """A queue in `distill queues`."""
    oldest = duration(queue["oldest_seconds"]) if queue["depth"] else ""
    return (queue["name"], str(queue["depth"]), str(queue["delayed"]), oldest, str(queue["running"]), str(queue["workers"]))
