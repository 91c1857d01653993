"""Whether Postgres is set up to be a ledger."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

import sqlalchemy as sa
from sqlalchemy import Connection, Engine
from sqlalchemy.exc import DBAPIError

from persistence import schema
from persistence.database import timeline
from persistence.doctor.checks import Check, Verdict, warning_if, worst, wrong_if

PART: Final = "postgres"

_OLDEST: Final = 140_000
_WORKER_CONNECTIONS: Final = 32  # of one worker, at most
_FEW_CONNECTIONS: Final = 5
_SHORT_IDLE_MS: Final = 60_000
_ASKED: Final = {"statement_timeout": 30_000, "idle_in_transaction_session_timeout": 60_000}


@dataclass(frozen=True, slots=True)
class Rule:
    """A setting of Postgres, the values that will do, and what another one comes to."""

    setting: str
    good: tuple[str, ...]
    otherwise: Verdict
    cost: str
    fix: str

    def check(self, found: str) -> Check:
        """Return the check of a value."""
        verdict = Verdict.OK if found in self.good else self.otherwise
        return Check(PART, self.setting, verdict, found, self.cost, self.fix)


def _system(setting: str, value: str) -> str:
    return f"ALTER SYSTEM SET {setting} = {value}; SELECT pg_reload_conf();"


RULES: Final = (
    Rule(
        "fsync", ("on",), Verdict.WRONG,
        "A crash of the machine may damage the ledger beyond repair.",
        _system("fsync", "on"),
    ),
    Rule(
        "full_page_writes", ("on",), Verdict.WRONG,
        "A crash of the machine may leave pages of the ledger half written.",
        _system("full_page_writes", "on"),
    ),
    Rule(
        "synchronous_commit", ("on", "remote_apply", "remote_write", "local"), Verdict.WRONG,
        "A crash of Postgres loses commits that Stripe and callers were told of, so top-ups"
        " vanish, and shards of which Redis knows more are given up.",
        _system("synchronous_commit", "on"),
    ),
    Rule(
        "default_transaction_isolation", ("read committed",), Verdict.WARNING,
        "Workers get in each other's way, and repeat their transactions.",
        _system("default_transaction_isolation", "'read committed'"),
    ),
    Rule(
        "autovacuum", ("on",), Verdict.WRONG,
        "Tables that change all the time grow without end, and one day Postgres stops taking"
        " writes.",
        _system("autovacuum", "on"),
    ),
    Rule(
        "track_counts", ("on",), Verdict.WRONG,
        "Autovacuum does not see what there is to do.",
        _system("track_counts", "on"),
    ),
)  # fmt: skip


def check_postgres(engine: Engine) -> list[Check]:
    """Return what there is to say of the ledger's Postgres; one check if it does not answer."""
    try:
        with engine.connect() as connection:
            return _look(connection)
    except DBAPIError as error:
        found = str(error.orig).partition("\n")[0]
        cost = "Without Postgres decisions go on, until Redis is full of what waits for it."
        fix = "Start Postgres, or set CREDITS_POSTGRES_URL to where it is."
        return [Check(PART, "answers", Verdict.WRONG, found, cost, fix)]


def _look(connection: Connection) -> list[Check]:
    settings = {row.name: row.setting for row in connection.execute(_SETTINGS)}
    return [
        _version(settings),
        _role(connection, settings),
        *(rule.check(settings.get(rule.setting, "?")) for rule in RULES),
        _standbys(connection, settings),
        _connections(connection, settings),
        _timeouts(settings),
        _idle_timeout(settings),
        _schema(connection),
        _timeline(connection),
    ]


def _version(settings: Mapping[str, str]) -> Check:
    is_old = int(settings["server_version_num"]) < _OLDEST
    cost = "Nothing is tested with a version before 14, which has no more fixes either."
    fix = "Upgrade to Postgres 14 or newer."
    return Check(PART, "version", wrong_if(is_old), settings["server_version"], cost, fix)


