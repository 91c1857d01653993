"""Sidecars in the ledger: entered, let go, declared dead. `registry.py` decides when."""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final
from uuid import UUID

import msgspec
import redis
import sqlalchemy as sa
from sqlalchemy import Connection, Engine

from persistence import sidecars_sql as sql
from persistence.database import in_transaction, now_ms
from persistence.errors import SidecarAlive, SidecarUnknown
from persistence.generations import OPENING_LOCK
from persistence.recovery import Drained, finish_drains
from sidecar import keys

_log: Final = logging.getLogger(__name__)

_WATCH_SECONDS: Final = 2.5
_WATCH_STEP_SECONDS: Final = 0.1

Target = Mapping[tuple[int, int], int]
"""How many entries the stream of each shard and epoch had at some moment."""


class Heartbeat(msgspec.Struct, frozen=True):
    """A sidecar's last sign of life, as it wrote it into Redis."""

    name: str
    boot: str
    at_ms: int
    state: str = "running"
    version: str = ""


def heartbeat(sign: bytes | None) -> Heartbeat | None:
    """Return what a sign of life says, or None when it is none."""
    if sign is None:
        return None
    try:
        return msgspec.json.decode(sign, type=Heartbeat)
    except msgspec.MsgspecError:
        return None


@dataclass(frozen=True, slots=True)
class SidecarRow:
    """A sidecar as the ledger has it. `pending`: shards that wait for its journal."""

    id: UUID
    name: str
    boot: str
    state: str
    registered_ms: int
    seen_ms: int
    ended_ms: int | None
    reason: str | None
    pending: int


def enter(connection: Connection, id: UUID, beat: Heartbeat) -> None:
    """Write a sidecar down as alive, and let the shards that drain now wait for it too."""
    _lock_out_openers(connection)
    values = {"id": id, "name": beat.name[:200], "boot": beat.boot, "now": now_ms()}
    connection.execute(sql.ENTER, values)
    # Shared with no flusher: none may find that all journals are in, and not see this one.
    draining = list(connection.scalars(sql.LOCK_DRAINING))
    connection.execute(sql.WAIT_FOR, values | {"shards": draining})


def end(connection: Connection, id: UUID, state: str, reason: str) -> list[Drained]:
    """End a sidecar, and wait for its journal no more; return the shards that are open by that.

    Raises `SidecarUnknown` when it is not alive.
    """
    _lock_out_openers(connection)
    values = {"id": id, "state": state, "reason": reason, "now": now_ms()}
    if connection.execute(sql.END, values).rowcount == 0:
        raise SidecarUnknown(f"The ledger knows no sidecar {id} that is not gone.")
    shards = list(connection.scalars(sql.LOCK_WAITING, values))
    connection.execute(sql.STOP_WAITING, values)
    return finish_drains(connection, shards)


def leave(connection: Connection, row: SidecarRow, target: Target) -> bool:
    """Write down that a silent sidecar is gone, and tell whether it is.

    Not when a Redis was lost since the target was taken, or when it was registered anew.
    """
    _lock_out_openers(connection)
    if not is_flushed(connection, target):
        return False
    values = {"id": row.id, "now": now_ms(), "registered_ms": row.registered_ms}
    return connection.execute(sql.LEAVE, values).rowcount > 0


def is_flushed(connection: Connection, target: Target) -> bool:
    """Tell whether the ledger has all of a target, and every shard has been whole since."""
    rows = connection.execute(sql.SHARDS).all()
    return all(
        row.is_whole and row.flushed_events >= target.get((row.shard, row.epoch), 2**63)
        for row in rows
    )


def _lock_out_openers(connection: Connection) -> None:
    """Let no shard be given up until this transaction ends."""
    connection.execute(sa.text("SELECT pg_advisory_xact_lock_shared(:k)"), {"k": OPENING_LOCK})


def list_sidecars(connection: Connection, *, with_gone: bool = False) -> list[SidecarRow]:
    """Return the sidecars that are alive or dead, by name; those that are gone if asked for."""
    rows = connection.execute(sql.ALL_SIDECARS, {"with_gone": with_gone})
    return [SidecarRow(*row) for row in rows]


def declare_dead(
    engine: Engine, client: redis.Redis | None, id: UUID, reason: str, *, is_forced: bool = False
) -> int:
    """Wait no more for a sidecar's journal; return how many shards are open again by that.

    What only its journal has is lost, or comes late if it ever returns. Watches its signs of life
    for some seconds first. Raises `SidecarAlive` when there are any, unless it `is_forced`,
    `SidecarUnknown`, and the errors of SQLAlchemy and redis-py. Without a `client`, Redis being
    away, nobody can tell whether it lives: then it must be forced.
    """
    if not is_forced and (client is None or _gives_signs(client, id)):
        raise SidecarAlive(f"Sidecar {id} gives signs of life, or may: stop it first.")
    if client is not None:
        forget_signs(client, id)
    drained = in_transaction(engine, lambda c: end(c, id, "dead", reason))
    _log.warning("sidecar declared dead", extra={"id": str(id), "reason": reason})
    return len(drained)


def _gives_signs(client: redis.Redis, id: UUID) -> bool:
    before: Any = client.hget(keys.SIDECARS, str(id))
    deadline = time.monotonic() + _WATCH_SECONDS
    while time.monotonic() < deadline:
        time.sleep(_WATCH_STEP_SECONDS)
        if client.hget(keys.SIDECARS, str(id)) != before:
            return True
    return False


def forget_signs(client: redis.Redis, id: UUID) -> bytes | None:
    """Take a sidecar's confirmation and its sign of life out of Redis; return the sign.

    Both at once, and before the ledger lets go of it: else some worker may take the old sign for
    one of a sidecar that begins. One that lives gives another sign, and registers anew.
    """
    pipeline = client.pipeline(transaction=True)
    pipeline.hget(keys.SIDECARS, str(id))
    pipeline.hdel(keys.REGISTERED, str(id))
    pipeline.hdel(keys.SIDECARS, str(id))
    sign: bytes | None = pipeline.execute()[0]
    return sign
