"""The registry: sidecars come and go. `persistence.registry` and `sidecars`."""

from __future__ import annotations

from dataclasses import dataclass

from tests.simulation.jobs import Jobs
from tests.simulation.ledger import Row
from tests.simulation.rules import LOST
from tests.simulation.values import Beat, Steps

Target = dict[tuple[int, int], int]


@dataclass(slots=True)
class Silence:
    """Since when a sidecar's sign of life has not changed."""

    sign: Beat | None
    since: int
    target: Target | None = None


class Registry(Jobs):
    """Registers sidecars and notices their end."""

    def start(self) -> None:
        """Begin as a new process, that has heard nobody yet."""
        super().start()
        self._silences: dict[str, Silence] = {}

    def register(self) -> Steps:
        """`Registry.run_once`."""
        server = self.master()
        if server is None:
            return
        signs, confirmed = dict(server.data.signs), dict(server.data.registered)
        timeline = server.data.timeline
        yield
        is_in_doubt = timeline not in (None, self.ledger.timeline)
        if is_in_doubt and self.rules.enters_again_whom_it_forgot:
            return  # it may know fewer than there are: the opener sees to that
        rows = {n: Row(r.boot, r.state, r.registration) for n, r in self.ledger.sidecars.items()}
        alive = {name: row for name, row in rows.items() if row.state == "alive"}
        for name, beat in signs.items():
            if not beat.is_leaving and confirmed.get(name) != beat.boot:
                yield from self._enter(name, beat)
        for name in confirmed:
            if name not in alive:
                yield
                self._forget_signs(name)
                self.world.note("worker: confirmation taken back", name)
        for name, row in alive.items():
            sign = signs.get(name)
            if sign is not None and sign.boot == row.boot and sign.is_leaving:
                yield from self._goodbye(name)
            elif sign is not None and sign.boot != row.boot:
                self._silences.pop(name, None)
            else:
                yield from self._watch(name, row, sign)

    def _enter(self, name: str, beat: Beat) -> Steps:
        yield
        while not self.ledger.may_enter():
            yield
        self.ledger.enter(name, beat.boot)
        self.world.note("worker: sidecar entered", f"{name} boot {beat.boot}")
        yield
        server = self.master()
        if server is not None:
            server.data.registered[name] = beat.boot
            self.world.note("worker: sidecar confirmed", f"{name} boot {beat.boot}")

    def _goodbye(self, name: str) -> Steps:
        yield from self.end(name, "gone")
        yield
        self._forget_signs(name)

    def end(self, name: str, state: str) -> Steps:
        """End a sidecar and wait for its journal no more: gone, or dead as an operator says."""
        while not self.ledger.may_enter():
            yield
        self.ledger.end(name, state, self.rules)
        self.world.note(f"worker: sidecar {state}", name)

    def _watch(self, name: str, row: Row, sign: Beat | None) -> Steps:
        silence = self._silences.get(name)
        if silence is None or silence.sign != sign:
            self._silences[name] = Silence(sign, self.world.now)
            return
        is_pending = self.ledger.is_pending(name)
        if self.world.now - silence.since < LOST or is_pending:
            silence.target = None
            return
        yield from self._let_go(name, row, silence)

    def _let_go(self, name: str, row: Row, silence: Silence) -> Steps:
        """`Registry._let_go`: when all that the streams have had is in the ledger."""
        if silence.target is None:
            yield
            silence.target = self._target()
        target = silence.target
        if target is None or not self._is_flushed(target):
            return
        yield
        if self._forget_signs(name) != silence.sign:
            return
        yield
        while self.ledger.opener is not None:
            yield
        if name not in self.ledger.sidecars:
            return
        if self._is_flushed(target) and self.ledger.leave(name, row.registration):
            self._silences.pop(name, None)
            self.world.note("worker: sidecar let go", name)
        silence.target = None

    def _is_flushed(self, target: Target) -> bool:
        return self.ledger.is_flushed(target) or not self.rules.lets_go_only_of_flushed

    def _target(self) -> Target | None:
        """Return what the streams have had by now; None while a shard is not whole."""
        server, shards = self.master(), self.ledger.shards
        if server is None or not all(shard.is_whole for shard in shards):
            return None
        process = server.run_id, server.replid
        if any((shard.run_id, shard.replid) != process for shard in shards):
            return None
        target = {(n, s.epoch): server.data.added(n, s.epoch) for n, s in enumerate(shards)}
        return target if min(target.values()) >= 0 else None

    def _forget_signs(self, name: str) -> Beat | None:
        server = self.master()
        return server.data.forget_signs(name) if server is not None else Beat(0, 0, False)
