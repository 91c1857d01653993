"""Asking a listener how it is: for `health`, and for `dev` while it starts."""

from __future__ import annotations

import contextlib
import http.client
import socket
from typing import Final

_ALL_ADDRESSES: Final = {"0.0.0.0": "127.0.0.1", "[::]": "[::1]"}


def status_of(address: str, path: str, *, seconds: float = 5.0) -> int | None:
    """Return the HTTP status of `path` at an address as `listen` has it; None without an answer."""
    connection = http.client.HTTPConnection("localhost", timeout=seconds)
    with contextlib.closing(connection):
        try:
            connection.sock = _connected(address, seconds)
            connection.request("GET", path)
            return connection.getresponse().status
        except (OSError, http.client.HTTPException):
            return None


def reachable(address: str) -> str:
    """Return `host:port` by which this machine reaches a listener, also one on all addresses."""
    host, _, port = address.rpartition(":")
    return f"{_ALL_ADDRESSES.get(host, host)}:{port}"


def _connected(address: str, seconds: float) -> socket.socket:
    if not address.startswith("unix:"):
        host, _, port = reachable(address).rpartition(":")
        return socket.create_connection((host.strip("[]"), int(port)), seconds)
    made = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    made.settimeout(seconds)
    try:
        made.connect(address.removeprefix("unix:"))
    except OSError:
        made.close()
        raise
    return made
