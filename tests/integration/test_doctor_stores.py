"""The doctor's checks of Redis and of Postgres: each finds what is wrong, and nothing else."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest
import redis
import sqlalchemy as sa
from psycopg import sql
from sqlalchemy import Engine
from sqlalchemy.engine import make_url

from persistence import database
from persistence.database import make_engine
from persistence.doctor import postgres_checks, redis_checks
from persistence.doctor.checks import Check
from persistence.doctor.postgres_checks import RULES, check_postgres
from persistence.doctor.redis_checks import Limits, Node, check_nodes, check_redis
from sidecar.dev.embedded import RedisServer
from sidecar.nodes import RedisNodes
from tests.conftest import free_port
from tests.integration.meter_server import eventually

LIMITS = Limits(alarm_percent=60, refuse_percent=85, timeout_ms=250)


def by_name(checks: list[Check]) -> dict[str, Check]:
    """Return checks by name; each says what it costs and what helps."""
    assert all(check.found and check.cost and check.fix for check in checks)
    assert all(check.cost.endswith(".") for check in checks)
    return {check.name: check for check in checks}


def verdicts(checks: list[Check]) -> dict[str, str]:
    """Return what is not ok."""
    found = by_name(checks)
    return {name: check.verdict.value for name, check in found.items() if check.verdict != "ok"}


# Redis ----------------------------------------------------------------------------------------


@pytest.fixture
def server(tmp_path: Path) -> Iterator[RedisServer]:
    server = RedisServer(tmp_path / "redis", port=free_port(), options=["maxmemory", "1gb"])
    server.start()
    yield server
    server.stop()


@pytest.fixture
def client(server: RedisServer) -> Iterator[Any]:
    with redis.Redis.from_url(server.url) as client:
        yield client


def test_a_redis_as_it_should_be_has_nothing_wrong(client: redis.Redis) -> None:
    checks = check_redis(client, LIMITS)
    assert verdicts(checks) == {}
    assert by_name(checks)["maxmemory"].found == "1,024 MB"


@pytest.mark.parametrize(
    ("setting", "value", "found"),
    [
        ("appendonly", "no", {"appendonly": "wrong"}),
        ("appendfsync", "no", {"appendfsync": "warning"}),
        ("appendfsync", "always", {"appendfsync": "warning"}),
        ("maxmemory", "0", {"maxmemory": "warning"}),
        ("maxmemory", "500kb", {"memory": "wrong"}),
        ("maxmemory-policy", "allkeys-lru", {"maxmemory-policy": "wrong"}),
        ("min-replicas-to-write", "1", {"replicas": "wrong"}),
        ("timeout", "300", {"idle timeout": "warning"}),
        ("client-output-buffer-limit", "normal 1048576 0 0", {"output buffer": "warning"}),
    ],
)
def test_a_setting_of_redis_that_costs_something_is_found(
    client: redis.Redis, setting: str, value: str, found: dict[str, str]
) -> None:
    client.config_set(setting, value)
    assert verdicts(check_redis(client, LIMITS)) == found


def test_a_redis_that_fills_up_is_a_warning_before_it_is_wrong(client: Any) -> None:
    used = client.info("memory")["used_memory"]
    client.config_set("maxmemory", int(used / 0.7))
    assert verdicts(check_redis(client, LIMITS)) == {"memory": "warning"}


def test_a_replica_is_wrong(client: redis.Redis) -> None:
    client.replicaof("127.0.0.1", str(free_port()))
    assert verdicts(check_redis(client, LIMITS))["role"] == "wrong"


@pytest.mark.parametrize(("save", "verdict"), [("", "warning"), ("3600 1", "wrong")])
def test_snapshots_that_fail_stop_redis_only_when_it_makes_them_by_itself(
    client: Any, tmp_path: Path, save: str, verdict: str
) -> None:
    client.config_set("save", save)
    # No file can be put where a directory is.
    Path(tmp_path, "redis", "dump.rdb").mkdir()
    client.set("a", "b")
    client.bgsave()
    eventually(lambda: client.info("persistence")["rdb_last_bgsave_status"] == "err")
    assert verdicts(check_redis(client, LIMITS)) == {"snapshots": verdict}


def test_what_a_managed_redis_does_not_tell_is_unknown(client: Any, server: RedisServer) -> None:
    client.execute_command("ACL", "SETUSER", "renter", "on", ">pw", "~*", "+@all", "-config")
    url = server.tcp_url.replace("redis://", "redis://renter:pw@")
    with redis.Redis.from_url(url) as renter:
        checks = check_redis(renter, LIMITS)
    untold = {"appendfsync", "replicas", "idle timeout", "output buffer"}
    assert verdicts(checks) == dict.fromkeys(untold, "unknown")
    assert "`appendfsync` in your provider's console" in by_name(checks)["appendfsync"].fix


def test_a_redis_that_is_away_is_one_check() -> None:
    with redis.Redis.from_url(f"redis://127.0.0.1:{free_port()}/0") as client:
        assert verdicts(check_redis(client, LIMITS)) == {"answers": "wrong"}


def test_each_of_several_nodes_is_checked_and_named(
    client: redis.Redis, server: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    port = free_port()
    nodes = RedisNodes.over(client)
    with (
        redis.Redis.from_url(server.tcp_url) as first,
        redis.Redis.from_url(f"redis://127.0.0.1:{port}/0") as second,
    ):
        monkeypatch.setattr(nodes, "all", lambda: [first, second])
        wrong = [check for check in check_nodes(nodes, LIMITS) if check.verdict != "ok"]
    assert [(check.part, check.name) for check in wrong] == [(f"redis 127.0.0.1:{port}", "answers")]


def test_nodes_that_nobody_knows_are_one_check() -> None:
    nodes = RedisNodes.of_url(f"redis+cluster://127.0.0.1:{free_port()}", timeout_s=1)
    assert verdicts(check_nodes(nodes, LIMITS)) == {"answers": "wrong"}
    nodes.close()


@pytest.mark.parametrize(
    ("check", "changes", "verdict"),
    [
        (redis_checks._version, {"redis_version": "6.2.14"}, "wrong"),
        (redis_checks._version, {"redis_version": "7.0.0"}, "ok"),
        (redis_checks._version, {"redis_version": "10.1"}, "ok"),
        (redis_checks._append_writes, {"aof_last_write_status": "err"}, "wrong"),
        (redis_checks._append_writes, {"aof_last_bgrewrite_status": "err"}, "warning"),
    ],
)
def test_what_redis_says_of_itself_is_judged(
    check: Callable[[Node], Check], changes: dict[str, str], verdict: str
) -> None:
    assert check(Node(changes, {}, 0.1)).verdict == verdict


@pytest.mark.parametrize(("call_ms", "verdict"), [(0.5, "ok"), (20, "warning"), (250, "wrong")])
def test_a_redis_that_is_slow_is_found(call_ms: float, verdict: str) -> None:
    assert redis_checks._latency(Node({}, {}, call_ms), LIMITS).verdict == verdict


# Postgres -------------------------------------------------------------------------------------

# The Postgres of the tests does not wait for its disk.
_NOT_DURABLE = {"fsync", "full_page_writes", "synchronous_commit"}


@pytest.fixture
def change(engine: Engine, postgres_url: str) -> Callable[[str, str], list[Check]]:
    """Change a setting of the test's database and return the checks."""

    def changed(setting: str, value: str) -> list[Check]:
        name = sql.Identifier(str(make_url(postgres_url).database))
        with psycopg.connect(postgres_url, autocommit=True) as connection:
            statement = sql.SQL("ALTER DATABASE {} SET {} = {}")
            connection.execute(statement.format(name, sql.Identifier(setting), sql.Literal(value)))
        return check_postgres(engine)

    return changed


