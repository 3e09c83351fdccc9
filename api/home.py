"""`GET /`: jobs, newest first, for a person with a browser. No script; a page asks for itself again every few seconds."""

from __future__ import annotations

from html import escape
from string import Template

from fastapi import APIRouter
from starlette.responses import Response

from api.deps import Data, Tenant
from api.jobs import service
from api.jobs.schemas import JobView
from core.jobs.repository import Jobs
from core.jobs.states import State

router = APIRouter()

JOBS = 20
REFRESH_SECONDS = 3
WITH_PREVIEW = {"distillation", "ingest"}
COLOURS = {"succeeded": "#1a7f37", "failed": "#b42318", "cancelled": "#6b7280", "running": "#1d4ed8", "cancelling": "#b45309"}

PAGE = Template("""<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>Distill Service</title>
<meta name="viewport" content="width=device-width"><meta http-equiv="refresh" content="$refresh">
<style>
body{font:15px/1.5 system-ui,sans-serif;max-width:72rem;margin:2rem auto;padding:0 1rem;color:#111827;background:#fff}
table{border-collapse:collapse;width:100%}
td:last-child{white-space:nowrap}td,th{padding:.6rem .7rem;border-top:1px solid #e5e7eb;text-align:left;vertical-align:middle}
th{border:0;color:#6b7280;font-weight:500;font-size:.85rem}a{color:#1d4ed8;text-decoration:none}a:hover{text-decoration:underline}
code{font-size:.8rem}small{color:#6b7280}img{max-height:64px;max-width:200px;display:block;image-rendering:pixelated}
.bar{background:#e5e7eb;border-radius:4px;height:8px;width:12rem}
.bar i{display:block;background:#1d4ed8;border-radius:4px;height:8px}
.state{color:#fff;border-radius:4px;padding:.1rem .5rem;font-size:.85rem}
</style></head><body>
<h1>Distill Service</h1>
<p><a href="/docs">API</a> (<a href="/openapi.json">OpenAPI</a>) &middot;
<a href="/v1/datasets">data sets</a> &middot; <a href="/v1/methods">methods</a>
&middot; <a href="/v1/workers">workers</a> &middot; <a href="/v1/queues">queues</a> &middot; <a href="/readyz">health</a></p>
$jobs
</body></html>
""")
EMPTY = "<p>No job yet. Submit one: <code>distill submit --dataset digits --ipc 1 --recipe dm --watch</code></p>"
TABLE = Template("""<table><tr><th>job</th><th>state</th><th>progress</th><th>preview</th><th>links</th></tr>
$rows
</table>""")
ROW = Template("""<tr><td><b>$what</b><br><code>$id</code><br><small>$when</small></td>
<td><span class="state" style="background:$colour">$state</span></td><td>$progress</td><td>$preview</td>
<td><a href="$url">job</a> &middot; <a href="$url/events">events</a> &middot; <a href="$url/metrics">metrics</a>
&middot; <a href="$url/artifacts">files</a></td></tr>""")
POLICY = "default-src 'none'; style-src 'unsafe-inline'; img-src 'self'; base-uri 'none'; frame-ancestors 'none'"
HEADERS = {"Content-Security-Policy": POLICY, "Cache-Control": "no-store", "Referrer-Policy": "no-referrer"}


@router.get("/", include_in_schema=False)
def home(database: Data, tenant: Tenant, after: str | None = None) -> Response:
    """The page; `after` is the id of a job: the page holds older ones."""
    with database.read() as session:
        page = Jobs(session, tenant).page(limit=JOBS, after=service.checked_cursor(after))
        views = service.views(session, tenant, page.jobs)
    jobs = TABLE.substitute(rows="\n".join(_row(view) for view in views)) if views else "" if after else EMPTY
    ways = ['<a href="/">newest</a>'] if after else []
    ways += [f'<a href="/?after={escape(views[-1].id)}">older</a>'] if page.has_more else []
    jobs += f"\n<p>{' &middot; '.join(ways)}</p>" if ways else ""
    return Response(PAGE.substitute(refresh=REFRESH_SECONDS, jobs=jobs), media_type="text/html", headers=HEADERS)


def _row(view: JobView) -> str:
    url = escape(view.links.self)
    image = f'<a href="{url}/preview"><img src="{url}/preview" alt="images"></a>'
    return ROW.substitute(
        what=escape(_title(view)), id=escape(view.id), url=url,
        when=f"{view.created_at:%Y-%m-%d %H:%M:%S} UTC", state=escape(view.state), colour=COLOURS.get(view.state, "#374151"),
        progress=_progress(view), preview=image if view.state is State.SUCCEEDED and view.kind in WITH_PREVIEW else "",
    )


def _title(view: JobView) -> str:
    match view.kind:
        case "distillation":
            return f"{view.recipe or 'own method'} on {view.dataset}, ipc {view.ipc}"
        case "ingest":
            return f"data set {view.spec['title']}, from {view.spec['filename']}"
        case "probe":
            return "probe"
        case _:
            return f"networks trained on {view.dataset}"


def _accuracies(view: JobView) -> list[str]:
    """Lines such as `distilled 62.3 %`, from the summary that the job's report holds."""
    summary = (view.result or {}).get("summary")
    scores = summary.get("scores") if isinstance(summary, dict) else None
    return [
        escape(f"{score.get('name', '').replace('_', ' ')} {100 * score['mean']:.1f} %")
        for score in (scores if isinstance(scores, list) else [])
        if isinstance(score, dict) and isinstance(score.get("mean"), int | float) and isinstance(score.get("name"), str)
    ]


def _progress(view: JobView) -> str:
    if view.error is not None and view.state is State.FAILED:
        return f"<small>{escape(view.error.message)}</small>"
    if view.state is State.SUCCEEDED:
        return "<br>".join([*_accuracies(view), f"<small>{view.durations.total:.0f} s</small>"])
    if view.waiting_for:
        return f"<small>waits for {escape(', '.join(view.waiting_for))}</small>"
    if view.progress is None or view.state.terminal or view.state is State.QUEUED:
        return ""
    done = min(1.0, max(0.0, view.progress.fraction))
    left = "" if view.progress.eta_seconds is None else f", {view.progress.eta_seconds:.0f} s left"
    text = escape(f"{view.progress.phase}: {view.progress.step} of {view.progress.total_steps}{left}")
    return f'<div class="bar"><i style="width:{100 * done:.1f}%"></i></div><small>{text}</small>'
