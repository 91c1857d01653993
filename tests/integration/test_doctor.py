"""`credit-sidecar doctor`: what runs together, this host's journal, and the command itself."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import redis
from click.testing import CliRunner, Result
from sqlalchemy import Engine

from persistence.database import make_engine
from persistence.doctor import service_checks
from persistence.doctor.checks import Check, Verdict
from persistence.doctor.service_checks import check_service
from sidecar import keys
from sidecar.cli import cli
from sidecar.commands import doctor
from sidecar.commands.host_checks import check_journal, filesystem_of
from sidecar.settings import Settings
from tests.conftest import free_port
from tests.integration.ledger_world import World
from tests.integration.simulated_sidecar import SimulatedSidecar
from tests.integration.test_doctor_stores import by_name, verdicts

# What runs together ---------------------------------------------------------------------------


@pytest.fixture
def world(engine: Engine, redis_client: redis.Redis) -> World:
    world = World(engine, redis_client)
    world.funded()
    return world


@pytest.fixture
def sidecar(world: World) -> SimulatedSidecar:
    return SimulatedSidecar(world).register()


@pytest.fixture
def worker(postgres_url: str) -> Iterator[Engine]:
    """As much of a worker as Postgres sees: a connection that does something."""
    engine = make_engine(postgres_url, application_name="credit-sidecar worker")
    with engine.connect():
        yield engine
    engine.dispose()


def service(world: World) -> list[Check]:
    with world.engine.connect() as connection:
        return check_service(connection, world.client)


@pytest.mark.usefixtures("worker", "sidecar")
def test_what_works_together_is_ok(world: World) -> None:
    checks = service(world)
    assert verdicts(checks) == {}
    assert by_name(checks)["shards"].found == "64 open"
    assert by_name(checks)["sidecars"].found == "1 registered"


def test_a_ledger_without_workers_and_sidecars_is_said_so(world: World) -> None:
    assert verdicts(service(world)) == {"workers": "wrong", "sidecars": "warning"}


@pytest.mark.usefixtures("sidecar")
@pytest.mark.parametrize(("ledger", "found"), [("another", "Redis: another"), (None, "none yet")])
def test_a_redis_of_another_ledger_is_wrong(
    world: World, worker: Engine, ledger: str | None, found: str
) -> None:
    if ledger is None:
        world.client.delete(keys.META)
    else:
        world.client.hset(keys.META, "ledger", ledger)
    checks = service(world)
    assert verdicts(checks) == {"same ledger": "wrong"}
    assert found in by_name(checks)["same ledger"].found


@pytest.mark.usefixtures("worker", "sidecar")
@pytest.mark.parametrize(("skew", "verdict"), [(5, "warning"), (-5, "warning"), (60, "wrong")])
def test_clocks_that_differ_are_found(
    world: World, monkeypatch: pytest.MonkeyPatch, skew: int, verdict: str
) -> None:
    seconds, micros = world.client.time()
    monkeypatch.setattr(service_checks, "_time", lambda _: (seconds + skew, micros))
    assert verdicts(service(world)) == {"clocks": verdict}


@pytest.mark.usefixtures("worker")
def test_shards_that_wait_for_a_journal_name_the_sidecar(
    world: World, sidecar: SimulatedSidecar
) -> None:
    world.client.flushall()
    world.opener.run_once()
    sidecar.beat()
    checks = service(world)
    assert verdicts(checks) == {"shards": "wrong"}
    shards = by_name(checks)["shards"]
    assert f"64 draining; waiting for the journals of one ({sidecar.id})" in shards.found
    assert "declare-dead" in shards.fix


@pytest.mark.usefixtures("worker", "sidecar")
@pytest.mark.parametrize(
    ("change", "state"), [("is_fenced = false", "not fenced"), ("epoch = 0", "never opened")]
)
def test_shards_that_nobody_may_decide_for_are_wrong(world: World, change: str, state: str) -> None:
    world.sql(f"UPDATE shards SET {change} WHERE shard = 3 RETURNING 1")
    checks = service(world)
    assert verdicts(checks) == {"shards": "wrong"}
    assert f"1 {state}" in by_name(checks)["shards"].found


@pytest.mark.usefixtures("sidecar")
def test_a_worker_that_hangs_is_wrong(
    world: World, worker: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(service_checks, "_QUIET_SECONDS", -1.0)
    assert verdicts(service(world)) == {"workers": "wrong"}


@pytest.mark.usefixtures("worker")
def test_a_silent_sidecar_and_one_that_is_not_registered_are_named(
    world: World, sidecar: SimulatedSidecar
) -> None:
    world.client.hdel(keys.SIDECARS, str(sidecar.id))
    world.sql("UPDATE sidecars SET seen_ms = 1 RETURNING 1")
    SimulatedSidecar(world, "two").beat()
    world.client.hset(keys.SIDECARS, "not an id", "not a sign")
    checks = service(world)
    assert verdicts(checks) == {"sidecars": "warning"}
    found = by_name(checks)["sidecars"].found
    assert found == "1 registered, silent: one, not registered: two"


# This host ------------------------------------------------------------------------------------


def settings(directory: Path, **more: str) -> Settings:
    return Settings.from_environment({"CREDITS_JOURNAL_DIR": str(directory), **more})


@pytest.fixture
def disk(tmp_path: Path) -> Path:
    """A list of mounts in which the test's directory is on a disk."""
    mounts = tmp_path / "mounts"
    mounts.write_text(f"none / overlay rw 0 0\n/dev/sda1 {tmp_path} ext4 rw 0 0\n")
    return mounts


