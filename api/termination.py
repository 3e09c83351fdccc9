"""Knowing that the process is asked to end.

The server waits for open responses before it tells the application anything, and an event stream never ends by itself. So
the signals are looked at on their way to the server.
"""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

SIGNALS = (signal.SIGTERM, signal.SIGINT)


class Closing:
    """Turns true once; a plain attribute, because it is set inside a signal handler."""

    def __init__(self) -> None:
        self.begun = False


@contextmanager
def noticed() -> Iterator[Closing]:
    """Watch the signals while the block runs. Outside the main thread nothing can be watched, and nothing is."""
    closing = Closing()
    if threading.current_thread() is not threading.main_thread():
        yield closing
        return
    before = {number: signal.getsignal(number) for number in SIGNALS}

    def notice(number: int, frame: FrameType | None) -> None:
        closing.begun = True
        handler = before[signal.Signals(number)]
        if callable(handler):
            handler(number, frame)
        elif handler is signal.SIG_DFL:
            signal.signal(number, signal.SIG_DFL)
            signal.raise_signal(number)

    for number in SIGNALS:
        signal.signal(number, notice)
    try:
        yield closing
    finally:
        for number in SIGNALS:
            if signal.getsignal(number) is notice:
                signal.signal(number, before[number])
