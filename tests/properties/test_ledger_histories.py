"""The same random histories with the ledger: grants and adjustments come as refills, events go to
Postgres, and in the end every credit is where the model says, in Redis and in the ledger.

The worker's parts are driven by hand, flushes fall anywhere between the calls, and small batches
cut histories anywhere. All histories are in one ledger, which is audited as a whole.
"""

from __future__ import annotations

from itertools import count
from typing import Any, ClassVar, Final

import redis
from hypothesis import strategies as st
from hypothesis.stateful import initialize, precondition, rule, run_state_machine_as_test
from sqlalchemy import Engine

from persistence.accounts import put_account, set_status
from persistence.audit import audit
from persistence.flush import Flusher
from persistence.grants import add_adjustment
from persistence.rolling import end_grants, roll_grants
from sidecar.domain import AccountStatus, Category
from tests.integration.ledger_world import World
from tests.lua.support import HOUR_MS, Account, Reply
from tests.properties import histories
from tests.properties.test_script_histories import MARKS, MAX_GRANTS, ScriptHistories

BATCH_EVENTS: Final = 7
USAGE: Final = ("settle", "debit", "refund")


class LedgerHistories(ScriptHistories):
    """One account of the ledger, called at random, with a worker that is never in step."""

    world: ClassVar[World]
    names: ClassVar[count[int]]

    # What the sidecar never sees: these rules are the worker's here.
    refill_out_of_order = None  # type: ignore[assignment]
    restore = None  # type: ignore[assignment]
    # A worker that is told `again` cuts what is due otherwise than the model does.
    redis_rings_as_the_model = None  # type: ignore[assignment]

    def _new_account(self) -> Account:
        self.acknowledged = 0
        self.is_tomorrow = False
        self.totals: dict[str, int] = {}
        return self.world.put(f"history-{next(self.names):06d}")

    @initialize(overdraft=st.sampled_from([0, 0, 30, 200]), mark=MARKS, amount=st.integers(1, 400))
    def open(self, overdraft: int, mark: int, amount: int) -> None:
        self.account.is_alone = False
        name = self.account.name
        changes = {"overdraft_limit": overdraft, "low_balance_threshold": mark}
        self.world.run(lambda c: put_account(c, name, changes))
        self.model.overdraft = overdraft
        self.world.sender.run_once()
        self._grant(amount, 50, "paid", None)

    @precondition(lambda self: self.grant_count < MAX_GRANTS)
    @rule(
        amount=st.integers(1, 150),
        priority=st.sampled_from([0, 50, 50, 100]),
        category=st.sampled_from(list(Category)),
        hours=st.none() | st.integers(-1, 5),
    )
    def grant(self, amount: int, priority: int, category: Category, hours: int | None) -> None:
        self._grant(amount, priority, category, hours)

    @rule(amount=st.integers(1, 100))
    def take(self, amount: int) -> None:
        self._take(amount)

    @rule(data=st.data(), keep=st.sampled_from([0, 0, 1, 30, 150]), hours=st.integers(-1, 9))
    def roll(self, data: st.DataObject, keep: int, hours: int) -> None:
        """What the ledger has nothing left of is passed over: Redis is asked which it was."""
        numbers = st.integers(1, self.grant_count + 1)
        ids = [f"g{n}" for n in data.draw(st.lists(numbers, max_size=5, unique=True))]
        name, before = self.account.name, self.account.refill_no()
        expires = self.account.now_ms() + hours * HOUR_MS
        options: Any = {"group": f"before {before}", "keep": keep, "expires_at_ms": expires}
        if keep:
            self.world.run(lambda c: roll_grants(c, name, ids, **options))
        else:
            self.world.run(lambda c: end_grants(c, name, ids))
        self._send()
        if self.account.refill_no() == before:
            return
        flat = self._payload()["grants"]
        ends = expires + self.passed_ms
        rolled = [(no, order, ends) for no, order in zip(flat[::2], flat[1::2], strict=True)]
        self._carry_out("roll", keep, rolled)

    @rule(
        status=st.sampled_from([*["active"] * 6, "grace", "suspended", "closed"]),
        overdraft=st.sampled_from([0, 30, 200]),
    )
    def set_status(self, status: str, overdraft: int) -> None:
        name = self.account.name
        self.world.run(lambda c: set_status(c, name, AccountStatus(status), None))
        self.world.run(lambda c: put_account(c, name, {"overdraft_limit": overdraft}))
        self._send()
        if self.account.refill_no() > self.model.refill_no:
            self._carry_out("set_status", status, overdraft)

    @precondition(lambda self: not self.is_tomorrow)
    @rule()
    def pass_midnight(self) -> None:
        """Once: an id that Redis has forgotten may end twice, and the audit would say so."""
        self.is_tomorrow = True
        self.account.pass_midnight()
        self.model.pass_midnight()

    # The worker ------------------------------------------------------------------------------

    @rule()
    def flush(self) -> None:
        self.world.flusher.run_once()

    @rule()
    def flush_everything(self) -> None:
        self.world.flush()

    @rule()
    def send_all_refills_again(self) -> None:
        """As another worker would that did not see them applied."""
        query = "UPDATE refills SET applied_ms = NULL WHERE account = :a AND gen = :g RETURNING 1"
        self.world.sql(query, a=self.account.name, g=self.account.gen)
        self.world.sender.run_once()

    def teardown(self) -> None:
        # The audit reads balances, and reading ends what is due: that is to be in the ledger too.
        while self._call("expire")[1:2] == [1]:
            continue
        self.world.flush()
        rows = self.world.sql(
            "SELECT operation, id, amount, total FROM usage_events"
            " WHERE account = :a AND generation = :g ORDER BY seq",
            a=self.account.name,
            g=self.account.gen,
        )
        assert rows == [event[:4] for event in self.model.events]
        assert self._posted() == self.acknowledged, "not what was acknowledged was posted"
        self._check_grants()
        self._check_watch()
        report = audit(self.world.engine, self.world.nodes, accounts=[self.account.name], wait_s=0)
        assert [line for line in report.lines if not line.is_ok] == []

    def _posted(self) -> int:
        """Return what the ledger has charged the account, in all its generations."""
        query = "SELECT operation, amount FROM usage_events WHERE account = :a"
        rows = self.world.sql(query, a=self.account.name)
        return sum(amount for operation, amount in rows if operation in USAGE)

    def _check_grants(self) -> None:
        query = "SELECT grant_no, amount - used - expired - returned FROM grants WHERE account = :a"
        remaining = dict(self.world.sql(query, a=self.account.name))
        held = [record.held for record in self.model.open_holds().values()]
        for grant_no, amount in remaining.items():
            there = self.model.left().get(grant_no, 0) + sum(h.get(grant_no, 0) for h in held)
            assert amount == there, f"grant {grant_no}"

    def _check_watch(self) -> None:
        if self.account.rings():
            query = "SELECT account FROM watched_accounts WHERE account = :a"
            assert self.world.sql(query, a=self.account.name), "it rang, and nobody watches"

    # How -------------------------------------------------------------------------------------

    def _grant(self, amount: int, priority: int, category: str, hours: int | None) -> None:
        self.grant_count += 1
        expires = hours and self.account.now_ms() + hours * HOUR_MS - self.grant_count * 1_000
        row = self.world.grant(
            self.account.name,
            amount,
            f"g{self.grant_count}",
            category=Category(category),
            priority=priority,
            expires_at_ms=expires,
        )
        self.account.lent[row.grant_no] = amount
        self._send()
        self._carry_out(
            "grant",
            row.grant_no,
            amount,
            priority=priority,
            category=category,
            expires_at_ms=expires,
            ends_at_ms=expires and expires + self.passed_ms,
        )

    def _take(self, amount: int) -> None:
        name, id = self.account.name, f"away-{self.account.gen}-{self.account.refill_no()}"
        self.world.run(lambda c: add_adjustment(c, name, id, -amount, "a test"))
        self._send()
        self._carry_out("take", amount)

    def _payload(self) -> Any:
        """Return what the last refill of the account says."""
        (payload,) = self.world.sql(
            "SELECT payload FROM refills WHERE account = :a AND gen = :g AND refill_no = :n",
            a=self.account.name,
            g=self.account.gen,
            n=self.account.refill_no(),
        )
        return payload

    def _send(self) -> None:
        """Let the worker send what is pending, and the model's clock stand where it did."""
        self._set_clock()
        self.model.refill_no = self.account.refill_no()
        self.world.sender.run_once()

    def _carry_out(self, verb: str, *args: Any, **options: Any) -> None:
        """Let the model do what the worker has sent, which goes on when it is told `again`."""
        number = self.account.refill_no()
        self.model.refill_no = number - 1
        while self.model.do(verb, *args, **options, refill_no=number) == ["again"]:
            continue

    def _call(self, verb: str, *args: Any, **options: Any) -> Reply:
        reply = super()._call(verb, *args, **options)
        if reply[:2] == ["held", 0] and verb == "hold":
            self.totals[args[0]] = 0
        if reply[1:2] != [0] or reply[0] not in ("settled", "held", "debited", "refunded"):
            return reply
        if verb == "settle":
            self.acknowledged += reply[2] - self.totals[args[0]]
            self.totals[args[0]] = reply[2]
        elif verb in ("debit", "refund"):
            self.acknowledged += reply[2] if verb == "debit" else -reply[2]
        return reply


def test_the_ledger_has_what_the_model_has(engine: Engine, redis_client: redis.Redis) -> None:
    made = World(engine, redis_client)
    # Small batches; and the stream is kept, because what it has is compared too.
    made.flusher = Flusher(
        engine, made.nodes, made.metrics, batch_events=BATCH_EVENTS, keep_seconds=86_400
    )
    made.opener.open_shards()

    class Histories(LedgerHistories):
        client = redis_client
        world = made
        names = count(1)

    run_state_machine_as_test(Histories, settings=histories(steps=40, few=25))
    assert made.audit(wait_s=0).is_ok, made.wrong_lines()