def test_a_journal_on_a_disk_is_ok(tmp_path: Path, disk: Path) -> None:
    checks = check_journal(settings(tmp_path), disk)
    assert verdicts(checks) == {}
    assert by_name(checks)["filesystem"].found == "ext4"


def test_a_journal_that_is_not_on_this_host_is_unknown(tmp_path: Path) -> None:
    checks = check_journal(settings(tmp_path / "nowhere"))
    assert verdicts(checks) == {"directory": "unknown"}


@pytest.mark.parametrize(
    ("kind", "cost"),
    [("tmpfs", "a restart of this host"), ("overlay", "the end of the container")],
)
def test_a_journal_that_is_lost_with_its_host_is_a_warning(
    tmp_path: Path, kind: str, cost: str
) -> None:
    mounts = tmp_path / "mounts"
    mounts.write_text(f"none {tmp_path} {kind} rw 0 0\n")
    checks = check_journal(settings(tmp_path), mounts)
    assert verdicts(checks) == {"filesystem": "warning"}
    assert cost in by_name(checks)["filesystem"].cost


def test_a_host_that_does_not_tell_its_mounts_leaves_it_unknown(tmp_path: Path) -> None:
    checks = check_journal(settings(tmp_path), tmp_path / "nowhere")
    assert verdicts(checks) == {"filesystem": "unknown"}


def test_the_nearest_mount_counts_and_names_may_have_spaces(tmp_path: Path) -> None:
    place = tmp_path / "a b" / "journal"
    place.mkdir(parents=True)
    mounts = tmp_path / "mounts"
    point = str(tmp_path / "a b").replace(" ", "\\040")
    mounts.write_text(f"none / tmpfs rw 0 0\nnone {point} xfs rw 0 0\n")
    assert filesystem_of(place, mounts) == "xfs"


