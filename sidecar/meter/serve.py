"""`credit-sidecar serve`: the hot path on TCP or a Unix socket."""

from __future__ import annotations

import logging
from typing import Final

from sidecar import server
from sidecar.meter.build import build
from sidecar.settings import Settings

log: Final = logging.getLogger(__name__)


def run(settings: Settings) -> None:
    """Serve the hot path until SIGTERM or SIGINT, then finish what runs and return.

    Raises `SettingsError` when a setting cannot be used.
    """
    app = build(settings)
    log.info("serving the hot path", extra={"listen": settings.listen})
    server.run(app, settings.listen, setting="CREDITS_LISTEN", grace_ms=settings.shutdown_grace_ms)
