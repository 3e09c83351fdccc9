"""Every setting of every process, read from ``DISTILL_*`` environment variables.

The three servers default to something inside ``DISTILL_HOME``, so that one folder is a whole installation: a SQLite
file, a Valkey socket started by ``distill up``, and a folder of objects. On several hosts they are three URLs.
"""

from __future__ import annotations

import hashlib
import os
import tempfile
from functools import cache
from pathlib import Path

from pydantic import Field, computed_field
from pydantic_settings import BaseSettings, SettingsConfigDict

from core.specs.ingest import IngestLimits
from core.uploads.parts import MAX_PART_BYTES, MAX_PARTS


class Settings(BaseSettings):
    """Typed settings; names are the environment variables without their ``DISTILL_`` prefix, in lower case."""

    model_config = SettingsConfigDict(env_prefix="DISTILL_", frozen=True, extra="ignore")

    home: Path = Field(default=Path("~/.distill"), description="Folder for everything local.")
    database_url: str = Field(default="", description="SQLAlchemy URL; empty means SQLite inside `home`.")
    broker_url: str = Field(default="", description="Celery broker URL; empty means the socket inside `home`.")
    store_url: str = Field(default="", description="`file://`, `s3://bucket/prefix`, ...; empty means inside `home`.")
    data_root: Path | None = Field(default=None, description="torchvision-style root of named sets; unset: inside `home`.")

    s3_endpoint: str = Field(default="", description="Endpoint of an S3-compatible server; empty means AWS.")
    s3_access_key_id: str = ""
    s3_secret_access_key: str = ""
    s3_region: str = "us-east-1"

    url: str = Field(default="http://127.0.0.1:8000", description="Where the client verbs find the API.")
    api_key: str = Field(default="", description="Sent by the client verbs as a bearer token when set.")
    allowed_hosts: str = Field(
        default="127.0.0.1,localhost,::1",
        description="Host names under which the API answers, comma separated; `*` for any, behind a proxy that checks them.",
    )
    max_body_bytes: int = Field(default=1 << 20, ge=1024, description="Largest JSON request body.")

    lease_seconds: float = Field(default=60.0, gt=0, description="How long a claim lives without renewal.")
    renew_seconds: float = Field(default=15.0, gt=0, description="How often a supervisor renews its lease.")
    tick_seconds: float = Field(default=10.0, gt=0, description="How often the reconciler looks.")
    poll_seconds: float = Field(default=1.0, gt=0, description="How often a supervisor reads its job's state.")
    report_seconds: float = Field(default=0.5, gt=0, description="How often progress is folded into the row.")
    stream_seconds: float = Field(default=1.0, gt=0, description="How often an event stream reads the table.")
    resend_seconds: float = Field(default=30.0, gt=0, description="First wait before an unanswered message is sent again.")
    resend_crowded_seconds: float = Field(
        default=600.0, gt=0, description="The same where other messages wait in the broker's queue; both waits double.",
    )
    visibility_seconds: int = Field(
        default=300, gt=0, description="Redis delivers a message again that no worker acknowledged for so long.",
    )
    checkpoint_seconds: float = Field(default=60.0, gt=0, description="Wall time between checkpoints.")
    cancel_grace_seconds: float = Field(default=5.0, gt=0, description="From SIGTERM to SIGKILL when a job is cancelled.")
    drain_seconds: float = Field(default=120.0, gt=0, description="From SIGTERM to SIGKILL when a worker shuts down.")
    unkillable_seconds: float = Field(
        default=60.0, gt=0, description="A child that lives so long after SIGKILL is given up, and its worker quarantined."
    )
    stall_seconds: float = Field(default=900.0, gt=0, description="No word from a child for this long means it hangs.")
    retry_backoff_seconds: float = Field(default=30.0, gt=0, description="First wait before another attempt; doubles.")
    evaluation_units: int = Field(
        default=20, ge=0,
        description="An evaluation with more networks left is given to jobs of its own, so many networks each; 0: never.",
    )
    patience_seconds: float = Field(
        default=3600.0, gt=0, description="How long results wait on the worker's disk for a store or a database that is away."
    )
    self_test_seconds: float = Field(default=60.0, gt=0, description="How often a worker whose device failed tests it.")
    self_test_limit_seconds: float = Field(default=120.0, gt=0, description="A device that takes longer has not passed.")
    sweep_seconds: float = Field(default=3600.0, gt=0, description="How often the sweeper collects what nobody needs.")
    orphan_seconds: float = Field(default=86_400.0, gt=0, description="Age at which an object that no row names is collected.")
    idempotency_seconds: float = Field(default=7 * 86_400.0, gt=0, description="How long an Idempotency-Key is remembered.")
    worker_row_seconds: float = Field(default=7 * 86_400.0, gt=0, description="Silence after which a worker is forgotten.")
    publish_timeout_seconds: float = Field(default=5.0, gt=0, description="Socket time-out towards the broker.")

    max_upload_bytes: int = Field(
        default=20 << 30, ge=1, le=MAX_PARTS * MAX_PART_BYTES, description="Largest file that may be uploaded.",
    )
    max_open_uploads: int = Field(default=5, ge=1, description="Uploads that a tenant may have begun and not completed.")
    max_stored_bytes: int = Field(
        default=50 << 30, ge=0,
        description="What uploads and finished files of a tenant may take; beyond it no upload is begun.",
    )
    upload_expiry_seconds: float = Field(
        default=86_400.0, gt=0,
        description="An upload ends so long after its last part; one that is complete when no data set was made of it.",
    )

    max_trajectory_bytes: int = Field(
        default=64 << 30, ge=0,
        description="Largest file of expert trajectories that a job may ask for; while it is made, memory holds it once and "
        "the job's folder up to four times.",
    )
    dataset_cache_bytes: int = Field(
        default=50 << 30, ge=0,
        description="What a host keeps of canonical data sets and whitening fits, unless more are being read at once.",
    )
    source_prefixes: str = Field(
        default="",
        description="Prefixes of store URLs from which data sets may be made, comma separated: s3://bucket/folder/, file:///folder/.",
    )
    ingest_limits: IngestLimits = Field(
        default=IngestLimits(), description="What files of users may be, as a JSON object; what it leaves out stays as it is."
    )
    probe_faults: bool = Field(default=False, description="Whether probes may be told to misbehave; for tests of a service.")
    child_threads: int = Field(default=0, ge=0, description="CPU threads of a child; 0 means all cores of the machine.")
    queues: str = Field(default="cpu", description="Queues that a worker serves, comma separated.")

    @property
    def home_dir(self) -> Path:
        """`home` with the user's folder expanded, absolute."""
        return Path(os.path.abspath(self.home.expanduser()))  # noqa: PTH100 - resolve() would follow symlinks

    @computed_field  # type: ignore[prop-decorator]
    @property
    def database(self) -> str:
        """The SQLAlchemy URL in force."""
        return self.database_url or f"sqlite:///{self.home_dir / 'distill.db'}"

    @computed_field  # type: ignore[prop-decorator]
    @property
    def broker(self) -> str:
        """The Celery broker URL in force."""
        return self.broker_url or f"redis+socket://{self.broker_socket}?virtual_host=0"

    @computed_field  # type: ignore[prop-decorator]
    @property
    def store(self) -> str:
        """The object store URL in force."""
        return self.store_url or (self.home_dir / "objects").as_uri()

    @property
    def broker_socket(self) -> Path:
        """The unix socket of the local broker, used when no broker URL is set.

        The kernel limits such a path to 107 bytes; a longer one moves to the temporary folder under a hash of `home`.
        """
        inside = self.home_dir / "run" / "broker.sock"
        if len(os.fsencode(inside)) <= 100:
            return inside
        return Path(tempfile.gettempdir()) / f"distill-{hashlib.sha256(os.fsencode(self.home_dir)).hexdigest()[:16]}.sock"

    @property
    def data_dir(self) -> Path:
        """Where named data sets are looked for."""
        return Path(os.path.abspath((self.data_root or self.home_dir / "data").expanduser()))  # noqa: PTH100

    @property
    def cache_dir(self) -> Path:
        """Canonical data and compiled code; everything in it can be made again."""
        return self.home_dir / "cache"

    @property
    def jobs_dir(self) -> Path:
        """Job directories of running attempts."""
        return self.home_dir / "jobs"


@cache
def get_settings() -> Settings:
    """The settings of this process, read once."""
    return Settings()
