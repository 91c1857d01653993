"""The bell: wakes a worker when the ledger has written a refill."""

from __future__ import annotations

import time

import psycopg
import sqlalchemy as sa
from sqlalchemy import Engine

from persistence.generations import REFILL_CHANNEL


class RefillBell:
    """Waits for the ledger's word that there is a refill; if it cannot listen, for a while."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._connection: psycopg.Connection[tuple[object, ...]] | None = None

    def wait(self, seconds: float) -> None:
        """Return when a refill was written, or after `seconds`."""
        try:
            connection = self._connection or self._listen()
            for _ in connection.notifies(timeout=seconds, stop_after=1):
                return
        except (psycopg.Error, sa.exc.SQLAlchemyError, OSError):
            self.close()
            time.sleep(seconds)

    def close(self) -> None:
        """Stop listening."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def _listen(self) -> psycopg.Connection[tuple[object, ...]]:
        arguments = self._engine.dialect.create_connect_args(self._engine.url)[1]
        connection = psycopg.connect(**arguments, autocommit=True, connect_timeout=5)
        connection.execute(f"LISTEN {REFILL_CHANNEL}")
        self._connection = connection
        return connection