def wrong_settings(checks: list[Check]) -> dict[str, str]:
    """Return what is not ok, beyond what is so in every test."""
    found = verdicts(checks)
    return {name: found[name] for name in found if name not in _NOT_DURABLE}


def test_a_postgres_that_does_not_wait_for_its_disk_is_wrong(engine: Engine) -> None:
    assert verdicts(check_postgres(engine)) == dict.fromkeys(_NOT_DURABLE, "wrong")


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.setting)
def test_each_setting_of_postgres_has_values_that_will_do(rule: postgres_checks.Rule) -> None:
    assert [rule.check(value).verdict for value in rule.good] == ["ok"] * len(rule.good)
    assert rule.check("other").verdict == rule.otherwise


def test_a_database_that_waits_for_its_commits_is_ok(
    change: Callable[[str, str], list[Check]],
) -> None:
    assert "synchronous_commit" not in verdicts(change("synchronous_commit", "local"))


@pytest.mark.parametrize(
    ("setting", "value", "found"),
    [
        ("default_transaction_isolation", "serializable", "default_transaction_isolation"),
        ("idle_session_timeout", "10s", "idle_session_timeout"),
    ],
)
def test_a_setting_of_postgres_that_costs_something_is_a_warning(
    change: Callable[[str, str], list[Check]], setting: str, value: str, found: str
) -> None:
    assert wrong_settings(change(setting, value)) == {found: "warning"}


def test_a_database_that_takes_no_writes_is_wrong(
    change: Callable[[str, str], list[Check]],
) -> None:
    checks = change("default_transaction_read_only", "on")
    assert wrong_settings(checks) == {"role": "wrong"}
    assert by_name(checks)["role"].found == "read only"


def test_a_pooler_that_drops_what_connections_ask_for_is_found(postgres_url: str) -> None:
    plain = sa.create_engine(make_url(postgres_url).set(drivername="postgresql+psycopg"))
    try:
        assert wrong_settings(check_postgres(plain)) == {"time-outs": "warning"}
    finally:
        plain.dispose()


@pytest.mark.parametrize(
    ("limit", "verdict"), [("_WORKER_CONNECTIONS", "warning"), ("_FEW_CONNECTIONS", "wrong")]
)
def test_too_few_connections_are_found(
    engine: Engine, monkeypatch: pytest.MonkeyPatch, limit: str, verdict: str
) -> None:
    monkeypatch.setattr(postgres_checks, limit, 1_000)
    assert wrong_settings(check_postgres(engine)) == {"max_connections": verdict}


def test_a_schema_that_is_not_there_is_wrong(empty_postgres_url: str) -> None:
    engine = make_engine(empty_postgres_url)
    try:
        checks = check_postgres(engine)
    finally:
        engine.dispose()
    assert wrong_settings(checks) == {"schema": "wrong"}
    assert by_name(checks)["schema"].fix.startswith("credit-sidecar migrate")


def test_a_standby_that_commits_do_not_wait_for_is_a_warning(
    engine: Engine, postgres_url: str
) -> None:
    with psycopg.connect(postgres_url, autocommit=True, replication="true"):
        assert wrong_settings(check_postgres(engine)) == {"standbys": "warning"}


def test_a_timeline_that_is_not_told_is_unknown(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(database, "_TIMELINE", sa.text("SELECT no_such_function()"))
    assert wrong_settings(check_postgres(engine)) == {"timeline": "unknown"}


def test_a_postgres_that_is_away_is_one_check() -> None:
    engine = make_engine(f"postgresql://postgres@127.0.0.1:{free_port()}/credits")
    try:
        assert verdicts(check_postgres(engine)) == {"answers": "wrong"}
    finally:
        engine.dispose()
