"""Serving an ASGI application on one address, until it is told to stop."""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import socket
import stat
from pathlib import Path
from types import FrameType
from typing import Final

import uvicorn
from starlette.types import ASGIApp

from sidecar.errors import SettingsError
from sidecar.protocol import BoundedProtocol

log: Final = logging.getLogger(__name__)

_BACKLOG: Final = 2048
_SOCKET_MODE: Final = 0o660


def run(app: ASGIApp, address: str, *, setting: str, grace_ms: int) -> None:
    """Serve `app` on `host:port` or `unix:/path` until SIGTERM or SIGINT.

    Then it takes no new connection, finishes what runs within `grace_ms`, and returns. Raises
    `SettingsError`, naming `setting`, when the address cannot be listened on.
    """
    sock = listen(address, setting)
    server = uvicorn.Server(configuration(app, grace_ms))
    # uvicorn sends itself the signal again after its shutdown; this makes that a clean exit.
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, _leave)
    try:
        server.run(sockets=[sock])
    finally:
        sock.close()
        if address.startswith("unix:"):
            Path(address.removeprefix("unix:")).unlink(missing_ok=True)
    if not server.started:
        raise SettingsError("The server could not start; its log says why.")


def configuration(app: ASGIApp, grace_ms: int) -> uvicorn.Config:
    """Return how all roles run uvicorn."""
    return uvicorn.Config(
        app,
        http=BoundedProtocol,
        ws="none",
        log_config=None,
        access_log=False,
        server_header=False,
        timeout_keep_alive=75,
        timeout_graceful_shutdown=max(1, grace_ms // 1000),
        lifespan="on",
    )


def listen(address: str, setting: str) -> socket.socket:
    """Return a listening socket. A socket file that nobody listens on any more is replaced.

    Raises `SettingsError`, naming `setting`.
    """
    try:
        if address.startswith("unix:"):
            return _listen_unix(Path(address.removeprefix("unix:")))
        return _listen_tcp(address)
    except OSError as error:
        raise SettingsError(f"{setting}: cannot listen on {address}: {error}") from error


def _leave(_: int, __: FrameType | None) -> None:
    raise SystemExit(0)


def _listen_tcp(address: str) -> socket.socket:
    host, _, port = address.rpartition(":")
    host = host.strip("[]")
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    sock = socket.socket(family, socket.SOCK_STREAM)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        sock.bind((host, int(port)))
        sock.listen(_BACKLOG)
    except OSError:
        sock.close()
        raise
    return sock


def _listen_unix(path: Path) -> socket.socket:
    if path.exists() and stat.S_ISSOCK(path.stat().st_mode) and not _is_alive(path):
        path.unlink()
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        sock.bind(str(path))
        os.chmod(path, _SOCKET_MODE)
        sock.listen(_BACKLOG)
    except OSError:
        sock.close()
        raise
    return sock


def _is_alive(path: Path) -> bool:
    with contextlib.closing(socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)) as probe:
        return probe.connect_ex(str(path)) == 0
