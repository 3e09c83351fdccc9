"""A TCP proxy of the suite's own, between one process and one server. It cuts, stalls, delays, and catches one message.

Bytes pass as they are, so a server's own protocol, authentication and signatures stay real.
"""

from __future__ import annotations

import contextlib
import re
import socket
import struct
import threading
import time
from collections.abc import Callable

CHUNK_BYTES = 1 << 16
RESET = struct.pack("ii", 1, 0)
"""SO_LINGER: closing sends a reset, as a host that has lost the connection would."""


class Catch:
    """A trap for one message of the client: the first that holds `pattern`, on a connection that has sent `after` before.

    The message is kept back; with `answer`, it is let through and what the server answers is kept back instead.
    """

    def __init__(self, pattern: bytes, after: bytes, *, answer: bool) -> None:
        self._pattern = pattern
        self._after = after
        self.answer = answer
        self.armed = True
        self._caught = threading.Event()
        self._gate = threading.Event()
        self._link: _Link | None = None

    def takes(self, link: _Link, data: bytes) -> bool:
        """Whether this message springs the trap; it does so once."""
        if not self.armed or self._after not in link.said or self._pattern not in data:
            return False
        self.armed = False
        self._link = link
        return True

    def hold(self) -> None:
        """Tell the test, and keep the message until it is released."""
        self._caught.set()
        self._gate.wait()

    def wait(self, seconds: float = 60.0) -> None:
        """Wait until a message was caught."""
        assert self._caught.wait(seconds), f"nothing with {self._pattern!r} came within {seconds} s"

    def release(self) -> None:
        """Let the message go on its way."""
        self._gate.set()

    def drop(self) -> None:
        """Lose the message, and the connection with it."""
        assert self._link is not None
        self._link.close()
        self._gate.set()


class Swallow:
    """A lie: the first HTTP request that matches is answered well and never reaches the server."""

    def __init__(self, pattern: str) -> None:
        self._pattern = re.compile(pattern.encode())
        self.done = threading.Event()

    def takes(self, data: bytes) -> bool:
        """Whether this chunk begins the request that is swallowed; it is, once."""
        return not self.done.is_set() and self._pattern.search(data) is not None


class _Link:
    """One connection through the proxy: two threads that pass bytes."""

    def __init__(self, proxy: Proxy, client: socket.socket, server: socket.socket) -> None:
        self._proxy = proxy
        self._client = client
        self._server = server
        self.said = b""
        """The client's last bytes, for a trap that needs to know what came before."""
        self._answers = threading.Event()
        self._answers.set()
        self.open = True
        for pump in (self._up, self._down):
            threading.Thread(target=pump, name="proxy", daemon=True).start()

    def close(self) -> None:
        """Reset both sides."""
        self.open = False
        for end in (self._client, self._server):
            with contextlib.suppress(OSError):
                end.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
            with contextlib.suppress(OSError):
                end.close()
        self._answers.set()  # last: an answer that was kept back must find nobody

    def _up(self) -> None:
        while data := self._proxy.read(self._client):
            if (lie := next((lie for lie in self._proxy.lies if lie.takes(data)), None)) is not None:
                self._lie(lie, data)
                break
            caught = next((trap for trap in self._proxy.traps if trap.takes(self, data)), None)
            self.said = (self.said + data)[-CHUNK_BYTES:]
            if caught is None:
                if not self._send(self._server, data):
                    break
                continue
            if caught.answer:
                self._answers.clear()
                self._send(self._server, data)
            caught.hold()
            if not caught.answer and not self._send(self._server, data):
                break
            self._answers.set()
        self.close()

    def _down(self) -> None:
        while data := self._proxy.read(self._server):
            self._answers.wait()
            if not self._send(self._client, data):
                break
        self.close()

    def _send(self, end: socket.socket, data: bytes) -> bool:
        try:
            end.sendall(data)
        except OSError:
            return False
        return True

    def _lie(self, lie: Swallow, data: bytes) -> None:
        head, _, body = data.partition(b"\r\n\r\n")
        length = re.search(rb"(?i)content-length: *(\d+)", head)
        missing = int(length.group(1)) - len(body) if length else 0
        while missing > 0 and (more := self._proxy.read(self._client)):
            missing -= len(more)
        self._send(self._client, b'HTTP/1.1 200 OK\r\nETag: "00"\r\nContent-Length: 0\r\nConnection: close\r\n\r\n')
        lie.done.set()
        time.sleep(0.2)


class Proxy:
    """Listens on a port of its own and passes everything on to a server on this machine."""

    def __init__(self, target_port: int) -> None:
        self._target_port = target_port
        self._flows = threading.Event()
        self._flows.set()
        self._delay_seconds = 0.0
        self._links: list[_Link] = []
        self.traps: list[Catch] = []
        self.lies: list[Swallow] = []
        self._listener: socket.socket | None = None
        self.port = 0
        self._listen()

    def cut(self) -> None:
        """Reset every connection and refuse new ones, as a server that is down."""
        listener, self._listener = self._listener, None
        if listener is not None:
            listener.shutdown(socket.SHUT_RDWR)  # closing alone would leave accept() blocked
            listener.close()
        self.reset()

    def reset(self) -> None:
        """Reset every connection; new ones are welcome."""
        links, self._links = self._links, []
        for link in links:
            link.close()

    def stall(self) -> None:
        """Accept everything and pass nothing on, as a server that hangs."""
        self._flows.clear()

    def delay(self, seconds: float) -> None:
        """Keep every chunk so long."""
        self._delay_seconds = seconds

    def heal(self) -> None:
        """Behave again."""
        for trap in self.traps:
            trap.armed = False
            trap.release()
        self.traps, self.lies, self._delay_seconds = [], [], 0.0
        self._flows.set()
        if self._listener is None:
            self._listen()

    def catch(self, pattern: bytes, *, after: bytes = b"", answer: bool = False) -> Catch:
        """Set a trap."""
        trap = Catch(pattern, after, answer=answer)
        self.traps.append(trap)
        return trap

    def swallow(self, pattern: str) -> Swallow:
        """Answer one HTTP request in the server's place."""
        lie = Swallow(pattern)
        self.lies.append(lie)
        return lie

    def close(self) -> None:
        """Free the port and every connection."""
        self.heal()
        self.cut()

    def read(self, end: socket.socket) -> bytes:
        """The next bytes of one side, empty at its end, when they may pass."""
        try:
            data = end.recv(CHUNK_BYTES)
        except OSError:
            return b""
        if self._delay_seconds:
            time.sleep(self._delay_seconds)
        self._flows.wait()
        return data

    def _listen(self) -> None:
        listener = socket.create_server(("127.0.0.1", self.port), backlog=128)
        self.port = listener.getsockname()[1]
        self._listener = listener
        self._thread(lambda: self._accept(listener))

    def _accept(self, listener: socket.socket) -> None:
        while True:
            try:
                client, _ = listener.accept()
            except OSError:
                return
            try:
                server = socket.create_connection(("127.0.0.1", self._target_port), timeout=5)
                server.settimeout(None)
            except OSError:
                client.close()
                continue
            for end in (client, server):
                end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self._links = [link for link in self._links if link.open] + [_Link(self, client, server)]

    def _thread(self, target: Callable[[], None]) -> None:
        threading.Thread(target=target, name="proxy-accept", daemon=True).start()
