"""Whether Redis, Postgres, workers and sidecars work together."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import Any, Final
from uuid import UUID

import msgspec
import redis
import sqlalchemy as sa
from sqlalchemy import Connection

from persistence.doctor.checks import Check, Verdict, warning_if, worst, wrong_if
from persistence.recovery import waiting_for
from persistence.sidecars import Heartbeat, SidecarRow, list_sidecars
from sidecar import keys

PART: Final = "service"

_SKEW_SECONDS: Final = 1.0
_BAD_SKEW_SECONDS: Final = 30.0
_SILENT_MS: Final = 15_000
_QUIET_SECONDS: Final = 15.0


def check_service(connection: Connection, client: redis.Redis) -> list[Check]:
    """Return what there is to say. Raises the errors of SQLAlchemy and redis-py."""
    return [
        _same_ledger(connection, client),
        _clocks(connection, client),
        _shards(connection),
        _workers(connection),
        _sidecars(connection, client),
    ]


def _same_ledger(connection: Connection, client: redis.Redis) -> Check:
    row = connection.execute(sa.text("SELECT ledger_id::text, shards FROM ledger")).one()
    meta: Any = client.hmget(keys.META, ["ledger", "shards"])
    ledger, shards = (None if part is None else part.decode() for part in meta)
    is_same = (ledger, shards) == (row.ledger_id, str(row.shards))
    found = f"Redis: {ledger or 'none yet'}, Postgres: {row.ledger_id}"
    found = row.ledger_id if is_same else found
    cost = "Credits of one ledger would be spent in the name of another; workers refuse that."
    fix = "Correct CREDITS_REDIS_URL or CREDITS_POSTGRES_URL: they must belong together."
    if ledger is None:
        cost = "No worker has opened this Redis, so nothing is decided."
        fix = "Start a worker: credit-sidecar worker"
    return Check(PART, "same ledger", wrong_if(not is_same), found, cost, fix)


def _clocks(connection: Connection, client: redis.Redis) -> Check:
    begun = time.time()
    seconds, micros = _time(client)
    postgres = connection.scalar(sa.text("SELECT extract(epoch FROM clock_timestamp())"))
    here = (begun + time.time()) / 2
    skews = {"Redis": seconds + micros / 1e6 - here, "Postgres": float(postgres or 0) - here}
    most = max(map(abs, skews.values()))
    return Check(
        PART, "clocks",
        worst(wrong_if(most > _BAD_SKEW_SECONDS), warning_if(most > _SKEW_SECONDS)),
        ", ".join(f"{name} {skew:+.2f} s" for name, skew in skews.items()) + " from this host",
        "Holds and grants expire early or late by that much.",
        "Let NTP set the clocks of all hosts: timedatectl set-ntp true",
    )  # fmt: skip


def _time(client: redis.Redis) -> tuple[int, int]:
    found: Any = client.time()
    return int(found[0]), int(found[1])


def _shards(connection: Connection) -> Check:
    states = {row.state: int(row.shards) for row in connection.execute(_STATES)}
    waited = waiting_for(connection)
    found = ", ".join(f"{count} {state}" for state, count in states.items())
    fix = "Start a worker, and see its log: credit-sidecar worker"
    if waited:
        names = ", ".join(f"{name}: {count} shards" for name, count in waited.items())
        found += f"; waiting for the journals of {names}"
        fix = "Start those sidecars on their disks, or if one is lost: credit-sidecar sidecars"
        fix += " declare-dead ID --reason TEXT"
    return Check(
        PART, "shards", wrong_if(set(states) != {"open"}), found,
        "Accounts of shards that are not open are answered 503.", fix,
    )  # fmt: skip


def _workers(connection: Connection) -> Check:
    row = connection.execute(_WORKERS).one()
    cost = "Without a worker no usage reaches the ledger, no account is loaded, nothing recovers."
    fix = "credit-sidecar worker"
    if not row.connections:
        return Check(PART, "workers", Verdict.WRONG, "none is connected", cost, fix)
    found = f"{row.connections} connections"
    if row.quiet is None:
        fix = "See that each worker's /readyz answers 200: another role's sessions are hidden here."
        return Check(PART, "workers", Verdict.UNKNOWN, found, cost, fix)
    found += f", last active {max(float(row.quiet), 0.0):.1f} s ago"
    is_quiet = float(row.quiet) > _QUIET_SECONDS
    fix = "A worker hangs: look at its log, and start it again."
    return Check(PART, "workers", wrong_if(is_quiet), found, cost, fix)


def _sidecars(connection: Connection, client: redis.Redis) -> Check:
    alive = [row for row in list_sidecars(connection) if row.state == "alive"]
    beats = _beats(client)
    now = int(time.time() * 1000)
    silent = [row for row in alive if now - _seen_ms(row, beats) > _SILENT_MS]
    known = {row.id for row in alive}
    fresh = {id for id, beat in beats.items() if now - beat.at_ms <= _SILENT_MS}
    unknown = [beats[id].name for id in fresh if id not in known]
    return Check(
        PART, "sidecars", warning_if(bool(silent or unknown or not alive)),
        _found(alive, silent, unknown),
        "A silent one is waited for when Redis is lost, and one that is not registered decides"
        " nothing.",
        "Start silent ones again; a worker registers new ones within a second. See: credit-sidecar"
        " sidecars",
    )  # fmt: skip


def _found(
    alive: Sequence[SidecarRow], silent: Sequence[SidecarRow], unknown: Sequence[str]
) -> str:
    found = f"{len(alive)} registered"
    if silent:
        found += f", silent: {', '.join(row.name for row in silent)}"
    if unknown:
        found += f", not registered: {', '.join(sorted(unknown))}"
    return found


def _seen_ms(row: SidecarRow, beats: Mapping[UUID, Heartbeat]) -> int:
    beat = beats.get(row.id)
    return max(row.seen_ms, beat.at_ms if beat is not None else 0)


def _beats(client: redis.Redis) -> dict[UUID, Heartbeat]:
    signs: Any = client.hgetall(keys.SIDECARS)
    beats = {}
    for id, sign in signs.items():
        try:
            beats[UUID(id.decode())] = msgspec.json.decode(sign, type=Heartbeat)
        except (ValueError, msgspec.MsgspecError):
            continue  # not ours
    return beats


_STATES: Final = sa.text(
    """
    SELECT CASE WHEN epoch = 0 THEN 'never opened'
        WHEN state = 'open' AND NOT is_fenced THEN 'not fenced' ELSE state END AS state,
        count(*) AS shards
    FROM shards GROUP BY 1 ORDER BY 1
    """
)

_WORKERS: Final = sa.text(
    """
    SELECT count(*) AS connections,
        extract(epoch FROM clock_timestamp() - max(state_change)) AS quiet
    FROM pg_stat_activity
    WHERE datname = current_database() AND application_name = 'credit-sidecar worker'
    """
)