def _role(connection: Connection, settings: Mapping[str, str]) -> Check:
    is_standby = bool(connection.scalar(sa.text("SELECT pg_is_in_recovery()")))
    is_read_only = settings["default_transaction_read_only"] == "on"
    found = "a standby" if is_standby else "read only" if is_read_only else "takes writes"
    return Check(
        PART, "role", wrong_if(is_standby or is_read_only), found,
        "Nothing reaches the ledger: no usage, no top-up, no recovery.",
        "Set CREDITS_POSTGRES_URL to the primary (target_session_attrs=read-write), and"
        " default_transaction_read_only = off.",
    )  # fmt: skip


def _standbys(connection: Connection, settings: Mapping[str, str]) -> Check:
    count = int(connection.scalar(sa.text("SELECT count(*) FROM pg_stat_replication")) or 0)
    names = settings["synchronous_standby_names"]
    return Check(
        PART, "standbys", warning_if(count > 0 and not names),
        f"{count} connected, synchronous: {names or 'none'}",
        "A fail-over to an asynchronous standby loses the last commits: top-ups that Stripe was"
        " told of.",
        _system("synchronous_standby_names", "'ANY 1 (*)'"),
    )  # fmt: skip


def _connections(connection: Connection, settings: Mapping[str, str]) -> Check:
    used = int(connection.scalar(_USED) or 0)
    most = int(settings["max_connections"])
    free = most - int(settings["superuser_reserved_connections"]) - used
    return Check(
        PART, "max_connections",
        worst(wrong_if(free < _FEW_CONNECTIONS), warning_if(free < _WORKER_CONNECTIONS)),
        f"{used} of {most} in use",
        f"A worker needs up to {_WORKER_CONNECTIONS}, and its jobs fail without.",
        "ALTER SYSTEM SET max_connections = 200; then restart Postgres (or put a pooler before"
        " other programs).",
    )  # fmt: skip


def _timeouts(settings: Mapping[str, str]) -> Check:
    found = {name: int(settings[name]) for name in _ASKED}
    statement, idle = found.values()
    return Check(
        PART, "time-outs", warning_if(found != _ASKED),
        f"statement {statement} ms, idle in transaction {idle} ms",
        "Something between drops what each connection asks for, so one that hangs may hold locks"
        " for ever.",
        "Let the pooler pass them: ignore_startup_parameters must not name `options`; or: ALTER"
        " ROLE ... SET idle_in_transaction_session_timeout = '60s'",
    )  # fmt: skip


def _idle_timeout(settings: Mapping[str, str]) -> Check:
    found = int(settings.get("idle_session_timeout", "0"))
    return Check(
        PART, "idle_session_timeout", warning_if(0 < found < _SHORT_IDLE_MS),
        f"{found} ms" if found else "never",
        "Postgres ends connections that a worker keeps, and it connects anew all the time.",
        _system("idle_session_timeout", "0"),
    )  # fmt: skip


def _schema(connection: Connection) -> Check:
    found, needed = schema.current(connection), schema.head()
    return Check(
        PART, "schema", wrong_if(found != needed), found or "none",
        f"This program needs revision {needed}, and no role starts on another one.",
        "credit-sidecar migrate (and the newest credit-sidecar, if the schema is newer)",
    )  # fmt: skip


def _timeline(connection: Connection) -> Check:
    found = timeline(connection)
    return Check(
        PART, "timeline", Verdict.OK if found else Verdict.UNKNOWN, found or "not told",
        "A fail-over or restore that loses commits is only noticed by what does not fit.",
        "GRANT EXECUTE ON FUNCTION pg_walfile_name(pg_lsn), pg_current_wal_insert_lsn() TO the"
        " role of CREDITS_POSTGRES_URL; if it is not to be had: `credit-sidecar rebuild` after"
        " each fail-over.",
    )  # fmt: skip


_SETTINGS: Final = sa.text("SELECT name, setting FROM pg_settings")
_USED: Final = sa.text("SELECT sum(numbackends) FROM pg_stat_database")
