"""The one table from error class to HTTP status, and problem documents (RFC 9457).

Every refusal that leaves the API passes through `problem`: ours, Starlette's, FastAPI's and the unexpected. A problem never
quotes SQL, paths, keys or stack traces: infrastructure errors carry a fixed sentence of their own, and anything unknown is
`internal` with the request id, under which the log holds the rest.
"""

from __future__ import annotations

import http
from collections.abc import Mapping
from typing import Any, NamedTuple

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel, ConfigDict, Field
from starlette.exceptions import HTTPException
from starlette.responses import Response
from starlette.routing import Match

from api.responses import PROBLEM_TYPE, JsonResponse
from core.errors import (
    ArtifactCorruptError,
    ConflictError,
    DatabaseUnavailableError,
    DigestMismatchError,
    DistillError,
    FieldProblem,
    IdempotencyInProgressError,
    IdempotencyKeyReusedError,
    InfrastructureError,
    InvalidCursorError,
    JobAlreadyTerminalError,
    NotFoundError,
    QuotaExceededError,
    SizeMismatchError,
    SpecError,
    StoreUnavailableError,
    StoreUriNotAllowedError,
    UnknownDatasetError,
    UnknownMethodError,
    UploadExpiredError,
    UploadTooLargeError,
)

RETRY_AFTER_SECONDS = 5


class InvalidJsonError(DistillError):
    """The body is not one JSON text that this API reads."""

    code = "invalid_json"


class InvalidHeaderError(DistillError):
    code = "invalid_header"


class UnknownHostError(DistillError):
    """The request names a host that this API does not go by."""

    code = "unknown_host"


class ServiceStoppingError(InfrastructureError):
    """The process goes before the request is done."""

    code = "service_stopping"


class ServiceBusyError(InfrastructureError):
    """The process is busy with others."""

    code = "service_busy"


class UnsupportedMediaTypeError(DistillError):
    code = "unsupported_media_type"


class BodyTooLargeError(DistillError):
    code = "body_too_large"


class BodyTimeoutError(DistillError):
    code = "body_timeout"
    retryable = True


class LengthRequiredError(DistillError):
    code = "length_required"


class TooManySeriesError(DistillError):
    code = "too_many_series"


class PreconditionFailedError(DistillError):
    code = "precondition_failed"


class RangeNotSatisfiableError(DistillError):
    """No byte of the representation lies in the range that was asked for."""

    code = "range_not_satisfiable"

    def __init__(self, message: str, size_bytes: int) -> None:
        super().__init__(message)
        self.size_bytes = size_bytes


class Kind(NamedTuple):
    """How one class of errors looks over HTTP. `detail` replaces the message where that may say too much."""

    status: int
    title: str
    detail: str = ""


STATUSES: dict[type[DistillError], Kind] = {
    InvalidJsonError: Kind(400, "The body cannot be read"),
    InvalidHeaderError: Kind(400, "A header is malformed"),
    UnknownHostError: Kind(400, "The host is unknown"),
    InvalidCursorError: Kind(400, "The cursor is invalid"),
    TooManySeriesError: Kind(400, "Too many series at once"),
    NotFoundError: Kind(404, "Not found"),
    UnknownDatasetError: Kind(404, "The data set is unknown"),
    ConflictError: Kind(409, "The state forbids the request"),
    JobAlreadyTerminalError: Kind(409, "The job is over"),
    IdempotencyInProgressError: Kind(409, "The same request is being handled"),
    BodyTimeoutError: Kind(408, "The body came too slowly"),
    StoreUriNotAllowedError: Kind(403, "The place is not allowed"),
    UploadExpiredError: Kind(410, "The upload has expired"),
    LengthRequiredError: Kind(411, "The length is not said"),
    PreconditionFailedError: Kind(412, "The precondition does not hold"),
    BodyTooLargeError: Kind(413, "The body is too large"),
    UnsupportedMediaTypeError: Kind(415, "The media type is not supported"),
    RangeNotSatisfiableError: Kind(416, "The range is not satisfiable"),
    SpecError: Kind(422, "The request breaks a rule"),
    UnknownMethodError: Kind(422, "The recipe is unknown"),
    IdempotencyKeyReusedError: Kind(422, "The Idempotency-Key belongs to another request"),
    UploadTooLargeError: Kind(422, "The file is too large"),
    SizeMismatchError: Kind(422, "The size differs"),
    DigestMismatchError: Kind(422, "The digest differs"),
    QuotaExceededError: Kind(429, "A quota is used up"),
    ArtifactCorruptError: Kind(
        502, "The stored bytes are damaged", "the bytes in the object store are missing or differ from what was recorded"
    ),
    StoreUnavailableError: Kind(503, "The object store is away", "the object store cannot be reached at the moment"),
    DatabaseUnavailableError: Kind(503, "The database is away", "the database cannot be reached at the moment"),
    ServiceStoppingError: Kind(503, "The service is stopping", "this process of the service ends; send the request again"),
    ServiceBusyError: Kind(503, "The service is busy", "too many are sending files: try again, or send the file in parts"),
    InfrastructureError: Kind(503, "A server is away", "a server behind this one cannot be reached at the moment"),
    DistillError: Kind(500, "Internal error", "the request could not be handled; the log has the reason under `instance`"),
}
"""The nearest base class in the table decides."""

