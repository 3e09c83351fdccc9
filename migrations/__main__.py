"""`python -m migrations [upgrade|check]`: bring the database to the newest revision, or compare models and scripts."""

from __future__ import annotations

import sys

from migrations.commands import check, upgrade


def main(arguments: list[str]) -> int:
    """Run one command; the exit code is 0 when the database (or the check) is in order."""
    match arguments:
        case [] | ["upgrade"]:
            upgrade()
            return 0
        case ["check"]:
            return check()
        case _:
            sys.stderr.write("usage: python -m migrations [upgrade|check]\n")
            return 2


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
