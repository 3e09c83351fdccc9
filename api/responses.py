"""JSON answers that refuse NaN, and entity tags of rows."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel
from starlette.responses import Response

PROBLEM_TYPE = "application/problem+json"


class JsonResponse(Response):
    """A JSON body. NaN and infinity raise `ValueError`: they are not JSON, and no row may hold them."""

    media_type = "application/json"

    def render(self, content: Any) -> bytes:
        if isinstance(content, BaseModel):
            content = content.model_dump(mode="json", by_alias=True)
        return json.dumps(content, ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode()


def tag_matches(header: str | None, etag: str) -> bool:
    """Whether an `If-None-Match` header names this tag, by weak comparison (RFC 9110, section 13.1.2)."""
    if header is None:
        return False
    if header.strip() == "*":
        return True
    bare = etag.removeprefix("W/")
    return any(candidate.strip().removeprefix("W/") == bare for candidate in header.split(","))


def cached(model: BaseModel, etag: str, if_none_match: str | None, headers: Mapping[str, str] | None = None) -> Response:
    """The model with its tag, or 304 when the client has this version."""
    sent = {"ETag": etag, "Cache-Control": "private, no-cache", **(headers or {})}
    if tag_matches(if_none_match, etag):
        return Response(status_code=304, headers=sent)
    return JsonResponse(model, headers=sent)
