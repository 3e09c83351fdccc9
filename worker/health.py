"""`python -m worker.health worker|reconciler`: exit status 0 while this host's worker, or the reconciler, is at work."""

from __future__ import annotations

import socket
import sys

import sqlalchemy as sa

from core.errors import DatabaseUnavailableError
from core.jobs.database import Database, now
from core.jobs.models import Tick, Worker
from core.settings import get_settings


def silence_seconds(database: Database, part: str) -> float | None:
    """Seconds since the part was last heard of, by the database's clock; None when it never was."""
    with database.read() as session:
        if part == "worker":
            seen = session.scalar(
                sa.select(sa.func.max(Worker.seen_at)).where(Worker.host == socket.gethostname(), Worker.state != "stopped")
            )
        else:
            seen = session.scalar(sa.select(Tick.ticked_at).where(Tick.name == "reconciler"))
        return None if seen is None else (now(session) - seen).total_seconds()


def main(arguments: list[str]) -> int:
    """Compare the silence with three intervals of the part."""
    if len(arguments) != 1 or arguments[0] not in {"worker", "reconciler"}:
        sys.stderr.write("usage: python -m worker.health worker|reconciler\n")
        return 2
    settings = get_settings()
    interval = settings.renew_seconds if arguments[0] == "worker" else settings.tick_seconds
    database = Database(settings.database)
    try:
        silence = silence_seconds(database, arguments[0])
    except DatabaseUnavailableError as error:
        sys.stderr.write(f"{error.message}\n")
        return 1
    finally:
        database.dispose()
    sys.stdout.write(f"last heard of: {'never' if silence is None else f'{silence:.1f} s ago'}\n")
    return 0 if silence is not None and silence < 3 * interval + 5 else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
