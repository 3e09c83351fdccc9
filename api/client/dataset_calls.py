"""What `DistillClient` does with files of the user's own: uploads, and the data sets that are made of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote

from api.client.connection import Connection, Json
from api.client.uploads import Progress, unheard, upload


class DatasetCalls:
    """Its part of the client; the connection is the client's."""

    _connection: Connection

    # Uploads

    def upload(
        self, path: Path, *, filename: str = "", on_hashing: Progress = unheard, on_progress: Progress = unheard,
        parallel: int = 4,
    ) -> Json:
        """Send a file in parts, `parallel` at a time, and return the complete upload.

        A call that was interrupted is repeated: the same file goes on where it stopped, and one that is there is not sent
        again. `on_hashing` and `on_progress` hear how many bytes were read, then sent, of how many; both in this thread.

        Raises:
            ClientError: refused, for example `quota_exceeded`; `file_changed` when the file is written to meanwhile.
        """
        return upload(
            self._connection, path, filename=filename, on_hashing=on_hashing, on_progress=on_progress, parallel=parallel
        )

    def uploads(self, *, states: Sequence[str] = ()) -> list[Json]:
        """The uploads that the service remembers, newest first, optionally in some states only (`open`, `complete`, ...)."""
        return list(self._connection.pages("/v1/uploads", {"state": list(states)} if states else {}, None))

    def cancel_upload(self, upload_id: str) -> Json:
        """Give an upload up; what was sent is deleted, and it counts no more. Repeating changes nothing.

        Raises:
            ClientError: `upload_closed` while a data set is being made of it, `upload_expired` when its time is over.
        """
        return self._connection.request("POST", f"/v1/uploads/{quote(upload_id, safe='')}/cancel")

    # Data sets

    def datasets(self) -> list[Json]:
        """The data sets that a job can name: those that were registered, newest first, then the built-in ones."""
        return list(self._connection.pages("/v1/datasets", {}, None))

    def dataset(self, name: str) -> Json:
        """One data set, by the name of a built-in one or the id of another."""
        return self._connection.request("GET", _dataset_path(name))

    def validate_dataset(self, file_format: str, *, name: str, conversion: Mapping[str, Any] | None = None) -> Json:
        """Check what `register_dataset` would be told before the files are sent; `conversion` comes back with every default.

        Raises:
            ClientError: `validation_failed`, with `problems` naming the fields.
        """
        body = {"name": name, "format": file_format, "conversion": dict(conversion or {})}
        return self._connection.request("POST", "/v1/datasets", params={"validate_only": "true"}, body=body)

    def register_dataset(
        self, upload_id: str, *, name: str, file_format: str, conversion: Mapping[str, Any] | None = None
    ) -> Json:
        """Make a data set of a complete upload. It is `validating` until the job that `links.job` names has read the files.

        The same file under the same name, read in the same way, is the same data set, also when it was uploaded again.

        Args:
            upload_id: as `upload` gave it.
            name: what you call it.
            file_format: what the files hold, for example `imagefolder_zip` (`core.specs.ingest.Format`).
            conversion: size, colour and split (`core.specs.ingest.ConversionSpec`); what it leaves out has defaults.
        """
        body = {
            "name": name, "format": file_format, "source": {"upload_id": upload_id}, "conversion": dict(conversion or {}),
        }
        return self._connection.request("POST", "/v1/datasets", body=body)

    def samples(self, dataset_id: str, *, split: str = "", class_name: str = "", count: int = 20) -> list[Json]:
        """Images of a registered data set: `split`, `label`, `class_name` and `png` (the file, in base64)."""
        given = {"split": split, "class": class_name, "n": count}
        params = {key: value for key, value in given.items() if value}
        return list(self._connection.request("GET", f"{_dataset_path(dataset_id)}/inspect", params=params)["data"])

    def delete_dataset(self, dataset_id: str) -> None:
        """Delete a registered data set.

        Raises:
            ClientError: `dataset_in_use` while a job that is not over reads it, `job_not_terminal` while it is being made.
        """
        self._connection.send("DELETE", _dataset_path(dataset_id))


def _dataset_path(name: str) -> str:
    return f"/v1/datasets/{quote(name, safe='')}"
