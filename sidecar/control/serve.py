"""`credit-sidecar control`: the control listener on TCP or a Unix socket."""

from __future__ import annotations

import logging
from typing import Final

from sidecar import server
from sidecar.control.app import build
from sidecar.settings import Settings

log: Final = logging.getLogger(__name__)


def run(settings: Settings) -> None:
    """Serve until SIGTERM or SIGINT, then finish what runs and return. Call in the main thread.

    Raises `SettingsError` when a setting is missing or the address cannot be listened on.
    """
    app = build(settings)
    log.info("control listens", extra={"listen": settings.control_listen})
    server.run(
        app,
        settings.control_listen,
        setting="CREDITS_CONTROL_LISTEN",
        grace_ms=settings.shutdown_grace_ms,
    )
