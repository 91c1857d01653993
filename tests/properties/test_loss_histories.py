"""Random histories with the ledger in which Redis is lost again and again.

What a sidecar acknowledged is in its journal, and it hands that in; some calls it never lived to
acknowledge, and what they did is lost with Redis unless it was flushed before. After each loss the
account must have exactly what was granted, less what was taken, expired and charged; and in the end
the ledger has charged what was acknowledged, not more and not less.
"""

from __future__ import annotations

from itertools import count
from typing import Any

import redis
from hypothesis import strategies as st
from hypothesis.stateful import precondition, rule, run_state_machine_as_test
from sqlalchemy import Engine

from persistence.flush import Flusher
from persistence.recovery import rebuild
from sidecar.domain import NEVER_EXPIRES
from tests.integration.ledger_world import World
from tests.integration.simulated_sidecar import SimulatedSidecar
from tests.lua.support import Account, Reply
from tests.lua.table import charge_of
from tests.properties import histories
from tests.properties.credits import Grant
from tests.properties.model import Model
from tests.properties.test_ledger_histories import BATCH_EVENTS, LedgerHistories

LOSSES = st.sampled_from(["emptied", "emptied", "emptied twice", "handed in twice", "rebuilt"])


class LossHistories(LedgerHistories):
    """One account whose Redis does not last."""

    def _new_account(self) -> Account:
        self.granted = self.taken = self.losses = 0
        self.unacknowledged: list[tuple[int, int]] = []
        self.sidecar = SimulatedSidecar(self.world).register()
        return super()._new_account()

    @precondition(lambda self: self.losses < 3)
    @rule(loss=LOSSES)
    def lose_redis(self, loss: str) -> None:
        self.losses += 1
        if loss == "rebuilt":
            # Redis is whole: it is flushed to its end before it is given up.
            rebuild(self.world.engine, [self.account.shard])
            self.world.opener.run_once()
        else:
            self._empty()
        if loss == "emptied twice":
            self._empty()
        records = list(self.sidecar.records)
        self.sidecar.hand_in(with_mark=loss != "handed in twice")
        if loss == "handed in twice":
            self.sidecar.records = records
            self.sidecar.hand_in()
        self._forget_what_is_lost()
        self.world.flush()
        self.world.opener.run_once()
        # The rest of a history compares what is in the stream: not what came from another life.
        self.client.xtrim(self._place().keys[8], maxlen=0, approximate=False)
        self._reopen()

    def teardown(self) -> None:
        # Accounts of earlier histories were in the same shard, and nobody asks for them any more.
        while self.world.reopener.run_once():
            self.world.sender.run_once()
        super().teardown()
        self.sidecar.beat("leaving")
        self.world.registry.run_once()

    # How -------------------------------------------------------------------------------------

    def _empty(self) -> None:
        """Lose all that Redis has of the account's shard, its fence too."""
        names = self.client.keys(f"{{s{self.account.shard:03d}}}:*")
        self.client.delete(*names)
        self.world.opener.run_once()

    def _forget_what_is_lost(self) -> None:
        flushed = self.world.generation(self.account.name).seq
        for seq, amount in self.unacknowledged:
            if seq > flushed:
                self.acknowledged -= amount
        self.unacknowledged = []

    def _place(self) -> Account:
        (epoch,) = self.world.sql("SELECT epoch FROM shards WHERE shard = :s", s=self.account.shard)
        return Account(self.client, self.account.name, epoch)

    def _reopen(self) -> None:
        name = self.account.name
        assert self.world.reopener.reopen([name]) == [name]
        self.world.sender.send([name])
        self.account = self.world.account(name)
        self.account.is_alone = False
        self.passed_ms = 0
        lent = self.world.sql(
            "SELECT kind, amount, payload FROM refills WHERE account = :a AND gen = :g",
            a=name,
            g=self.account.gen,
        )
        for kind, amount, payload in lent:
            if kind == "grant":
                self.account.lent[payload["grant_no"]] = amount
            elif kind == "restore":
                self.account.restored[0] = amount
        self._begin_anew()
        self._check_what_is_there()

    def _begin_anew(self) -> None:
        """Let the model go on from what Redis has now; the ids of the old life are not used."""
        old, self.model = self.model, Model()
        self.model.overdraft, self.model.status = old.overdraft, old.status
        self.model.refill_no = self.account.refill_no()
        self.model.pool = self.account.number("pool")
        left = self.account.left()
        for grant_no, order in self.account.orders().items():
            ends_at_ms = int(order[3:18])
            ends = None if ends_at_ms == NEVER_EXPIRES else ends_at_ms
            self.model.grants[grant_no] = Grant(order, left[grant_no], ends)
        self.model.events = [charge_of(event) for event in self.account.events()]
        self.requests, self.totals = [], {}

    def _check_what_is_there(self) -> None:
        query = "SELECT coalesce(sum(expired), 0)::bigint FROM grants WHERE account = :a"
        self.world.flush()
        (expired,) = self.world.sql(query, a=self.account.name)
        available = self.account.number("available")
        assert available == self.granted - self.taken - expired - self.acknowledged
        self._check_kept()

    def _check_kept(self) -> None:
        """No more is left of what was carried over than may be, whatever Redis had told of it."""
        query = (
            "SELECT rolled_group, max(rolled_keep), array_agg(grant_no) FROM grants"
            " WHERE account = :a AND rolled_keep > 0 GROUP BY rolled_group"
        )
        left = self.account.left()
        for group, keep, numbers in self.world.sql(query, a=self.account.name):
            assert sum(left.get(number, 0) for number in numbers) <= keep, group

    def _grant(self, amount: int, *args: Any) -> None:
        self.granted += amount
        super()._grant(amount, *args)

    def _take(self, amount: int) -> None:
        self.taken += amount
        super()._take(amount)

    def _call(self, verb: str, *args: Any, **options: Any) -> Reply:
        before = self.acknowledged
        reply = super()._call(verb, *args, **options)
        if len(self.account.trail) == 3:
            if self.id_count % 5:
                self.sidecar.acknowledge(self.account)
            else:
                self.unacknowledged.append((self.account.number("seq"), self.acknowledged - before))
        return reply


def test_nothing_acknowledged_is_lost_and_nothing_is_spent_twice(
    engine: Engine, redis_client: redis.Redis
) -> None:
    made = World(engine, redis_client)
    made.flusher = Flusher(
        engine, made.nodes, made.metrics, batch_events=BATCH_EVENTS, keep_seconds=86_400
    )
    made.opener.open_shards()

    class Histories(LossHistories):
        client = redis_client
        world = made
        names = count(1)

    run_state_machine_as_test(Histories, settings=histories(steps=40, few=25))
    assert made.audit(wait_s=0).is_ok, made.wrong_lines()
