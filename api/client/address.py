"""Where a service on this machine may listen: a loopback address and a free port."""

from __future__ import annotations

import errno
import ipaddress
import socket

from api.client.errors import LauncherError


def free_port(host: str = "127.0.0.1") -> int:
    """A port that is free now."""
    with socket.create_server((host, 0), family=_family(host)) as probe:
        return int(probe.getsockname()[1])


def loopback(host: str) -> str:
    """The numeric address of a loopback host.

    Raises:
        LauncherError: the host is another one.
    """
    address = "127.0.0.1" if host == "localhost" else host
    try:
        if ipaddress.ip_address(address).is_loopback:
            return address
    except ValueError:
        pass
    raise LauncherError(
        f"refused to listen on {host}: this service has no keys yet, so it serves this machine only. "
        "Listen on 127.0.0.1, and put an authenticating proxy in front of it to share it."
    )


def _family(host: str) -> socket.AddressFamily:
    return socket.AF_INET6 if ":" in host else socket.AF_INET


def require_free(host: str, port: int) -> None:
    """Make sure that the port can be listened on now.

    Raises:
        LauncherError: it cannot; the message says why.
    """
    if not 0 < port < 65536:
        raise LauncherError(f"{port} is not a port; choose one from 1 to 65535, or 0 for any free one")
    try:
        socket.create_server((host, port), family=_family(host)).close()
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            raise LauncherError(f"port {port} is in use by another program; choose another one with --port") from None
        raise LauncherError(f"cannot listen on {host} port {port}: {error.strerror}") from None
