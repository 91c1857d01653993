"""What breaks. One fault at a time, and the pairs that are promised: Redis with a host's disk."""

from __future__ import annotations

from tests.simulation.history import History
from tests.simulation.redis_state import Data, Server
from tests.simulation.rules import KEEP, LEASE, LOST
from tests.simulation.sidecar import Sidecar
from tests.simulation.values import Event

_KEPT = 3


def lose_reply(history: History) -> None:
    """What was asked may be done or not; who asked does not know. The caller may ask again."""
    if history.tasks:
        task = history.rng.choice(history.tasks)
        history.note("fault: reply lost", f"{task.actor.name} {task.name}")
        history.drop(task)


def pass_time(history: History) -> None:
    """A while passes in which nobody does anything."""
    history.now += history.rng.choice((LEASE // 2, LEASE + 1, LOST + 1, KEEP + 5))
    history.note("time passes")


# Processes ------------------------------------------------------------------------------------


def kill_sidecar(history: History) -> None:
    """`kill -9`: what it was writing is torn."""
    sidecar = history.some_sidecar()
    if sidecar is not None:
        is_torn = any(not record.is_whole for record in sidecar.disk.records.values())
        history.note("fault: sidecar killed", sidecar.name)
        history.die(sidecar)
        if is_torn:
            history.note("fault: journal torn", sidecar.name)


def restart_sidecar(history: History) -> None:
    """It comes back with its disk."""
    down = [s for s in history.sidecars if not s.is_up and not s.disk.is_destroyed]
    if down:
        sidecar = history.rng.choice(down)
        sidecar.start()
        history.note("sidecar: restarted", f"{sidecar.name} boot {sidecar.boot}")


def stop_sidecar(history: History) -> None:
    """SIGTERM: it leaves when the ledger has everything, and says goodbye."""
    sidecar = history.some_sidecar()
    if sidecar is None or len(sidecar.shelf):
        return
    for task in [task for task in history.tasks if task.actor is sidecar]:
        history.drop(task)
    sidecar.is_leaving = True
    history.note("sidecar: says goodbye", sidecar.name)
    history.begin(sidecar, "look", sidecar.look())
    while history.is_busy(sidecar, "look"):
        history.advance(history.tasks[-1])
    history.die(sidecar)


def destroy_disk(history: History) -> None:
    """A host burns; another one takes its place, and its journal is a new one."""
    sidecar = history.some_sidecar()
    if sidecar is None or any(s.disk.is_destroyed for s in history.sidecars):
        return
    history.die(sidecar)
    history.write_off(sidecar.disk)
    history.note("fault: disk destroyed", sidecar.name)
    history.sidecars.append(Sidecar(history, f"s{len(history.sidecars)}"))


def declare_dead_too_early(history: History) -> None:
    """An operator does not wait for one that will be back: its usage comes late, as it says."""
    ledger = history.ledger
    for sidecar in history.sidecars:
        row = ledger.sidecars.get(sidecar.name)
        is_down = not sidecar.is_up and not sidecar.disk.is_destroyed
        is_waited_for = row is not None and row.state == "alive" and ledger.is_pending(sidecar.name)
        if is_down and is_waited_for and ledger.may_enter():
            for record in sidecar.disk.records.values():
                if record.event is not None and record.event.key not in ledger.usage:
                    history.truth.risk[record.event.key] = record.event.amount
            history.primary.data.forget_signs(sidecar.name)
            ledger.end(sidecar.name, "dead", history.rules)
            history.note("fault: declared dead too early", sidecar.name)


def stop_for_a_while(history: History) -> None:
    """SIGSTOP, a long pause of the machine: whatever it does next, it does much later."""
    actors = [actor for actor in (*history.awake(), history.some_worker()) if actor]
    if actors:
        actor = history.rng.choice(actors)
        actor.asleep_until = history.now + history.rng.choice((5, LEASE + 3, LOST + 10))
        history.note("fault: asleep", f"{actor.name} until {actor.asleep_until}")


def kill_worker(history: History) -> None:
    """In the middle of whatever it does; another one begins."""
    worker = history.some_worker()
    if worker is not None:
        history.note("fault: worker killed", worker.name)
        history.die(worker)
        worker.start()


def end_hung_transaction(history: History) -> None:
    """A worker hangs while it opens shards; Postgres ends its transaction, and others go on."""
    ledger = history.ledger
    for worker in history.workers:
        if ledger.opener is worker:
            worker.asleep_until = max(worker.asleep_until, history.now + LEASE)
            ledger.opener = None
            for shard in ledger.shards:
                shard.is_locked = False
            history.note("fault: transaction of a hung worker ended", worker.name)


# Redis ----------------------------------------------------------------------------------------


def may_lose_redis(history: History) -> bool:
    """Tell whether Redis may be lost now: not while it alone has what the ledger forgot."""
    if history.is_behind and is_redis_whole(history):
        server = history.primary
        history.is_behind = server.data.timeline != history.ledger.timeline or any(
            shard.state == "suspect" for shard in history.ledger.shards
        )
    return not history.is_behind


def is_redis_whole(history: History) -> bool:
    """Tell whether the ledger names the Redis that there is, and nothing of it is lost."""
    server = history.primary
    for number, shard in enumerate(history.ledger.shards):
        is_same = (server.run_id, server.replid) == (shard.run_id, shard.replid)
        is_there = server.data.added(number, shard.epoch) >= shard.flushed
        if not (is_same and is_there and shard.fits(server.data.fences.get(number))):
            return False
    return all(
        number in server.data.accounts or not account.present.applied
        for number, account in enumerate(history.ledger.accounts)
    )


def keep_data(history: History) -> None:
    """What the file, a replica or a backup has is the Redis of now."""
    history.kept_data = [*history.kept_data[-_KEPT + 1 :], history.primary.data.copy()]


def restart_redis(history: History) -> None:
    """The process ends; the next has what is on disk, whole, without its tail, or a backup."""
    if not may_lose_redis(history):
        return
    old = history.primary
    choice = history.rng.choice(("whole", "tail lost", "backup", "empty"))
    old.is_up = False
    data = {
        "whole": old.data,
        "tail lost": history.kept_data[-1].copy(),
        "backup": history.rng.choice(history.kept_data).copy(),
        "empty": Data(),
    }[choice]
    replid = old.replid if history.rng.random() < 0.3 else history.new_id()
    history.primary = Server(history.new_id(), replid, data)
    history.note(f"fault: Redis restarted, {choice}", f"run {history.primary.run_id}")


def promote_replica(history: History) -> None:
    """A replica that lags is promoted; the old master may go on, with those that still reach it."""
    if not may_lose_redis(history):
        return
    old, is_split = history.primary, history.rng.random() < 0.6
    data = history.kept_data[-1].copy() if history.rng.random() < 0.7 else old.data.copy()
    history.primary = Server(history.new_id(), history.new_id(), data)
    old.is_up = is_split
    history.others.append(old)
    history.note("fault: split brain" if is_split else "fault: replica promoted",
                 f"run {history.primary.run_id}")  # fmt: skip
    for sidecar in history.sidecars:
        if history.rng.random() < 0.5:
            sidecar.server = history.primary
    for worker in history.workers:
        if history.rng.random() < 0.5:
            worker.server = history.primary


def heal_split(history: History) -> None:
    """The old master finds that it is none, and becomes a replica of the new one."""
    for old in [server for server in history.others if server.is_up and server.is_master]:
        old.is_master, old.replid = False, history.primary.replid
        old.data, old.changed_at = history.primary.data.copy(), history.now
        history.note("fault: old master demoted", f"run {old.run_id}")


def promote_again(history: History) -> None:
    """A process that was a master before is one again: the same run id, another replication id."""
    demoted = [s for s in history.others if s.is_up and not s.is_master]
    if not demoted or not may_lose_redis(history):
        return
    server = history.rng.choice(demoted)
    if history.now - server.changed_at < LEASE:
        return  # the same process twice within a lease is what no sidecar would notice
    history.others.remove(server)
    history.others.append(history.primary)
    history.primary.is_up = False
    server.is_master, server.replid = True, history.new_id()
    history.primary = server
    history.note("fault: promoted again", f"run {server.run_id}")


def delete_keys(history: History) -> None:
    """FLUSHALL, or one key, deleted in the middle of everything."""
    if not may_lose_redis(history):
        return
    data, rng = history.primary.data, history.rng
    choice = rng.choice(("all", "account", "account", "fence", "stream", "cursor"))
    number = rng.randrange(len(history.ledger.shards))
    if choice == "all":
        history.primary.data = Data()
    elif choice == "account":
        data.accounts.pop(rng.randrange(len(history.ledger.accounts)), None)
    elif choice == "fence":
        data.fences.pop(number, None)
    elif choice == "stream":
        data.streams.pop((number, history.ledger.shards[number].epoch), None)
    else:
        data.cursors.pop(number, None)
    history.note(f"fault: keys deleted, {choice}", number)


# Postgres -------------------------------------------------------------------------------------


def keep_ledger(history: History) -> None:
    """What a standby has is the ledger of now."""
    kept = history.kept_ledgers[-_KEPT + 1 :]
    history.kept_ledgers = [*kept, (history.now, history.ledger.copy())]


def fail_over_ledger(history: History) -> None:
    """Postgres is promoted: what a standby lacked is gone. Not while Redis is lost as well."""
    kept = [ledger for at, ledger in history.kept_ledgers if at >= history.now - KEEP]
    chosen = history.rng.choice([*kept, history.ledger]).copy()
    if not may_lose_redis(history) or not is_redis_whole(history):
        return
    missing = {key for key in history.ledger.usage if key not in chosen.usage}
    if not missing <= _in_streams(history):
        return  # it went back over the end of a recovery: the streams of before are gone
    is_behind = chosen != history.ledger
    chosen.timeline = history.ledger.timeline + 1
    history.ledger = chosen
    history.kept_ledgers = [(history.now, chosen.copy())]
    history.is_behind = True
    history.note("fault: ledger went back" if is_behind else "fault: ledger promoted",
                 f"timeline {chosen.timeline}, {len(missing)} events missing")  # fmt: skip


def _in_streams(history: History) -> set[object]:
    """Return the events that the present streams have had, and must have within the window."""
    streams = history.primary.data.streams
    return {
        entry.key
        for number, shard in enumerate(history.ledger.shards)
        for entry in streams[number, shard.epoch].ever
        if isinstance(entry, Event)
    }


def rebuild(history: History) -> None:
    """An operator says so: `persistence.recovery.rebuild`."""
    for shard in history.ledger.shards:
        if not shard.is_locked:
            shard.suspect(shard.epoch, "rebuild")
    history.note("fault: rebuild")
