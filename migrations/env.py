"""Alembic's environment: the URL comes from the settings, and both dialects run the same scripts."""

from __future__ import annotations

from alembic import context

from core.jobs.database import Database
from core.jobs.models import Base
from core.settings import get_settings
from core.uploads import models as uploads

target_metadata = Base.metadata
assert uploads.Upload.metadata is target_metadata  # importing its module adds its tables


def run() -> None:
    """Run the migrations over the caller's connection, or over one made from the settings."""
    connection = context.config.attributes.get("connection")
    if connection is not None:
        _run_on(connection)
        return
    database = Database(get_settings().database)
    with database.engine.connect() as own:
        _run_on(own)
        own.commit()


def _run_on(connection) -> None:
    context.configure(
        connection=connection,
        target_metadata=target_metadata,
        render_as_batch=connection.dialect.name == "sqlite",
        compare_type=True,
        transaction_per_migration=False,
    )
    with context.begin_transaction():
        context.run_migrations()


if context.is_offline_mode():
    raise SystemExit("offline mode is not supported: the migrations need the database's dialect")
run()
