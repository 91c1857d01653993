"""Redis and the ledger for one command: opened, checked, closed, and their faults in one line."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import TYPE_CHECKING

from sidecar.commands.environment import redis_client
from sidecar.errors import LedgerUnavailable, StoreUnavailable
from sidecar.settings import Settings

if TYPE_CHECKING:
    import redis
    from sqlalchemy import Engine


@contextlib.contextmanager
def ledger_of(settings: Settings, command: str) -> Iterator[Engine]:
    """Have the ledger, its schema checked.

    Raises `SettingsError`, `SchemaMismatch`, and `LedgerUnavailable` for what Postgres raises.
    """
    from sqlalchemy.exc import DBAPIError

    from persistence import schema
    from persistence.database import make_engine

    settings.require("postgres_url")
    name = f"credit-sidecar {command}"
    engine = make_engine(settings.postgres_url, application_name=name, pool_size=2)
    try:
        schema.check(engine)
        yield engine
    except DBAPIError as error:
        raise LedgerUnavailable(f"The ledger: {error.orig}") from error
    finally:
        engine.dispose()


@contextlib.contextmanager
def redis_of(settings: Settings) -> Iterator[redis.Redis]:
    """Have a client of Redis. Raises `StoreUnavailable` for what Redis raises."""
    import redis

    client = redis_client(settings)
    try:
        yield client
    except (redis.RedisError, OSError) as error:
        raise StoreUnavailable(f"Redis ({settings.redis_url!r}): {error}") from error
    finally:
        client.close()
