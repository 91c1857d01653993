"""`credit-sidecar control`: the control listener on TCP or a Unix socket."""

from __future__ import annotations

import logging
from typing import Final

from persistence import schema
from persistence.database import make_engine
from sidecar import server
from sidecar.control.app import build
from sidecar.errors import LedgerUnavailable
from sidecar.settings import Settings

log: Final = logging.getLogger(__name__)


def run(settings: Settings) -> None:
    """Serve until SIGTERM or SIGINT, then finish what runs and return. Call in the main thread.

    Raises `SettingsError` when a setting is missing or the address cannot be listened on, and
    `SchemaMismatch`, naming the command that helps.
    """
    app = build(settings)
    _check_schema(settings)
    log.info("control listens", extra={"listen": settings.control_listen})
    server.run(
        app,
        settings.control_listen,
        setting="CREDITS_CONTROL_LISTEN",
        grace_ms=settings.shutdown_grace_ms,
    )


def _check_schema(settings: Settings) -> None:
    engine = make_engine(settings.postgres_url, pool_size=1)
    try:
        schema.check(engine)
    except LedgerUnavailable as error:
        # It may come later: until then requests are answered 503, and Stripe sends again.
        log.warning("the ledger is not there yet", extra={"error": str(error)})
    finally:
        engine.dispose()
