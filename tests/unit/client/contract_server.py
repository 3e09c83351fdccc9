"""A small server that speaks the HTTP contract, with failures that a test can order."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlsplit

Json = dict[str, Any]
TERMINAL = {"succeeded", "failed", "cancelled"}


@dataclass
class Recorded:
    method: str
    path: str
    query: dict[str, list[str]]
    headers: dict[str, str]
    body: bytes


@dataclass
class ContractServer:
    """What the server knows and how it misbehaves."""

    url: str = ""
    jobs: dict[str, Json] = field(default_factory=dict)
    events: dict[str, list[Json]] = field(default_factory=dict)
    artifacts: dict[str, tuple[Json, bytes]] = field(default_factory=dict)
    by_key: dict[str, str] = field(default_factory=dict)
    requests: list[Recorded] = field(default_factory=list)
    faults: list[Callable[[Handler], None]] = field(default_factory=list)
    """Each takes one of the next requests instead of the contract."""
    events_per_stream: int = 1000
    """The stream is cut after so many events."""
    streams: bool = True
    cut_content_after: list[int] = field(default_factory=list)
    """Each cuts one of the next downloads after so many bytes."""

    def add_job(self, job_id: str = "job_1", *, state: str = "succeeded", **more: Any) -> Json:
        job = {
            "id": job_id, "object": "job", "kind": "distillation", "state": state, "state_reason": None, "recipe": "dm",
            "dataset": "digits", "ipc": 1, "spec": {"ipc": 1}, "priority": "normal", "seed": 0, "tags": {}, "attempt": 1,
            "failures": 0, "max_attempts": 3, "progress": None, "created_at": "2026-01-02T03:04:05Z", "result": None,
            "error": None, "durations": {"queued": 0.5, "running": 7.0, "total": 7.5},
        }
        self.jobs[job_id] = job | more
        self.events.setdefault(job_id, [])
        return self.jobs[job_id]

    def add_event(self, job_id: str, kind: str, data: Json | None = None, *, message: str = "", level: str = "info") -> None:
        events = self.events.setdefault(job_id, [])
        events.append({
            "seq": len(events) + 1, "type": kind, "level": level, "attempt": 1, "created_at": "2026-01-02T03:04:05Z",
            "message": message, "data": data or {},
        })

    def add_artifact(self, name: str, content: bytes, *, job_id: str = "job_1", kind: str = "data", sha256: str = "") -> Json:
        digest = sha256 or hashlib.sha256(content).hexdigest()
        artifact = {
            "id": f"art_{len(self.artifacts)}", "object": "artifact", "job_id": job_id, "attempt": 1, "kind": kind,
            "name": name, "media_type": "application/octet-stream", "size_bytes": len(content), "sha256": digest,
            "created_at": "2026-01-02T03:04:05Z",
        }
        self.artifacts[artifact["id"]] = (artifact, content)
        return artifact

    def sent(self, method: str, path: str) -> list[Recorded]:
        return [r for r in self.requests if r.method == method and r.path == path]


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Server

    def log_message(self, *arguments: Any) -> None:
        pass

    def do_GET(self) -> None:
        self._answer()

    def do_POST(self) -> None:
        self._answer()

    def _answer(self) -> None:
        contract, parts = self.server.contract, urlsplit(self.path)
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        self.query = parse_qs(parts.query)
        contract.requests.append(Recorded(self.command, parts.path, self.query, dict(self.headers.items()), body))
        if contract.faults:
            contract.faults.pop(0)(self)
            return
        match [self.command, *parts.path.strip("/").split("/")]:
            case ["POST", "v1", "jobs"] if self.query.get("validate_only") == ["true"]:
                spec = json.loads(body) | {"resolved": True}
                self.json({"object": "job_validation", "spec": spec, "estimate": {"seconds": 1.0}})
            case ["POST", "v1", "jobs"]:
                key = self.headers.get("Idempotency-Key", "")
                job_id = contract.by_key.setdefault(key, f"job_{len(contract.jobs) + 1}")
                self.json(contract.jobs.get(job_id) or contract.add_job(job_id, state="queued"), 202)
            case ["GET", "v1", "jobs"]:
                found = [j for j in reversed(contract.jobs.values()) if j["state"] in self.query.get("state", [j["state"]])]
                self.page(found)
            case ["POST", "v1", "jobs", job_id, "cancel"] if job_id in contract.jobs:
                if contract.jobs[job_id]["state"] in {"succeeded", "failed"}:
                    self.problem(409, "job_already_terminal", "the job is over")
                    return
                contract.jobs[job_id]["state"] = "cancelled"
                self.json(contract.jobs[job_id])
            case ["POST", "v1", "jobs", job_id, "retry"] if job_id in contract.jobs:
                new_id = contract.by_key.setdefault(self.headers.get("Idempotency-Key", ""), f"job_{len(contract.jobs) + 1}")
                self.json(contract.jobs.get(new_id) or contract.add_job(new_id, state="queued", retried_from=job_id), 202)
            case ["GET", "v1", "jobs", job_id] if job_id in contract.jobs:
                self.json(contract.jobs[job_id])
            case ["GET", "v1", "jobs", job_id, "events"] if job_id in contract.jobs:
                after, limit = int(self.query["after"][0]), int(self.query["limit"][0])
                left = [e for e in contract.events[job_id] if e["seq"] > after]
                self.json({"object": "list", "data": left[:limit], "has_more": len(left) > limit})
            case ["GET", "v1", "jobs", job_id, "events", "stream"] if job_id in contract.jobs:
                self._stream(job_id)
            case ["GET", "v1", "jobs", job_id, "artifacts"] if job_id in contract.jobs:
                self.page([a for a, _ in contract.artifacts.values() if a["job_id"] == job_id])
            case ["GET", "v1", "artifacts", artifact_id, "content"] if artifact_id in contract.artifacts:
                self._content(*contract.artifacts[artifact_id])
            case ["GET", "v1", "methods"]:
                self.page([{"id": "dm", "name": "dm", "title": "Distribution matching", "paper": "WACV 2023"}])
            case ["GET", "v1", "datasets"]:
                self.page([{
                    "id": "digits", "name": "digits", "title": "Digits", "channels": 1, "height": 8, "width": 8,
                    "classes": ["0", "1"], "train_per_class": [134, 1000], "verified": True,
                }])
            case _:
                self.problem(404, "not_found", f"nothing at {parts.path}")

    def json(self, value: Json, status: int = 200, **headers: str) -> None:
        self.raw(status, json.dumps(value).encode(), **{"Content-Type": "application/json"} | headers)

    def raw(self, status: int, body: bytes, **headers: str) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def problem(self, status: int, code: str, detail: str, **more: Any) -> None:
        document = {"type": f"/problems/{code}", "title": code, "status": status, "detail": detail, "code": code} | more
        self.json(document, status, **{"Content-Type": "application/problem+json"})

    def drop(self) -> None:
        """Close the connection without an answer."""
        self.close_connection = True

    def page(self, found: list[Json]) -> None:
        after = self.query.get("after", [""])[0]
        limit = int(self.query.get("limit", ["20"])[0])
        start = [item["id"] for item in found].index(after) + 1 if after else 0
        data = found[start : start + limit]
        self.json({
            "object": "list", "data": data, "first_id": data[0]["id"] if data else None,
            "last_id": data[-1]["id"] if data else None, "has_more": start + limit < len(found),
        })

    def _stream(self, job_id: str) -> None:
        contract = self.server.contract
        if not contract.streams:
            self.problem(406, "not_acceptable", "no streams here")
            return
        left = [e for e in contract.events[job_id] if e["seq"] > int(self.headers.get("Last-Event-ID", "0"))]
        if not left and contract.jobs[job_id]["state"] in TERMINAL:
            self.send_response(204)
            self.end_headers()
            return
        self.close_connection = True
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream; charset=utf-8")
        self.end_headers()
        self.wfile.write(b"retry: 1\n\n: keep-alive\n\n")
        for event in left[: contract.events_per_stream]:
            text = f"id: {event['seq']}\nevent: {event['type']}\ndata: {json.dumps(event, ensure_ascii=False)}\n\n"
            self.wfile.write(text.encode())
        if len(left) > contract.events_per_stream:
            self.wfile.write(b'id: 999\ndata: {"seq": 999, "type": "half an ev')

    def _content(self, artifact: Json, content: bytes) -> None:
        contract = self.server.contract
        etag, start, status = f'"sha256-{artifact["sha256"]}"', 0, 200
        wanted = self.headers.get("Range")
        if wanted and self.headers.get("If-Range", etag) == etag:
            start, status = int(wanted.removeprefix("bytes=").rstrip("-")), 206
            if start >= len(content):
                self.raw(416, b"", Content_Range=f"bytes */{len(content)}")
                return
        part = content[start:]
        self.send_response(status)
        self.send_header("ETag", etag)
        self.send_header("Content-Length", str(len(part)))
        if status == 206:
            self.send_header("Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}")
        self.end_headers()
        if contract.cut_content_after:
            part = part[: contract.cut_content_after.pop(0)]
            self.close_connection = True
        self.wfile.write(part)


class Server(ThreadingHTTPServer):
    contract: ContractServer
    daemon_threads = True

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that leaves early is no news."""
