"""What the options before the verb decide, for every module of verbs."""

from __future__ import annotations

from rich.console import Console

from api.client import display
from api.client.http import DistillClient


class Session:
    """The service that the verbs talk to, and where they write."""

    url = ""

    @staticmethod
    def client() -> DistillClient:
        """A client of that service."""
        return DistillClient(Session.url)

    @staticmethod
    def out() -> Console:
        """Standard output."""
        return display.console()

    @staticmethod
    def err() -> Console:
        """Standard error."""
        return display.console(stderr=True)
