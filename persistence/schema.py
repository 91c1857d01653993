"""The ledger's schema: bringing it up, and refusing to work on another one."""

from __future__ import annotations

import datetime as dt
from typing import Final

import sqlalchemy as sa
from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, Engine
from sqlalchemy.exc import DBAPIError

from persistence.database import is_transient, make_engine
from persistence.partitions import ensure_partitions
from sidecar import keys
from sidecar.errors import LedgerUnavailable, SchemaMismatch

_LOCK: Final = 0x43524544_00000001  # advisory: one migration at a time, from whatever host


def upgrade(url: str, *, shards: int = keys.SHARDS) -> str:
    """Bring the schema up to this program's revision and return it.

    A new ledger gets `shards` shards; of an existing one they never change. Safe to run twice and
    from several hosts. Raises `SchemaMismatch` when the schema is newer than this program and
    `LedgerUnavailable` when Postgres cannot be reached.
    """
    engine = make_engine(url, pool_size=1, statement_timeout_ms=0)
    try:
        with engine.begin() as connection:
            return _upgrade(connection, shards)
    except DBAPIError as error:
        if is_transient(error):
            raise LedgerUnavailable("The ledger cannot be reached now.") from error
        raise
    finally:
        engine.dispose()


def _upgrade(connection: Connection, shards: int) -> str:
    connection.execute(sa.text("SELECT pg_advisory_xact_lock(:key)"), {"key": _LOCK})
    config = _config()
    _refuse_newer(connection, ScriptDirectory.from_config(config))
    config.attributes["connection"] = connection
    config.attributes["shards"] = shards
    command.upgrade(config, "head")
    ensure_partitions(connection, dt.datetime.now(dt.UTC).date())
    return head()


def check(engine: Engine) -> None:
    """Raise `SchemaMismatch`, naming the command that helps, unless the schema is this program's.

    Raises `LedgerUnavailable` when Postgres cannot be reached.
    """
    try:
        with engine.connect() as connection:
            _refuse_newer(connection, ScriptDirectory.from_config(_config()))
            found = current(connection)
    except DBAPIError as error:
        raise LedgerUnavailable("The ledger cannot be reached now.") from error
    if found != head():
        raise SchemaMismatch(
            f"The ledger's schema is at revision {found or 'none'}, this program needs {head()}:"
            " run `credit-sidecar migrate`."
        )


def head() -> str:
    """Return the revision that this program works on."""
    revision = ScriptDirectory.from_config(_config()).get_current_head()
    assert revision is not None
    return revision


def current(connection: Connection) -> str | None:
    """Return the revision of the schema, or None when there is none."""
    return MigrationContext.configure(connection).get_current_revision()


def _config() -> Config:
    config = Config()
    config.set_main_option("script_location", "persistence:migrations")
    config.set_main_option("path_separator", "os")
    return config


def _refuse_newer(connection: Connection, scripts: ScriptDirectory) -> None:
    found = current(connection)
    known = {script.revision for script in scripts.walk_revisions()}
    if found is not None and found not in known:
        raise SchemaMismatch(
            f"The ledger's schema is at revision {found}, newer than this program's {head()}:"
            " install the newer credit-sidecar."
        )