def test_a_disk_without_room_for_the_journal_is_found(
    tmp_path: Path, disk: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    Path(tmp_path, "one").write_bytes(b"x" * 2**20)
    for free_mb, verdict in ((100, "warning"), (10, "wrong")):
        usage = type("usage", (), {"free": free_mb * 2**20})
        monkeypatch.setattr(shutil, "disk_usage", lambda _, u=usage: u)
        assert verdicts(check_journal(settings(tmp_path), disk)) == {"space": verdict}
    smaller = settings(tmp_path, CREDITS_JOURNAL_MAX_MB="100")
    monkeypatch.setattr(shutil, "disk_usage", lambda _: type("usage", (), {"free": 99 * 2**20}))
    assert verdicts(check_journal(smaller, disk)) == {}


def test_a_journal_that_cannot_be_written_is_wrong(
    tmp_path: Path, disk: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "access", lambda *_: False)
    assert verdicts(check_journal(settings(tmp_path), disk)) == {"directory": "wrong"}
    monkeypatch.setattr(os, "geteuid", lambda: 12345)
    checks = check_journal(settings(tmp_path), disk)
    assert verdicts(checks) == {"directory": "unknown"}
    assert "another user's" in by_name(checks)["directory"].found


def test_a_journal_that_is_never_synchronised_is_a_warning(tmp_path: Path, disk: Path) -> None:
    checks = check_journal(settings(tmp_path, CREDITS_JOURNAL_FSYNC="none"), disk)
    assert verdicts(checks) == {"fsync": "warning"}


# The command ----------------------------------------------------------------------------------


@pytest.fixture
def stores(monkeypatch: pytest.MonkeyPatch, postgres_url: str, redis_url: str) -> None:
    monkeypatch.setenv("CREDITS_POSTGRES_URL", postgres_url)
    monkeypatch.setenv("CREDITS_REDIS_URL", redis_url)


def run(*arguments: str) -> Result:
    return CliRunner().invoke(cli, ["doctor", *arguments])


@pytest.mark.usefixtures("stores", "sidecar", "worker")
def test_the_doctor_shows_every_check_and_what_helps(world: World) -> None:
    result = run()
    assert result.exit_code == 1  # the Postgres of the tests does not wait for its disk
    assert "✗   postgres   fsync" in result.output
    assert "damage the ledger beyond repair" in result.output
    assert "Fix: ALTER SYSTEM SET fsync = on; SELECT pg_reload_conf();" in result.output
    assert "✓   redis      role" in result.output
    found = json.loads(run("--json").output)
    assert (found["ok"], found["wrong"]) == (False, 3)
    assert {check["part"] for check in found["checks"]} == {
        "redis", "postgres", "service", "journal",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("verdict", "statuses", "word"),
    [
        (Verdict.OK, (0, 0), "Everything is as it should be."),
        (Verdict.UNKNOWN, (0, 0), "1 unknown."),
        (Verdict.WARNING, (0, 1), "1 warning."),
        (Verdict.WRONG, (1, 1), "1 wrong."),
    ],
)
def test_the_exit_status_says_what_was_found(
    monkeypatch: pytest.MonkeyPatch, verdict: Verdict, statuses: tuple[int, int], word: str
) -> None:
    monkeypatch.setenv("CREDITS_POSTGRES_URL", "postgresql://nowhere/credits")
    check = Check("redis", "[odd]", verdict, "found", "It costs.", "Mend it.")
    monkeypatch.setattr(doctor, "examine", lambda _: [check])
    assert (run().exit_code, run("--strict").exit_code) == statuses
    assert run().output.endswith(f"{word}\n")


@pytest.mark.usefixtures("stores")
def test_the_doctor_looks_on_when_a_store_is_away(
    monkeypatch: pytest.MonkeyPatch, redis_url: str
) -> None:
    away: Any = f"postgresql://postgres@127.0.0.1:{free_port()}/credits"
    monkeypatch.setenv("CREDITS_POSTGRES_URL", away)
    result = json.loads(run("--json").output)
    found = {(check["part"], check["name"]): check for check in result["checks"]}
    assert found["postgres", "answers"]["verdict"] == "wrong"
    assert found["redis", "role"]["verdict"] == "ok"
    assert found["service", "roles"]["found"] == "not looked at: postgres answers"
    monkeypatch.setenv("CREDITS_REDIS_URL", f"redis://127.0.0.1:{free_port()}/0")
    result = json.loads(run("--json").output)
    assert result["wrong"] == 2


def test_the_doctor_needs_no_schema(
    monkeypatch: pytest.MonkeyPatch, redis_url: str, empty_postgres_url: str
) -> None:
    monkeypatch.setenv("CREDITS_POSTGRES_URL", empty_postgres_url)
    monkeypatch.setenv("CREDITS_REDIS_URL", redis_url)
    result = run()
    assert result.exit_code == 1
    assert "Fix: credit-sidecar migrate" in result.output
    assert "not looked at: postgres schema" in result.output
