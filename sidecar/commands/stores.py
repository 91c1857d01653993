"""Redis and the ledger for one command: opened, checked, closed, and their faults in one line."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import TYPE_CHECKING

from sidecar.commands.environment import redis_nodes
from sidecar.errors import LedgerUnavailable, StoreUnavailable
from sidecar.settings import Settings

if TYPE_CHECKING:
    import redis
    from sqlalchemy import Engine

    from sidecar.nodes import RedisNodes


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
def nodes_of(settings: Settings) -> Iterator[RedisNodes]:
    """Have the nodes of Redis. Raises `StoreUnavailable` for what Redis raises."""
    from sidecar.nodes import FAULTS

    nodes = redis_nodes(settings)
    try:
        yield nodes
    except FAULTS as error:
        raise StoreUnavailable(f"Redis ({settings.redis_url!r}): {error}") from error
    finally:
        nodes.close()


@contextlib.contextmanager
def redis_of(settings: Settings) -> Iterator[redis.Redis]:
    """Have the node of Redis with what belongs to no shard. Raises `StoreUnavailable`."""
    with nodes_of(settings) as nodes:
        yield nodes.home
