"""The errors that end a command with a line for a person instead of a traceback."""

from __future__ import annotations

from typing import Any


class UsageError(Exception):
    """What was typed cannot be meant; the exit code is 2."""


class LauncherError(Exception):
    """The service cannot start or go on; the message is fit for a person."""


class ClientError(Exception):
    """A request could not be fulfilled; the message is fit for a person.

    `code` is the server's code, or one of ours: `unreachable`, `not_a_service`, `digest_mismatch`, `unsafe_name`,
    `unsafe_archive`, `bad_url`, `invalid_json`. `status` is 0 when no answer came. `problem` is the problem document.
    """

    def __init__(
        self, message: str, *, code: str, status: int = 0, problem: dict[str, Any] | None = None, retry_after: float = 0.0
    ) -> None:
        super().__init__(message)
        self.message = message
        self.code = code
        self.status = status
        self.problem: dict[str, Any] = problem or {}
        self.retry_after = retry_after

    @property
    def problems(self) -> list[tuple[str, str]]:
        """(JSON pointer, message) of each field that the server refused."""
        errors = self.problem.get("errors")
        if not isinstance(errors, list):
            return []
        return [(str(e.get("pointer", "")), str(e.get("message", ""))) for e in errors if isinstance(e, dict)]

    @property
    def retryable(self) -> bool:
        """Whether the same request may succeed later."""
        if self.code == "unreachable" or self.problem.get("retryable") is True:
            return True
        if self.status == 429:  # a quota is not worth waiting for; the document says so
            return self.problem.get("retryable") is not False
        return self.status >= 500 and self.status != 501
