"""`sidecars` and `rebuild` against a real ledger and Redis, with a sidecar driven by hand."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from typing import Any

import pytest
import redis
from click.testing import CliRunner, Result
from sqlalchemy import Engine

from persistence import sidecars
from persistence.errors import SidecarAlive
from sidecar import keys
from sidecar.cli import cli
from sidecar.commands.rebuild import NothingToRebuild
from sidecar.commands.sidecars import NoSuchSidecar
from sidecar.errors import StoreUnavailable
from tests.conftest import free_port
from tests.integration.ledger_world import World
from tests.integration.simulated_sidecar import SimulatedSidecar


@pytest.fixture(autouse=True)
def _settings(monkeypatch: pytest.MonkeyPatch, postgres_url: str, redis_url: str) -> None:
    monkeypatch.setenv("CREDITS_POSTGRES_URL", postgres_url)
    monkeypatch.setenv("CREDITS_REDIS_URL", redis_url)
    monkeypatch.setattr(sidecars, "_WATCH_SECONDS", 0.2)


@pytest.fixture
def world(engine: Engine, redis_client: redis.Redis) -> World:
    world = World(engine, redis_client)
    world.funded()
    return world


@pytest.fixture
def sidecar(world: World) -> SimulatedSidecar:
    return SimulatedSidecar(world).register()


@pytest.fixture
def vanished(world: World, sidecar: SimulatedSidecar) -> SimulatedSidecar:
    """A sidecar that was lost together with Redis: every shard waits for its journal."""
    world.client.flushall()
    world.opener.run_once()
    return sidecar


@pytest.fixture
def at_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sidecar.commands.asking.is_terminal", lambda: True)


@pytest.fixture
def working(world: World) -> Iterator[None]:
    """A worker that gives up, flushes, reopens and refills."""
    stopping = threading.Event()

    def work() -> None:
        while not stopping.is_set():
            world.opener.run_once()
            world.flusher.run_once()
            world.reopener.run_once()
            world.sender.run_once()
            stopping.wait(0.01)

    thread = threading.Thread(target=work)
    thread.start()
    yield
    stopping.set()
    thread.join()


def run(*arguments: str, answer: str = "") -> Result:
    result = CliRunner().invoke(cli, arguments, input=answer)
    if result.exception and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result


def read(*arguments: str) -> Any:
    return json.loads(run(*arguments, "--json").stdout)


def states(world: World) -> list[str]:
    return world.sql("SELECT DISTINCT state FROM shards")


# sidecars -------------------------------------------------------------------------------------


def test_sidecars_are_listed_with_the_shards_that_wait_for_them(
    vanished: SimulatedSidecar,
) -> None:
    (row,) = read("sidecars")
    assert (row["id"], row["name"], row["state"]) == (str(vanished.id), "one", "alive")
    assert (row["boot"], row["shards_waiting"]) == (vanished.boot, keys.SHARDS)
    text = run("sidecars").stdout
    assert "one" in text
    assert "alive" in text
    assert "ago" in text


def test_sidecars_that_are_gone_are_listed_when_asked_for(
    world: World, sidecar: SimulatedSidecar
) -> None:
    sidecar.beat("leaving")
    world.registry.run_once()
    assert read("sidecars") == []
    assert run("sidecars").stdout.endswith("No sidecar is registered.\n")
    (row,) = read("sidecars", "--all")
    assert (row["state"], row["reason"]) == ("gone", "said goodbye")
    assert row["ended_ms"] is not None


def test_a_dead_sidecar_is_waited_for_no_more_and_the_cost_is_said_first(
    world: World, vanished: SimulatedSidecar
) -> None:
    result = run("sidecars", "declare-dead", "one", "--reason", "its disk is lost", "--yes")
    assert result.exit_code == 0
    assert f"{keys.SHARDS} shards waiting for its journal" in result.stderr
    assert "is lost, or comes late" in result.stderr
    assert f"{keys.SHARDS} shards opened by that" in result.stdout
    assert states(world) == ["open"]
    (row,) = read("sidecars")
    assert (row["state"], row["reason"]) == ("dead", "its disk is lost")


def test_who_is_still_waited_for_is_said(world: World, sidecar: SimulatedSidecar) -> None:
    other = SimulatedSidecar(world, "two").register()
    world.client.flushall()
    world.opener.run_once()
    answer = ("sidecars", "declare-dead", str(sidecar.id), "--reason", "gone", "--yes")
    assert read(*answer) == {
        "id": str(sidecar.id),
        "name": "one",
        "opened": 0,
        "waiting_for": {f"two ({other.id})": keys.SHARDS},
    }
    assert states(world) == ["draining"]


def test_a_name_that_two_have_is_refused_and_the_id_accepted(
    world: World, sidecar: SimulatedSidecar
) -> None:
    SimulatedSidecar(world).register()
    with pytest.raises(NoSuchSidecar, match=str(sidecar.id)):
        run("sidecars", "declare-dead", "one", "--reason", "x", "--yes")
    run("sidecars", "declare-dead", str(sidecar.id), "--reason", "x", "--yes")
    assert sidecar.state == "dead"


@pytest.mark.parametrize("name", ["two", "00000000-0000-4000-8000-000000000000"])
def test_a_sidecar_that_nobody_knows_is_refused(sidecar: SimulatedSidecar, name: str) -> None:
    with pytest.raises(NoSuchSidecar, match=name):
        run("sidecars", "declare-dead", name, "--reason", "x", "--yes")
    assert sidecar.state == "alive"


def test_a_sidecar_that_gives_signs_of_life_is_not_declared_dead_unless_forced(
    world: World, sidecar: SimulatedSidecar
) -> None:
    stopping = threading.Event()

    def live() -> None:
        while not stopping.wait(0.02):
            sidecar.beat()

    thread = threading.Thread(target=live)
    thread.start()
    try:
        with pytest.raises(SidecarAlive, match="stop it, or give --force"):
            run("sidecars", "declare-dead", "one", "--reason", "x", "--yes")
        assert sidecar.state == "alive"
        run("sidecars", "declare-dead", "one", "--reason", "x", "--yes", "--force")
    finally:
        stopping.set()
        thread.join()
    assert sidecar.state == "dead"


def test_without_redis_a_sidecar_is_only_declared_dead_by_force(
    monkeypatch: pytest.MonkeyPatch, world: World, vanished: SimulatedSidecar
) -> None:
    monkeypatch.setenv("CREDITS_REDIS_URL", f"redis://127.0.0.1:{free_port()}/0")
    with pytest.raises(StoreUnavailable, match="give --force"):
        run("sidecars", "declare-dead", "one", "--reason", "x", "--yes")
    assert vanished.state == "alive"
    run("sidecars", "declare-dead", "one", "--reason", "x", "--yes", "--force")
    assert (vanished.state, states(world)) == ("dead", ["open"])


@pytest.mark.usefixtures("at_a_terminal")
def test_a_person_is_asked_and_may_say_no(world: World, vanished: SimulatedSidecar) -> None:
    arguments = ("sidecars", "declare-dead", "one", "--reason", "x")
    refused = run(*arguments, answer="n\n")
    assert (refused.exit_code, vanished.state) == (1, "alive")
    assert "Declare one dead?" in refused.stderr
    assert run(*arguments, answer="y\n").exit_code == 0
    assert vanished.state == "dead"


@pytest.mark.parametrize(
    "arguments", [("sidecars", "declare-dead", "one", "--reason", "x"), ("rebuild",)]
)
def test_a_program_that_cannot_be_asked_must_say_yes(
    world: World, sidecar: SimulatedSidecar, arguments: tuple[str, ...]
) -> None:
    refused = run(*arguments)
    assert (refused.exit_code, "give --yes" in refused.output) == (2, True)
    assert (sidecar.state, states(world)) == ("alive", ["open"])


# rebuild --------------------------------------------------------------------------------------


@pytest.mark.usefixtures("working")
def test_a_rebuild_lends_everything_again(world: World) -> None:
    world.put("acme").redis.hincrby(world.account().keys[0], "available", 5)
    found = read("rebuild", "--yes")
    assert (found["done"], found["open"], found["accounts"]) == (True, keys.SHARDS, 0)
    assert world.sql("SELECT DISTINCT epoch FROM shards") == [2]
    assert world.generation().gen == 2
    text = run("rebuild", "--yes")
    assert (text.exit_code, "Rebuilt 64 shards" in text.stdout) == (0, True)
    assert "given up, and lent again from the ledger" in text.stderr
    world.assert_sound()


@pytest.mark.usefixtures("working")
def test_a_rebuild_of_some_shards_leaves_the_others(world: World) -> None:
    found = read("rebuild", "--shard", "7", "--shard", "12", "--yes")
    assert (found["done"], found["open"]) == (True, 2)
    assert world.sql("SELECT shard FROM shards WHERE epoch = 2 ORDER BY shard") == [7, 12]


@pytest.mark.usefixtures("working")
def test_a_rebuild_says_for_whose_journal_it_waits(sidecar: SimulatedSidecar) -> None:
    result = run("rebuild", "--yes", "--wait", "2")
    assert result.exit_code == 1
    assert f"64 shards waiting for the journals of one ({sidecar.id})" in result.stdout


def test_a_rebuild_without_a_worker_says_that_it_needs_one(world: World) -> None:
    result = run("rebuild", "--yes", "--wait", "0", "--json")
    found = json.loads(result.stdout)
    assert (result.exit_code, found["done"], found["suspect"]) == (1, False, keys.SHARDS)
    text = run("rebuild", "--yes", "--wait", "0").stdout
    assert "64 shards to be given up by a worker" in text


@pytest.mark.usefixtures("at_a_terminal")
def test_a_rebuild_asks_a_person_first(world: World) -> None:
    assert run("rebuild", answer="n\n").exit_code == 1
    assert states(world) == ["open"]


def test_shards_that_are_not_there_are_refused(world: World) -> None:
    with pytest.raises(NothingToRebuild, match="no shard 64, 99"):
        run("rebuild", "--shard", "99", "--shard", "64", "--shard", "3", "--yes")
    assert states(world) == ["open"]


def test_a_ledger_that_no_worker_has_opened_has_nothing_to_rebuild(engine: Engine) -> None:
    with pytest.raises(NothingToRebuild, match="No worker has opened"):
        run("rebuild", "--yes")
