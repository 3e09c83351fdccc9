"""One tree of errors; every class carries a stable ``code``.

    DistillError
    |-- SpecError                 a specification that can never run (the client's mistake)
    |   |-- UnknownMethodError
    |   |-- UnknownDatasetError
    |   `-- UploadTooLargeError
    |-- NotFoundError             no such row for this tenant
    |-- ConflictError             the row is in a state that forbids the request
    |   |-- JobAlreadyTerminalError, JobNotTerminalError, JobHasDependantsError
    |   |-- InvalidStateError
    |   |-- DatasetNotReadyError, DatasetInUseError
    |   |-- UploadClosedError, UploadNotCompleteError, PartsMissingError
    |   `-- IdempotencyInProgressError
    |-- IdempotencyKeyReusedError the same key with another body
    |-- InvalidCursorError        a page cursor nobody issued
    |-- QuotaExceededError        the tenant has used up what it may have at once
    |-- UploadExpiredError        nobody went on with it in time
    |-- StoreUriNotAllowedError   data sets may not be read from there
    |-- SizeMismatchError         bytes are not as many as was said
    |-- DigestMismatchError       bytes are not those that were said
    |   `-- PartDamagedError      ... on their way here; sending them again is right
    |-- JobFailure                the job itself cannot finish
    |   |-- InvalidInputError, DatasetUnreadableError
    |   |-- DatasetRejectedError  a user's files are not a data set
    |   `-- DivergedError, DeviceMemoryError, HostMemoryError, DeviceUnavailableError, DeviceFaultError
    `-- InfrastructureError       a server is away; trying again is right
        |-- StoreUnavailableError
        |-- DatabaseUnavailableError
        `-- ArtifactCorruptError  bytes in the store disagree with their row

HTTP statuses live in ``api/errors.py`` and exit codes in ``core/specs/report.py``: a class here knows neither.
"""

from __future__ import annotations

from typing import ClassVar, NamedTuple


class FieldProblem(NamedTuple):
    """One rule that one field breaks. ``pointer`` is a JSON pointer into the request body."""

    pointer: str
    code: str
    message: str


class DistillError(Exception):
    """Root of everything this project raises on purpose."""

    code: ClassVar[str] = "internal"
    retryable: ClassVar[bool] = False

    def __init__(self, message: str, *, problems: tuple[FieldProblem, ...] = ()) -> None:
        super().__init__(message)
        self.message = message
        self.problems = problems


class SpecError(DistillError):
    """The specification breaks a rule; ``problems`` names each field and rule."""

    code = "validation_failed"

    @classmethod
    def at(cls, pointer: str, message: str, code: str = "value_error") -> SpecError:
        """Build the error for a single field; `message` is also the problem's detail."""
        return cls(message, problems=(FieldProblem(pointer, code, message),))


class UnknownMethodError(SpecError):
    code = "unknown_method"


class UnknownDatasetError(SpecError):
    code = "dataset_not_found"


class UploadTooLargeError(SpecError):
    code = "too_large"


class NotFoundError(DistillError):
    code = "not_found"


class ConflictError(DistillError):
    code = "conflict"


class JobAlreadyTerminalError(ConflictError):
    code = "job_already_terminal"


class JobNotTerminalError(ConflictError):
    code = "job_not_terminal"


class JobHasDependantsError(ConflictError):
    code = "job_has_dependants"


class InvalidStateError(ConflictError):
    code = "invalid_state"


class DatasetNotReadyError(ConflictError):
    code = "dataset_not_ready"


class DatasetInUseError(ConflictError):
    code = "dataset_in_use"


class UploadClosedError(ConflictError):
    code = "upload_closed"


class UploadNotCompleteError(ConflictError):
    code = "upload_not_complete"


class PartsMissingError(ConflictError):
    code = "parts_missing"


class IdempotencyInProgressError(ConflictError):
    code = "idempotency_in_progress"
    retryable = True


class IdempotencyKeyReusedError(DistillError):
    code = "idempotency_key_reused"


class InvalidCursorError(DistillError):
    code = "invalid_cursor"


class QuotaExceededError(DistillError):
    code = "quota_exceeded"


class StoreUriNotAllowedError(DistillError):
    code = "store_uri_not_allowed"


class UploadExpiredError(DistillError):
    code = "upload_expired"


class SizeMismatchError(DistillError):
    code = "size_mismatch"


class DigestMismatchError(DistillError):
    code = "digest_mismatch"


class PartDamagedError(DigestMismatchError):
    retryable = True


class JobFailure(DistillError):  # noqa: N818 - the subclasses are the errors; this names what they end
    """The attempt ends badly. ``retryable`` says whether another attempt could end otherwise."""

    code = "internal"


class InvalidInputError(JobFailure):
    code = "invalid_input"


class DatasetUnreadableError(JobFailure):
    code = "dataset_unreadable"


class DatasetRejectedError(JobFailure):
    """A user's files break a rule; each of `problems` names the entry and the rule."""

    code = "dataset_rejected"


class DivergedError(JobFailure):
    code = "diverged"


class DeviceMemoryError(JobFailure):
    code = "gpu_out_of_memory"


class HostMemoryError(JobFailure):
    code = "host_out_of_memory"


class DeviceUnavailableError(JobFailure):
    code = "device_unavailable"


class DeviceFaultError(JobFailure):
    code = "device_fault"
    retryable = True


class InfrastructureError(DistillError):
    code = "infrastructure"
    retryable = True


class StoreUnavailableError(InfrastructureError):
    code = "object_store_unavailable"


class DatabaseUnavailableError(InfrastructureError):
    code = "database_unavailable"


class UnsafeDatabaseError(InfrastructureError):
    code = "unsafe_database"
    retryable = False


class ArtifactCorruptError(InfrastructureError):
    code = "artifact_corrupt"
    retryable = False