PLAIN_CODES = {404: "not_found", 405: "method_not_allowed", 400: "bad_request"}
"""Codes of what the framework refuses by itself."""


class ProblemField(BaseModel):
    """One rule that one field breaks."""

    pointer: str = Field(description="JSON pointer into the request body; `/query/...` for a query parameter.")
    code: str
    message: str


class Problem(BaseModel):
    """A problem document (RFC 9457) with the extensions of this API."""

    model_config = ConfigDict(extra="allow")

    type: str = Field(description="`/problems/` and the code.")
    title: str
    status: int
    detail: str
    instance: str = Field(description="Id of the request, as in the header X-Request-Id.")
    code: str = Field(description="Stable name of the error, for programs.")
    errors: list[ProblemField]
    retryable: bool = Field(description="Whether the same request may succeed later.")


DESCRIPTIONS: dict[int, str] = {
    400: "The request cannot be read, or a cursor is invalid", 403: "It is not allowed",
    404: "No such object", 408: "The body came too slowly", 409: "The state forbids it", 410: "It has expired",
    411: "The body needs a Content-Length",
    412: "A precondition does not hold", 413: "The body is too large", 415: "The body must be application/json",
    416: "The range is not satisfiable", 422: "A rule is broken; `errors` names each field", 429: "A quota is used up",
    502: "The stored bytes are damaged", 503: "A server behind this one is away; try again",
}
"""What the OpenAPI document says of each error status."""


Responses = dict[int | str, dict[str, Any]]
"""Documented responses of a route, by status."""


def problems(*statuses: int) -> Responses:
    """OpenAPI entries for error statuses of a route."""
    schema = {"$ref": "#/components/schemas/Problem"}
    return {
        status: {"description": DESCRIPTIONS[status], "content": {PROBLEM_TYPE: {"schema": schema}}}
        for status in statuses
    }


def kind_of(error: DistillError) -> Kind:
    """The table's entry for an error: that of its nearest base class."""
    return next(STATUSES[cls] for cls in type(error).__mro__ if cls in STATUSES)


def request_id_of(request: Request) -> str:
    """The id that the middleware gave this request."""
    return str(request.scope.get("request_id", ""))


def problem(
    request: Request,
    status: int,
    title: str,
    detail: str,
    code: str,
    *,
    errors: tuple[FieldProblem, ...] = (),
    retryable: bool = False,
    headers: Mapping[str, str] | None = None,
    **extensions: Any,
) -> Response:
    """Render one problem document."""
    document = {
        "type": f"/problems/{code}", "title": title, "status": status, "detail": detail,
        "instance": request_id_of(request), "code": code, "errors": [error._asdict() for error in errors],
        "retryable": retryable, **extensions,
    }
    return JsonResponse(document, status_code=status, headers=dict(headers or {}), media_type=PROBLEM_TYPE)


def distill_problem(request: Request, error: DistillError, **extensions: Any) -> Response:
    """Render one of our own errors through the table."""
    kind = kind_of(error)
    headers: dict[str, str] = {}
    if kind.status == 503 or error.retryable:
        headers["Retry-After"] = str(RETRY_AFTER_SECONDS if kind.status == 503 else 1)
    if isinstance(error, RangeNotSatisfiableError):
        headers["Content-Range"] = f"bytes */{error.size_bytes}"
    code = error.code if kind.status != 500 else "internal"
    return problem(
        request, kind.status, kind.title, kind.detail or error.message, code,
        errors=error.problems, retryable=error.retryable, headers=headers, **extensions,
    )


def internal_problem(request: Request) -> Response:
    """The answer to an exception that nobody expected."""
    kind = STATUSES[DistillError]
    return problem(request, kind.status, kind.title, kind.detail, "internal")


async def _on_distill_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, DistillError)
    return distill_problem(request, error)


async def _on_http_exception(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    status = error.status_code
    title = http.HTTPStatus(status).phrase
    headers = dict(error.headers or {})
    detail = str(error.detail or title)
    if status == 404:
        detail = "there is nothing at this path"
    if status == 405:
        headers["Allow"] = ", ".join(_allowed(request))
        detail = f"this path allows {headers['Allow']}"
    return problem(request, status, title, detail, PLAIN_CODES.get(status, "http_error"), headers=headers)


def _allowed(request: Request) -> list[str]:
    """Methods of every route that matches the path; the framework knows only the first one's."""
    methods: set[str] = set()
    for method in ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE"):
        scope = {**request.scope, "method": method}
        if any(route.matches(scope)[0] is Match.FULL for route in request.app.routes):
            methods.add(method)
    return sorted(methods)


async def _on_request_validation_error(request: Request, error: Exception) -> Response:
    """Query parameters and path parts that FastAPI itself refuses; bodies never come here."""
    assert isinstance(error, RequestValidationError)
    found = tuple(
        FieldProblem("/" + "/".join(str(part) for part in item["loc"]), str(item["type"]), str(item["msg"]))
        for item in error.errors()
    )
    detail = "; ".join(f"{p.pointer}: {p.message}" for p in found)
    kind = STATUSES[SpecError]
    return problem(request, kind.status, kind.title, detail, SpecError.code, errors=found)


def install(app: FastAPI) -> None:
    """Route every refusal through problem documents."""
    app.add_exception_handler(DistillError, _on_distill_error)
    app.add_exception_handler(HTTPException, _on_http_exception)
    app.add_exception_handler(RequestValidationError, _on_request_validation_error)
