"""Doubt of the ledger itself: its Postgres was promoted or restored, and commits may be lost.

Redis has the name of the timeline on which Postgres was when a worker wrote it last. While the two
do not agree, nothing is believed that the ledger lacks: neither that a sidecar is unknown, nor
that a charge is not covered. The opener ends the doubt, by making every shard suspect.
"""

from __future__ import annotations

from typing import Any, Final

import sqlalchemy as sa
from sqlalchemy import Connection, Engine

from persistence.database import now_ms, timeline
from persistence.sidecars import heartbeat
from persistence.sidecars_sql import ENTER
from sidecar import keys
from sidecar.nodes import RedisNodes


def told_timeline(nodes: RedisNodes) -> str:
    """Return the timeline that Redis was told last; empty when it was told none."""
    home: Any = nodes.home
    told = home.hget(keys.META, "timeline")
    return (told or b"").decode(errors="replace")


def is_doubted(connection: Connection, told: str) -> bool:
    """Tell whether Postgres is on another timeline than Redis was told."""
    now = timeline(connection) if told else ""
    return bool(now) and now != told


def is_ledger_doubted(engine: Engine, nodes: RedisNodes) -> bool:
    """Tell whether it is so now."""
    told = told_timeline(nodes)
    with engine.connect() as connection:
        return is_doubted(connection, told)


def enter_again(connection: Connection, nodes: RedisNodes) -> int:
    """Write those sidecars down again whom Redis knows and the ledger forgot; return how many.

    The caller holds the opening lock alone.
    """
    home: Any = nodes.home
    known = {str(id) for id in connection.scalars(_ALIVE)}
    forgotten = 0
    for id, sign in home.hgetall(keys.SIDECARS).items():
        beat, name = heartbeat(sign), id.decode(errors="replace")
        if beat is not None and name not in known:
            values = {"id": name, "name": beat.name[:200], "boot": beat.boot, "now": now_ms()}
            connection.execute(ENTER, values)
            forgotten += 1
    return forgotten


_ALIVE: Final = sa.text("SELECT id FROM sidecars WHERE state = 'alive'")
