"""One synchronous data layer on SQLite and PostgreSQL, shared by API, worker and reconciler.

SQLite: WAL with `synchronous=FULL`, because an acknowledged job must survive power loss, and every writing transaction
starts with BEGIN IMMEDIATE, because a reader promoted to a writer fails at once however long the busy time-out is.
Writers of one process take turns before they reach the file: SQLite itself lets them poll, which starves some for seconds.
PostgreSQL: READ COMMITTED with bounded lock waits. Times are the database's own clock (`now`).
"""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from sqlalchemy import event
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.exc import DBAPIError, InterfaceError, OperationalError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.orm import Session, sessionmaker
from sqlalchemy.sql.functions import FunctionElement

from core.errors import DatabaseUnavailableError, UnsafeDatabaseError
from core.jobs.file_system import network_kind

BUSY_TIMEOUT_MS = 5000
TURN_TIMEOUT_SECONDS = 30.0
READ_ONLY = "25006"
"""PostgreSQL's state of a write to a server that takes none: a standby, in a fail-over."""


class UtcDateTime(sa.types.TypeDecorator[datetime]):
    """An aware UTC datetime; SQLite, which has no zones, stores it naive."""

    impl = sa.DateTime(timezone=True)
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: sa.Dialect) -> datetime | None:
        if value is None:
            return None
        if value.tzinfo is None:
            raise ValueError("a naive datetime reached the database layer")
        value = value.astimezone(UTC)
        return value.replace(tzinfo=None) if dialect.name == "sqlite" else value

    def process_result_value(self, value: datetime | None, _dialect: sa.Dialect) -> datetime | None:
        if value is None:
            return None
        return value.replace(tzinfo=UTC) if value.tzinfo is None else value.astimezone(UTC)


class _Clock(FunctionElement[datetime]):
    type = UtcDateTime()
    inherit_cache = True


@compiles(_Clock)
def _clock_default(_element: _Clock, _compiler: Any, **_: Any) -> str:
    return "clock_timestamp()"


@compiles(_Clock, "sqlite")
def _clock_sqlite(_element: _Clock, _compiler: Any, **_: Any) -> str:
    return "strftime('%Y-%m-%d %H:%M:%f000', 'now')"


def now(session: Session) -> datetime:
    """The database's clock. Leases and schedules never use a host's own."""
    value: datetime | None = session.scalar(sa.select(_Clock()))
    assert value is not None
    return value


def insert_into(session: Session, table: Any) -> Any:
    """An INSERT of the session's dialect: both have `on_conflict_do_nothing` and `on_conflict_do_update`."""
    dialect = postgresql if session.get_bind().dialect.name == "postgresql" else sqlite
    return dialect.insert(table)


class Database:
    """An engine with two ways in: `read()` and `write()`."""

    def __init__(self, url: str) -> None:
        """Connect to nothing yet.

        Raises:
            UnsafeDatabaseError: an SQLite file on a network share, where it would be damaged sooner or later.
        """
        self.url = sa.make_url(url)
        self.is_sqlite = self.url.get_backend_name() == "sqlite"
        if self.is_sqlite:
            share = network_kind(Path(self.url.database or "."))
            if share is not None:
                raise UnsafeDatabaseError(
                    f"{self.url.database} lies on a network share ({share}), where SQLite's locks do not hold; put the file on "
                    "a local disk (DISTILL_HOME), or use PostgreSQL (DISTILL_DATABASE_URL)"
                )
            self.engine = sa.create_engine(
                self.url, json_serializer=_strict_json, connect_args={"timeout": BUSY_TIMEOUT_MS / 1000}
            )
            event.listen(self.engine, "connect", _sqlite_connect)
            event.listen(self.engine, "begin", _sqlite_begin)
        else:
            self.engine = sa.create_engine(
                self.url.set(drivername="postgresql+psycopg"),
                json_serializer=_strict_json, pool_pre_ping=True, pool_size=10, max_overflow=30,
                connect_args={
                    "connect_timeout": 5,
                    # A host that vanishes without closing the connection is noticed within half a minute.
                    "keepalives_idle": 10, "keepalives_interval": 5, "keepalives_count": 3, "tcp_user_timeout": 20_000,
                    "options": "-c lock_timeout=10s -c statement_timeout=60s -c idle_in_transaction_session_timeout=60s "
                    "-c timezone=UTC",
                },
            )
        self._turn = threading.Lock()
        self._sessions = sessionmaker(self.engine, expire_on_commit=False)
        self._readers = sessionmaker(self.engine.execution_options(read_only=True), expire_on_commit=False)

    @contextmanager
    def write(self) -> Iterator[Session]:
        """One writing transaction, committed when the block ends and rolled back when it raises.

        Raises:
            DatabaseUnavailableError: the database cannot be reached, is full, or stayed locked.
        """
        with self._my_turn(), _translated(), self._sessions.begin() as session:
            yield session

    @contextmanager
    def _my_turn(self) -> Iterator[None]:
        if not self.is_sqlite:
            yield
            return
        if not self._turn.acquire(timeout=TURN_TIMEOUT_SECONDS):
            raise DatabaseUnavailableError("the database stayed locked")
        try:
            yield
        finally:
            self._turn.release()

    @contextmanager
    def read(self) -> Iterator[Session]:
        """One reading transaction.

        Raises:
            DatabaseUnavailableError: as for `write`.
        """
        with _translated(), self._readers() as session:
            yield session

    def dispose(self) -> None:
        """Close every pooled connection."""
        self.engine.dispose()


def _strict_json(value: Any) -> str:
    """JSON text of a column. NaN and infinity are refused here: SQLite would keep them, and no client could read them."""
    return json.dumps(value, allow_nan=False)


@contextmanager
def _translated() -> Iterator[None]:
    try:
        yield
    except (OperationalError, InterfaceError, PoolTimeoutError) as error:
        raise DatabaseUnavailableError("the database cannot be reached or refused the operation") from error
    except DBAPIError as error:
        if error.connection_invalidated:
            raise DatabaseUnavailableError("the connection to the database was lost") from error
        if getattr(error.orig, "sqlstate", None) == READ_ONLY:
            raise DatabaseUnavailableError("the database takes no writes at the moment") from error
        raise


def _sqlite_connect(connection: Any, _record: Any) -> None:
    connection.isolation_level = None  # the driver must not open transactions of its own
    cursor = connection.cursor()
    for pragma in (
        "journal_mode=WAL", "synchronous=FULL", f"busy_timeout={BUSY_TIMEOUT_MS}", "foreign_keys=ON",
    ):
        cursor.execute(f"PRAGMA {pragma}")
    cursor.close()


def _sqlite_begin(connection: sa.Connection) -> None:
    read_only = connection.get_execution_options().get("read_only", False)
    connection.exec_driver_sql("BEGIN" if read_only else "BEGIN IMMEDIATE")
