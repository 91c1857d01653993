"""Sidecars: registered before they acknowledge, let go when all of theirs is in the ledger."""

from __future__ import annotations

import pytest
import redis
from sqlalchemy import Engine

from persistence import sidecars
from persistence.errors import SidecarAlive, SidecarUnknown
from persistence.registry import Registry
from persistence.sidecars import declare_dead, list_sidecars
from sidecar import keys
from tests.integration.ledger_world import World
from tests.integration.simulated_sidecar import SimulatedSidecar


@pytest.fixture
def world(engine: Engine, redis_client: redis.Redis) -> World:
    world = World(engine, redis_client)
    world.opener.open_shards()
    return world


@pytest.fixture
def sidecar(world: World) -> SimulatedSidecar:
    return SimulatedSidecar(world).register()


@pytest.fixture
def is_impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sidecars, "_WATCH_SECONDS", 0.2)


def pass_seconds(world: World, seconds: float) -> int:
    """Let the worker's clock go on, and let it look."""
    world.seconds += seconds
    return world.registry.run_once()


def test_a_sidecar_is_in_the_ledger_before_it_is_confirmed(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    sidecar = SimulatedSidecar(world)
    sidecar.beat()

    def die(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(Registry, "_confirm", die)
        with pytest.raises(KeyboardInterrupt):
            world.registry.run_once()
    assert (sidecar.state, sidecar.is_confirmed()) == ("alive", False)
    world.registry.run_once()
    assert sidecar.is_confirmed()


def test_a_sidecar_that_starts_again_is_confirmed_by_its_new_boot(
    world: World, sidecar: SimulatedSidecar
) -> None:
    sidecar.restart()
    assert not sidecar.is_confirmed()
    sidecar.register()
    assert world.sql("SELECT boot, state FROM sidecars") == [(sidecar.boot, "alive")]


def test_a_confirmation_that_redis_lost_is_given_again(
    world: World, sidecar: SimulatedSidecar
) -> None:
    world.client.flushall()
    sidecar.register()
    assert sidecar.state == "alive"


def test_a_confirmation_of_one_that_the_ledger_let_go_is_taken_back(
    world: World, sidecar: SimulatedSidecar
) -> None:
    world.sql("UPDATE sidecars SET state = 'gone' RETURNING 1")
    world.registry.run_once()
    assert not sidecar.is_confirmed()
    # It lives: its next sign registers it anew.
    sidecar.register()
    assert (sidecar.state, sidecar.is_confirmed()) == ("alive", True)


def test_one_that_says_goodbye_is_gone_at_once(world: World, sidecar: SimulatedSidecar) -> None:
    sidecar.beat("leaving")
    world.registry.run_once()
    assert (sidecar.state, sidecar.is_confirmed()) == ("gone", False)
    assert world.client.hlen(keys.SIDECARS) == 0


def test_one_that_says_goodbye_during_a_drain_is_waited_for_no_more(
    world: World, sidecar: SimulatedSidecar
) -> None:
    world.funded()
    world.client.flushall()
    world.opener.run_once()
    sidecar.beat("leaving")
    world.registry.run_once()
    assert world.sql("SELECT DISTINCT state FROM shards") == ["open"]
    world.opener.run_once()
    assert world.client.hget(keys.fence(0), "draining") == b"0"


def test_the_goodbye_of_an_earlier_boot_counts_for_nothing(
    world: World, sidecar: SimulatedSidecar
) -> None:
    sidecar.beat("leaving")
    farewell = world.client.hget(keys.SIDECARS, str(sidecar.id))
    sidecar.restart()
    sidecar.register()
    world.client.hset(keys.SIDECARS, str(sidecar.id), farewell)
    world.registry.run_once()
    assert sidecar.state == "alive"


def test_one_that_vanished_is_gone_when_all_is_flushed(
    world: World, sidecar: SimulatedSidecar
) -> None:
    account = world.funded()
    account.debit("d1", 10)
    pass_seconds(world, 0)
    assert pass_seconds(world, 14) == 0
    pass_seconds(world, 2)
    assert sidecar.state == "alive"
    world.flush()
    pass_seconds(world, 0)
    assert (sidecar.state, sidecar.is_confirmed()) == ("gone", False)
    assert world.client.hlen(keys.SIDECARS) == 0


def test_one_that_vanished_is_let_go_although_others_go_on(
    world: World, sidecar: SimulatedSidecar
) -> None:
    account = world.funded()
    account.debit("d1", 10)
    pass_seconds(world, 0)
    pass_seconds(world, 16)
    world.flush()
    account.debit("d2", 10)
    pass_seconds(world, 0)
    assert sidecar.state == "gone"


def test_one_that_gives_signs_of_life_is_kept(world: World, sidecar: SimulatedSidecar) -> None:
    for _ in range(5):
        sidecar.beat()
        pass_seconds(world, 10)
    assert (sidecar.state, sidecar.is_confirmed()) == ("alive", True)


def test_one_that_wakes_just_then_is_kept_and_confirmed_again(
    world: World, sidecar: SimulatedSidecar, monkeypatch: pytest.MonkeyPatch
) -> None:
    world.funded()
    pass_seconds(world, 0)
    look = world.registry._is_reached

    def wake(target: sidecars.Target) -> bool:
        sidecar.beat()
        return look(target)

    with monkeypatch.context() as patched:
        patched.setattr(world.registry, "_is_reached", wake)
        pass_seconds(world, 16)
    assert (sidecar.state, sidecar.is_confirmed()) == ("alive", False)
    sidecar.register()


def test_one_that_is_confirmed_again_by_another_worker_is_not_let_go(
    world: World, sidecar: SimulatedSidecar, monkeypatch: pytest.MonkeyPatch
) -> None:
    world.funded()
    pass_seconds(world, 0)
    unregister = world.registry._is_still_silent

    def unregister_late(*args: object) -> bool:
        silent = unregister(*args)  # type: ignore[arg-type]
        other = World(world.engine, world.client)
        sidecar.beat()
        other.sql("SELECT pg_sleep(0.002)")
        other.registry.run_once()
        return silent

    with monkeypatch.context() as patched:
        patched.setattr(world.registry, "_is_still_silent", unregister_late)
        pass_seconds(world, 16)
    assert (sidecar.state, sidecar.is_confirmed()) == ("alive", True)


def test_one_that_vanished_with_redis_is_waited_for(
    world: World, sidecar: SimulatedSidecar
) -> None:
    account = world.funded()
    account.debit("d1", 10)
    sidecar.acknowledge(account)
    world.client.flushall()
    world.opener.run_once()
    for _ in range(3):
        pass_seconds(world, 1_000)
    assert sidecar.state == "alive"
    assert world.sql("SELECT DISTINCT state FROM shards") == ["draining"]
    # It is back with its disk.
    sidecar.restart()
    sidecar.register()
    sidecar.hand_in()
    world.flush()
    assert world.sql("SELECT DISTINCT state FROM shards") == ["open"]
    assert world.generation().spent == 10


def test_one_that_vanished_just_before_the_loss_is_waited_for(
    world: World, sidecar: SimulatedSidecar
) -> None:
    world.funded()
    pass_seconds(world, 0)
    world.seconds += 16
    target = world.registry._target()
    world.client.flushall()
    world.opener.run_once()
    assert target is not None
    (row,) = [one for one in world.run(list_sidecars) if one.id == sidecar.id]
    assert not world.run(lambda c: sidecars.leave(c, row, target))
    assert sidecar.state == "alive"


def test_one_can_be_declared_dead_by_itself_after_a_time(
    world: World, sidecar: SimulatedSidecar
) -> None:
    world.registry._dead_seconds = 60
    world.client.flushall()
    world.opener.run_once()
    pass_seconds(world, 0)
    pass_seconds(world, 59)
    assert sidecar.state == "alive"
    pass_seconds(world, 2)
    assert sidecar.state == "dead"
    assert world.sql("SELECT DISTINCT state FROM shards") == ["open"]


@pytest.mark.usefixtures("is_impatient")
def test_an_operator_declares_a_sidecar_dead(world: World, sidecar: SimulatedSidecar) -> None:
    world.funded()
    world.client.flushall()
    world.opener.run_once()
    opened = declare_dead(world.engine, world.client, sidecar.id, "its disk burnt")
    assert opened == keys.SHARDS
    (row,) = world.run(list_sidecars)
    assert (row.state, row.reason, row.pending) == ("dead", "its disk burnt", 0)
    world.reopener.run_once()
    world.sender.run_once()
    world.assert_sound()


def test_one_that_gives_signs_of_life_is_declared_dead_only_by_force(
    world: World, sidecar: SimulatedSidecar, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("persistence.sidecars.time.sleep", lambda _: sidecar.beat())
    with pytest.raises(SidecarAlive):
        declare_dead(world.engine, world.client, sidecar.id, "I think so")
    with pytest.raises(SidecarAlive):
        declare_dead(world.engine, None, sidecar.id, "Redis is away")
    assert sidecar.is_confirmed()
    declare_dead(world.engine, world.client, sidecar.id, "I know so", is_forced=True)
    assert (sidecar.state, sidecar.is_confirmed()) == ("dead", False)


@pytest.mark.usefixtures("is_impatient")
def test_a_dead_one_that_comes_back_during_the_drain_is_waited_for_again(
    world: World, sidecar: SimulatedSidecar
) -> None:
    other = SimulatedSidecar(world, "other").register()
    account = world.funded()
    account.debit("d1", 10)
    sidecar.acknowledge(account)
    world.client.flushall()
    world.opener.run_once()
    declare_dead(world.engine, world.client, sidecar.id, "it does not answer")
    sidecar.restart()
    sidecar.register()
    other.hand_in()
    world.flush()
    assert world.sql("SELECT DISTINCT state FROM shards") == ["draining"]
    sidecar.hand_in()
    world.flush()
    assert world.sql("SELECT DISTINCT state FROM shards") == ["open"]
    assert world.generation().spent == 10


def test_the_last_sign_of_a_dead_one_that_redis_kept_holds_up_no_drain(
    world: World, sidecar: SimulatedSidecar
) -> None:
    world.funded()
    # Redis is away, its host and the sidecar's too.
    declare_dead(world.engine, None, sidecar.id, "its host burnt", is_forced=True)
    world.client.delete(keys.fence(0))  # and comes back with what it has on disk
    world.opener.run_once()
    for _ in range(3):
        world.registry.run_once()
    assert (sidecar.state, sidecar.is_confirmed()) == ("dead", False)
    assert world.sql("SELECT DISTINCT state FROM shards") == ["open"]


@pytest.mark.usefixtures("is_impatient")
def test_nobody_is_declared_dead_twice(world: World, sidecar: SimulatedSidecar) -> None:
    declare_dead(world.engine, world.client, sidecar.id, "gone for good")
    with pytest.raises(SidecarUnknown):
        declare_dead(world.engine, world.client, sidecar.id, "gone for good")


def test_what_is_no_sign_of_life_is_left_alone(world: World, sidecar: SimulatedSidecar) -> None:
    world.client.hset(keys.SIDECARS, "not an id", b"{}")
    world.client.hset(keys.SIDECARS, "6f1d6b0e-0000-4000-8000-000000000000", b"{nonsense")
    sidecar.beat()
    world.registry.run_once()
    assert len(world.run(list_sidecars)) == 1


def test_those_waited_for_are_named_once_and_not_each_round(
    world: World, sidecar: SimulatedSidecar, caplog: pytest.LogCaptureFixture
) -> None:
    world.client.flushall()
    for _ in range(30):
        world.opener.run_once()
    named = [record for record in caplog.records if "waiting for the journals" in record.message]
    assert len(named) == 1
    assert f"one ({sidecar.id})" in named[0].__dict__["sidecars"]


def test_two_workers_register_and_let_go_as_one(world: World) -> None:
    other = World(world.engine, world.client)
    made = [SimulatedSidecar(world, f"s{number}") for number in range(3)]
    for sidecar in made:
        sidecar.beat()
    world.registry.run_once()
    other.registry.run_once()
    for sidecar in made:
        sidecar.beat("leaving")
    other.registry.run_once()
    world.registry.run_once()
    assert [sidecar.state for sidecar in made] == ["gone"] * 3
