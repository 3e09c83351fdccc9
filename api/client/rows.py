"""What the tables show of the objects that the service sends."""

from __future__ import annotations

from api.client.connection import Json
from api.client.display import duration, local_time

MAX_CLASSES = 20
"""Names of classes that one line shows."""


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
        ("defaults", _defaults(job)),
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


def _defaults(job: Json) -> str:
    found = (job.get("spec") or {}).get("defaults_from")
    return f"those published for {found}" if found else ""


def method_row(method: Json) -> tuple[str, ...]:
    """A recipe in `distill methods`."""
    return (str(method["name"]), str(method.get("title", "")), str(method.get("paper", "")))


def dataset_row(dataset: Json) -> tuple[str, ...]:
    """A data set in `distill datasets`; what is not known yet is empty."""
    ready = dataset.get("classes") is not None
    return (
        str(dataset.get("id") or dataset["name"]), str(dataset.get("title", "")), str(dataset.get("state", "ready")),
        _shape(dataset) if ready else "", str(len(dataset["classes"])) if ready else "",
        f"{sum(dataset['train_per_class']):,}" if ready else "", ("yes" if dataset.get("verified") else "no") if ready else "",
    )


def dataset_facts(dataset: Json) -> list[tuple[str, str]]:
    """A data set in `distill datasets show`: what each fact is called, and its text, empty where there is none."""
    _, title, state, shape, _, _, _ = dataset_row(dataset)
    classes, notes = dataset.get("classes") or [], dataset.get("notes") or []
    shown = ", ".join(classes[:MAX_CLASSES]) + (f" and {len(classes) - MAX_CLASSES} more" if len(classes) > MAX_CLASSES else "")
    train, test = (_range(dataset.get(key) or []) for key in ("train_per_class", "test_per_class"))
    return [
        ("data set", str(dataset.get("id") or dataset["name"])),
        ("title", title),
        ("state", state),
        ("images", f"{shape} (channels x height x width), {dataset['num_train']:,} to train, {dataset['num_test']:,} to test"
         if classes else ""),
        ("classes", f"{len(classes)}: {shown}" if classes else ""),
        ("per class", f"{train} to train, {test} to test" if classes else ""),
        ("split", str(dataset.get("split_rule") or "")),
        ("unreadable", str(dataset.get("num_corrupt") or "")),
        ("alike", f"{dataset['num_duplicates']} look like an earlier one" if dataset.get("num_duplicates") else ""),
        ("leaked", f"{dataset['num_leaked']} test images look like a training image" if dataset.get("num_leaked") else ""),
        *(("note" if not number else "", str(note)) for number, note in enumerate(notes)),
        *(("refused", f"{each.get('member') or ''} {each['message']}".strip()) for each in dataset.get("problems") or ()),
    ]


def _shape(dataset: Json) -> str:
    return "x".join(str(dataset[side]) for side in ("channels", "height", "width"))


def _range(counts: list[int]) -> str:
    low, high = min(counts, default=0), max(counts, default=0)
    return str(low) if low == high else f"{low} to {high}"


def upload_row(upload: Json) -> tuple[str, ...]:
    """An upload in `distill uploads`."""
    received = f"{upload['received_bytes']:,} of {upload['size_bytes']:,} bytes"
    return (upload["id"], upload["state"], upload["filename"], received, local_time(upload["expires_at"]))


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
