"""A sidecar as far as workers can see it: signs of life, and a journal that is handed in."""

from __future__ import annotations

import uuid
from dataclasses import dataclass
from typing import Any

import msgspec

from persistence.database import now_ms
from sidecar import keys
from sidecar.scripts import ScriptRunner, load_scripts
from tests.integration.ledger_world import World
from tests.lua.support import Account


@dataclass(frozen=True)
class Record:
    """What the sidecar wrote into its journal before it acknowledged an event."""

    shard: int
    epoch: int
    stream_id: str
    event: bytes


class SimulatedSidecar:
    """One sidecar, driven by hand. Accounts are called beside it; it is told what they answered."""

    def __init__(self, world: World, name: str = "one") -> None:
        self.world = world
        self.name = name
        self.id = uuid.uuid4()
        self.boot = uuid.uuid4().hex
        self.records: list[Record] = []
        self._beats = 0

    # Signs of life ----------------------------------------------------------------------------

    def beat(self, state: str = "running") -> None:
        """Give a sign of life."""
        self._beats += 1
        beat = {
            "name": self.name,
            "boot": self.boot,
            "at_ms": now_ms() + self._beats,
            "state": state,
            "version": "test",
        }
        self._home.hset(keys.SIDECARS, str(self.id), msgspec.json.encode(beat))

    def register(self) -> SimulatedSidecar:
        """Begin, or begin again after a loss, and let the worker confirm it."""
        self.beat()
        self.world.registry.run_once()
        assert self.is_confirmed()
        return self

    def restart(self) -> None:
        """Come back as another process with the same journal."""
        self.boot = uuid.uuid4().hex

    def is_confirmed(self) -> bool:
        """Tell whether Redis, this very process, was told that the ledger knows this boot."""
        found = self._home.hget(keys.REGISTERED, str(self.id))
        info = self._home.info()
        expected = keys.confirmation(self.boot, info["run_id"], info["master_replid"])
        return bool(found == expected.encode())

    @property
    def state(self) -> str:
        """What the ledger says of it."""
        (state,) = self.world.sql("SELECT state FROM sidecars WHERE id = :id", id=self.id)
        return str(state)

    # The journal ------------------------------------------------------------------------------

    def acknowledge(self, account: Account) -> None:
        """Write the event of the account's last call, if it made one, into the journal."""
        if len(account.trail) == 3:
            _, stream_id, event = account.trail
            record = Record(account.shard, account.epoch, stream_id.decode(), event)
            if record not in self.records:
                self.records.append(record)

    def forget_confirmed(self) -> None:
        """Drop the records that the ledger has, by the published cursors."""
        self.records = [record for record in self.records if not self._is_confirmed(record)]

    def hand_in(self, *, with_mark: bool = True, without: int = 0) -> None:
        """Hand the journal in, of every shard that drains or has newer epochs; drop it then.

        `without` keeps that many of the last records back.
        """
        fences = {shard: self._fence(shard) for shard in range(keys.SHARDS)}
        kept = self.records[len(self.records) - without :]
        for shard, (epoch, is_draining) in fences.items():
            mine = [r for r in self.records if r.shard == shard and r.epoch < epoch]
            if epoch and (mine or is_draining):
                events = [record.event for record in mine if record not in kept]
                mark = f"{self.id} {epoch}" if with_mark else ""
                reply = self.call_hand_in(shard, epoch, mark, *events)
                assert reply[0] == b"appended"
        self.records = [r for r in self.records if r.epoch == fences[r.shard][0]]

    def call_hand_in(self, shard: int, epoch: int, mark: str, *events: bytes) -> list[Any]:
        """Call the script."""
        names = (keys.fence(shard), keys.stream(shard, epoch))
        runner = ScriptRunner(self.world.nodes.of(shard))
        reply: list[Any] = runner.call(load_scripts().hand_in, names, (epoch, mark, *events))
        return reply

    @property
    def _home(self) -> Any:
        return self.world.nodes.home

    def _fence(self, shard: int) -> tuple[int, bool]:
        node: Any = self.world.nodes.of(shard)
        epoch, draining = node.hmget(keys.fence(shard), "epoch", "draining")
        return int(epoch or 0), draining == b"1"

    def _is_confirmed(self, record: Record) -> bool:
        node: Any = self.world.nodes.of(record.shard)
        cursor = node.get(keys.cursor(record.shard))
        if cursor is None:
            return False
        epoch, _, last_id = cursor.decode().partition(" ")
        return int(epoch) == record.epoch and _order(record.stream_id) <= _order(last_id)


def _order(stream_id: str) -> tuple[int, int]:
    at_ms, _, number = stream_id.partition("-")
    return int(at_ms), int(number)
