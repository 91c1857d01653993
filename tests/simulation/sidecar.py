"""A sidecar: its lease, its journal, and what it does in steps."""

from __future__ import annotations

from typing import NamedTuple

from tests.simulation import scripts
from tests.simulation.journal import Disk, Record, Shelf
from tests.simulation.redis_state import Server
from tests.simulation.rules import LEASE, Rules
from tests.simulation.scripts import Call, Reply
from tests.simulation.truth import Request
from tests.simulation.values import Beat, Event, Fence, Mark, Steps
from tests.simulation.world import World

_CHUNK = 2  # events that are handed in at once


class Place(NamedTuple):
    """Where a call runs: `sidecar.meter.lease.Place`."""

    shard: int
    epoch: int
    run_id: int


class Sidecar:
    """One process after the other with the same disk; `boot` is new with each."""

    def __init__(self, world: World, name: str) -> None:
        self.world = world
        self.name = name
        self.asleep_until = 0
        self.disk = Disk()
        self.start()

    def start(self) -> None:
        """Begin as a new process with the journal that is there: `sidecar.meter.build`."""
        self.is_up = True
        self.is_leaving = False
        self.boot = self.world.new_id()
        self.server = self.world.primary
        self.shelf = Shelf(self.disk)
        self.run_id = 0
        self.until = 0
        self.is_registered = False
        self.fences: dict[int, Fence] = {}
        self.ours: set[int] = set()
        self.newest: dict[int, int] = {}
        self.handed_in_to: dict[int, int] = {}
        self.ready: dict[int, int] = {}

    @property
    def rules(self) -> Rules:
        """The rules of this history."""
        return self.world.rules

    # The lease --------------------------------------------------------------------------------

    def look(self) -> Steps:
        """`sidecar.meter.lease.Lease.refresh` and `sidecar.meter.sight.look`."""
        world, server, began = self.world, self.server, self.world.now
        if not server.is_up:
            return
        if not server.is_master:
            self.until = 0
            return
        server.data.signs[self.name] = Beat(self.boot, began, self.is_leaving)
        boot = server.data.registered.get(self.name)
        process = server.run_id, server.replid
        world.note("sidecar: sign of life", self.name)
        yield
        if not self._reaches(server):
            return
        fences, cursors = dict(server.data.fences), dict(server.data.cursors)
        is_named = server.data.timeline is not None
        yield
        for shard, (epoch, place) in cursors.items():
            is_only_news = not self.rules.confirms_what_comes_late
            self.shelf.confirm(shard, epoch, place, is_only_news=is_only_news)
        self._saw(fences, process, boot, is_named)
        is_registered = self.is_registered or not self.rules.registers_first
        is_ready = is_named and is_registered and bool(self.ours)
        self.until = began + LEASE if is_ready else 0
        world.note("sidecar: looked", f"{self.name} ready {self.ready}")

    def _reaches(self, server: Server) -> bool:
        """Tell whether the connection to a process is there still."""
        return server.is_up and self.server is server

    def _saw(
        self, fences: dict[int, Fence], process: tuple[int, int], boot: int | None, is_named: bool
    ) -> None:
        """`Lease._saw`."""
        ours = {s for s, fence in fences.items() if fence[1:3] == process}
        self.ours = ours if self.rules.is_fenced else set(fences)
        for shard in self.ours:
            self.newest[shard] = max(self.newest.get(shard, 0), fences[shard].epoch)
        is_registered = boot == self.boot
        if is_registered and not self.is_registered:
            # The ledger may have begun to wait for this sidecar only now.
            self.handed_in_to.clear()
        self.is_registered = is_registered
        self.fences = fences if is_named else {}
        if self.ours:
            self.run_id = process[0]
        self._open()

    def _open(self) -> None:
        self.ready = {
            shard: fence.epoch
            for shard, fence in self.fences.items()
            if self._is_open(shard, fence) and self._has_handed_in(shard, fence)
        }

    def _is_open(self, shard: int, fence: Fence) -> bool:
        known = max(self.newest.get(shard, 0), self.shelf.newest_epoch(shard))
        return shard in self.ours and (fence.epoch >= known or not self.rules.is_fenced)

    def _has_handed_in(self, shard: int, fence: Fence) -> bool:
        if self.handed_in_to.get(shard) == fence.epoch:
            return True
        return not (fence.is_draining or self.shelf.older(shard, fence.epoch))

    def place(self, account: int) -> Place | None:
        """`Lease.place`: None when the account is decided nowhere."""
        shard = self.world.ledger.accounts[account].shard
        epoch = self.ready.get(shard)
        is_held = self.until > self.world.now or not self.rules.has_leases
        return Place(shard, epoch, self.run_id) if is_held and epoch is not None else None

    def _may_answer(self, place: Place) -> bool:
        """`Lease.require`."""
        is_held = self.until > self.world.now
        is_same = self.ready.get(place.shard) == place.epoch and self.run_id == place.run_id
        return (is_held and is_same) or not self.rules.has_leases

    # Handing in -------------------------------------------------------------------------------

    def to_hand_in(self) -> list[int]:
        """`Lease.to_hand_in`: the shards to which older epochs' records are to be handed in."""
        if not self.is_registered:
            return []
        return [
            shard
            for shard, fence in self.fences.items()
            if self._is_open(shard, fence) and not self._has_handed_in(shard, fence)
        ]

    def hand_in(self, shard: int) -> Steps:
        """`sidecar.meter.hand_in.HandIn._hand_in`."""
        epoch, run_id = self.fences[shard].epoch, self.run_id
        records = self.shelf.older(shard, epoch)
        for record in records:
            self.shelf.put_survivor(record)
        mark, place = Mark(self.name, epoch), 0
        parts: list[tuple[list[Event], Mark | None]] = [
            ([r.event for r in records[at : at + _CHUNK] if r.event], None)
            for at in range(0, len(records), _CHUNK)
        ]
        parts.insert(len(parts) if self.rules.marks_after_the_events else 0, ([], mark))
        for events, marked in parts:
            yield
            if not self.server.is_up:
                return
            call = Call(self.server, run_id, shard, epoch, 0, self.world.now, self.rules)
            last = scripts.hand_in(call, events, marked)
            self.world.note("sidecar: handed in", f"{self.name} shard {shard} {events} {marked}")
            yield
            if last is None:
                return
            place = last
        if self.rules.keeps_until_confirmed:
            self.shelf.moved(shard, epoch, place, records)
        else:
            self.shelf.moved(shard, epoch, place, [])
        self.handed_in_to[shard] = epoch
        self._open()

    # Requests ---------------------------------------------------------------------------------

    def decide(self, request: Request, ttl: int) -> Steps:
        """`sidecar.meter.decide.Decider`: one request, answered or not."""
        id = (request.account, request.id)
        survivor, kept = self.shelf.survivors.get(id), self.shelf.holds.get(id)
        place = self.place(request.account)
        if place is None:
            return
        if survivor is not None and survivor.operation == request.verb:
            self.world.note("sidecar: answered from the journal", id)
            self._tell(request, survivor.amount, is_late=True)
            return
        is_lost = kept is not None and kept.epoch != place.epoch
        yield
        if not self.server.is_up:
            return
        call = self._call(place, request.account)
        reply = self._run(call, request, ttl, is_lost=is_lost)
        self.world.note(f"script: {request.verb}", f"{self.name} {request.id} {reply}")
        yield
        if reply.status in ("noscript", "readonly"):
            self.until = 0
        elif reply.status in ("unknown", "fenced"):
            if self._reaches(call.server) and self.server.is_master:
                self.server.data.asks.add(request.account)
        else:
            yield from self._answer(request, place, reply, ttl, is_lost=is_lost)

    def _call(self, place: Place, account: int) -> Call:
        shard, epoch, run_id = place
        return Call(self.server, run_id, shard, epoch, account, self.world.now, self.rules)

    def _run(self, call: Call, request: Request, ttl: int, *, is_lost: bool) -> Reply:
        if request.verb == "debit":
            return scripts.debit(call, request.id, request.amount)
        if request.verb == "hold":
            return scripts.hold(call, request.id, request.amount, ttl)
        if request.verb == "settle":
            return scripts.settle(call, request.id, request.amount, is_known=is_lost)
        return scripts.release(call, request.id)

    def _answer(
        self, request: Request, place: Place, reply: Reply, ttl: int, *, is_lost: bool
    ) -> Steps:
        """`sidecar.meter.acknowledge.Acknowledger`: journal, then lease, then the answer."""
        if reply.status in ("debited", "settled", "late"):
            yield from self._charged(request, place, reply)
        elif reply.status == "held":
            known = self.shelf.holds.get((request.account, request.id))
            is_known = known is not None and known.epoch == place.epoch
            record = None if is_known else self._write(request, place, 0, None)
            yield from self._let_out(request, place, record, request.amount, is_late=False)
        elif request.verb == "release" and (reply.status == "released" or is_lost):
            self._released(request, place)

    def _released(self, request: Request, place: Place) -> None:
        if self._may_answer(place):
            self.shelf.end_hold((request.account, request.id))
            self._tell(request, 0, is_late=False)

    def _charged(self, request: Request, place: Place, reply: Reply) -> Steps:
        event = reply.event
        if event is None and not self.shelf.is_confirmed(place.shard, place.epoch, reply.place):
            # Another sidecar may have run it, and may be no more.
            yield
            if not self.server.is_up:
                return
            stream = self.server.data.stream(place.shard, place.epoch)
            found = [entry for at, entry in stream.entries if at == reply.place]
            event = found[0] if found and isinstance(found[0], Event) else None
            self.world.note("sidecar: event read from the stream", event)
            if event is None and self.rules.repeats_need_their_event:
                return
            yield
        is_late = reply.status == "late"
        if is_late:
            self.world.note("script: late settle", request.id)
        if not self.rules.journals_before_answering:
            self._tell(request, reply.amount, is_late=is_late)
            yield
        record = None if event is None else self._write(request, place, reply.place, event)
        yield from self._let_out(request, place, record, reply.amount, is_late=is_late)

    def _write(self, request: Request, place: Place, at: int, event: Event | None) -> Record:
        shard, epoch, _ = place
        return self.disk.add(
            request.account, request.id, request.verb, shard, epoch, at, event, request.amount
        )

    def _let_out(
        self, request: Request, place: Place, record: Record | None, amount: int, *, is_late: bool
    ) -> Steps:
        if record is not None:
            yield
            if not self._may_answer(place):
                # Asked in the turn that writes: what comes after the mark is not written.
                del self.disk.records[record.number]
                self.world.note("sidecar: answered nothing, the shard may be lost", request.id)
                return
            record.is_whole = True
            self.world.note("sidecar: journalled", f"{self.name} {request.id}")
            yield
        if not self._may_answer(place):
            self.world.note("sidecar: answered nothing, the shard may be lost", request.id)
            if record is not None:
                record.is_forgotten = record.is_void = True
            return
        if record is not None:
            self.shelf.put(record)
        self._tell(request, amount, is_late=is_late)

    def _tell(self, request: Request, amount: int, *, is_late: bool) -> None:
        """Let the answer go out."""
        truth = self.world.truth
        request.is_acknowledged = True
        self.world.note(f"acknowledged: {request.verb}", f"{self.name} {request.id} {amount}")
        if request.verb == "hold":
            request.through = self.name
            truth.holds[request.id] = request.amount
        elif request.verb != "release":
            key = (request.account, request.verb, request.id, 0, 0)
            truth.acknowledge(key, amount, self.name, is_late=is_late)
