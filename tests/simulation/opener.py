"""The opener: fences kept true, and shards given up. `persistence.opening` and `diagnosis`."""

from __future__ import annotations

from collections.abc import Generator
from typing import NamedTuple

from tests.simulation.flush import Flush
from tests.simulation.ledger import Ledger, Shard
from tests.simulation.redis_state import Stream
from tests.simulation.values import Fence, Steps


class View(NamedTuple):
    """What one Redis process says at one moment: `persistence.fences.View`."""

    run_id: int
    replid: int
    timeline: int | None
    fences: dict[int, Fence]


Flushed = tuple[int, int, int]
"""A shard, in its epoch, and the timeline of the ledger that has its stream now."""

Plan = dict[int, tuple[str, str, int]]
"""What each shard needs: the step, the cause, and the epoch."""


class Opener(Flush):
    """Brings ledger and fences together."""

    def open_shards(self) -> Steps:
        """`ShardOpener.run_once` and `open_shards`."""
        ledger, view = self.ledger, self._view()
        if view is None:
            return
        is_named = view.timeline == ledger.timeline
        if is_named and all(
            self._diagnose(n, s, view)[0] == "nothing" for n, s in enumerate(ledger.shards)
        ):
            return
        yield from self._doubt()
        flushed = yield from self._flush_suspects()
        yield
        ledger = self.ledger
        yield from self._lock(ledger)
        try:
            yield from self._open_alone(ledger, flushed)
        finally:
            self._unlock(ledger)

    def _view(self) -> View | None:
        server = self.master()
        if server is None:
            return None
        return View(server.run_id, server.replid, server.data.timeline, dict(server.data.fences))

    def _lock(self, ledger: Ledger) -> Steps:
        while ledger.opener is not None:
            yield
        ledger.opener = self

    def _unlock(self, ledger: Ledger) -> None:
        if ledger.opener is self:
            ledger.opener = None

    def _doubt(self) -> Steps:
        """`_doubt_a_promoted_ledger`."""
        if not self._doubts(self.ledger):
            return
        ledger = self.ledger
        yield from self._lock(ledger)
        try:
            while any(shard.is_locked for shard in ledger.shards):
                yield
            if self.ledger is not ledger:
                return
            if self._doubts(ledger):
                self._enter_again(ledger)
                for shard in ledger.shards:
                    shard.suspect(shard.epoch, "ledger_promoted")
                self.world.note("worker: doubts the ledger", f"timeline {ledger.timeline}")
            yield
            server = self.master()
            if server is not None:
                server.data.timeline = ledger.timeline
        finally:
            self._unlock(ledger)

    def _enter_again(self, ledger: Ledger) -> None:
        """Wait for those too whom the ledger forgot when it went back, and Redis knows."""
        server = self.master()
        if server is None or not self.rules.enters_again_whom_it_forgot:
            return
        for name, boot in server.data.registered.items():
            row = ledger.sidecars.get(name)
            if row is None or row.state != "alive":
                ledger.enter(name, boot)
                self.world.note("worker: sidecar entered again", name)

    def _doubts(self, ledger: Ledger) -> bool:
        view = self._view()
        known = None if view is None else view.timeline
        return self.rules.doubts_a_promoted_ledger and known not in (None, ledger.timeline)

    def _flush_suspects(self) -> Generator[None, None, set[Flushed]]:
        """Flush what Redis still has of suspect shards, before they are given up."""
        flushed = set()
        for number in [n for n, s in enumerate(self.ledger.shards) if s.state == "suspect"]:
            timeline, epoch = self.ledger.timeline, self.ledger.shards[number].epoch
            result = "more"
            while result == "more":
                result = yield from self.flush(number)
            if result != "busy":
                flushed.add((number, epoch, timeline))
        return flushed

    def _open_alone(self, ledger: Ledger, flushed: set[Flushed]) -> Steps:
        rows = {n: s for n, s in enumerate(ledger.shards) if not s.is_locked}
        for shard in rows.values():
            shard.is_locked = True
        try:
            yield
            view = self._view()
            if view is None:
                return
            plan = self._plan(rows, view, flushed)
            yield
            if self.ledger is not ledger or ledger.opener is not self:
                return  # its transaction was ended
            self._write_plan(ledger, plan, view)
        finally:
            for shard in rows.values():
                shard.is_locked = False
        yield
        self._write_fences(plan, view)
        yield
        if self.ledger is not ledger:
            return
        was_draining = [n for n in plan if ledger.shards[n].state == "draining"]
        for number, (step, _, epoch) in plan.items():
            if step in ("give up", "confirm") and ledger.shards[number].epoch == epoch:
                ledger.shards[number].is_fenced = True
                self.world.note("worker: fence confirmed", f"shard {number} epoch {epoch}")
        ledger.finish_drains([ledger.shards[n] for n in plan], self.rules)
        drained = [n for n in was_draining if ledger.shards[n].state == "open"]
        flags = {n: ledger.shards[n].state == "draining" for n, p in plan.items() if p[0] == "flag"}
        flags.update(dict.fromkeys(drained, False))
        epochs = {n: ledger.shards[n].epoch for n in drained} | {n: p[2] for n, p in plan.items()}
        yield
        self._write_flags(flags, epochs)

    # What a shard needs -----------------------------------------------------------------------

    def _plan(self, rows: dict[int, Shard], view: View, flushed: set[Flushed]) -> Plan:
        """`persistence.diagnosis.plan_round`."""
        plan = {}
        for number, shard in rows.items():
            step, cause = self._diagnose(number, shard, view)
            is_whole = shard.state == "suspect" and bool(cause) and cause == shard.cause
            if is_whole and not self._counts(number, shard, flushed):
                continue  # its stream first; it comes the next time
            fence, epoch = view.fences.get(number), shard.epoch
            if step == "give up":
                epoch = max(epoch, fence.epoch if fence else 0) + 1
            elif step == "catch up" and fence:
                epoch = fence.epoch
            plan[number] = step, cause, epoch
        return plan

    def _counts(self, number: int, shard: Shard, flushed: set[Flushed]) -> bool:
        if self.rules.flushes_this_epoch_into_this_ledger:
            return (number, shard.epoch, self.ledger.timeline) in flushed
        return any(place[0] == number for place in flushed)

    def _diagnose(self, number: int, shard: Shard, view: View) -> tuple[str, str]:
        """`persistence.diagnosis.diagnose`."""
        fence = view.fences.get(number)
        if fence and fence.epoch > shard.epoch and fence[1:3] == view[:2]:
            return "catch up", ""
        cause = self._cause(shard, fence, view)
        is_written = not shard.is_fenced and shard.fits(fence) and shard.run_id == view.run_id
        if is_written and self.rules.confirms_suspects_too and cause == shard.cause:
            return "confirm", ""  # then it is flushed, and given up
        if cause:
            return "give up", cause
        if not shard.is_fenced:
            return "confirm", ""
        is_true = fence is not None and fence.is_draining == (shard.state == "draining")
        return ("nothing" if is_true else "flag"), ""

    def _cause(self, shard: Shard, fence: Fence | None, view: View) -> str:
        if self.rules.is_fenced:
            if shard.run_id != view.run_id:
                return "redis_restarted"
            if shard.replid != view.replid:
                return "redis_promoted"
            if not shard.fits(fence):
                return "fence" if shard.is_fenced else "interrupted"
        return shard.cause if shard.state == "suspect" else ""

    # What is written --------------------------------------------------------------------------

    def _write_plan(self, ledger: Ledger, plan: Plan, view: View) -> None:
        for number, (step, cause, epoch) in plan.items():
            shard = ledger.shards[number]
            if step == "give up":
                ledger.give_up(shard, epoch, view.run_id, view.replid)
                self.world.note("worker: gave up", f"shard {number} to epoch {epoch}: {cause}")
                self.world.note(f"cause: {cause}")
            elif step == "catch up":
                shard.epoch, shard.cursor, shard.flushed, shard.is_fenced = epoch, 0, 0, True
                shard.run_id, shard.replid = view[:2]
                shard.state, shard.cause = "suspect", "ledger_behind"
                self.world.note("worker: catches up", f"shard {number} epoch {epoch}")

    def _write_fences(self, plan: Plan, view: View) -> None:
        """`persistence.fences.write`: to whoever answers now, for the process that was seen."""
        server = self.master()
        if server is None:
            return
        server.data.timeline = self.ledger.timeline if view.timeline is None else view.timeline
        for number, (step, _, epoch) in plan.items():
            if step == "give up":
                server.data.streams[number, epoch] = Stream(is_claimed=True)
                server.data.fences[number] = Fence(epoch, view.run_id, view.replid, True)
                self.world.note("worker: fence written", f"shard {number} epoch {epoch}")

    def _write_flags(self, flags: dict[int, bool], epochs: dict[int, int]) -> None:
        """`persistence.fences.write_flags`."""
        server = self.master()
        if server is None:
            return
        for number, is_draining in flags.items():
            fence = server.data.fences.get(number, Fence(0, 0, 0, False))
            server.data.fences[number] = fence._replace(is_draining=is_draining)
            if not is_draining:
                for place in [p for p in server.data.streams if p[0] == number]:
                    if place[1] < epochs[number]:
                        del server.data.streams[place]
            self.world.note("worker: flag written", f"shard {number} draining {is_draining}")
