"""Seeded runs: what Stripe tells comes shuffled, twice, late, and to workers that die.

A scenario is a generator: it acts on the fake Stripe, yields whenever time may pass, and returns
what the account must have in the end. Between its steps a run delivers some of what is told, some
of it again, and lets a worker apply it that may die before any of its commits. In the end
everything is delivered, and whatever was delivered is delivered again.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Generator
from dataclasses import dataclass, field
from typing import Any

import redis
import sqlalchemy as sa
from sqlalchemy import Engine

from sidecar.billing.stripe_api import StripeApi
from tests.integration import fake_stripe
from tests.integration.fake_stripe import Fake
from tests.integration.ledger_world import World
from tests.integration.stripe_inbox import Inbox

Scenario = Callable[[Fake, str], Generator[None, None, int]]

_CRASHES = 0.15
_DELIVERS = 0.5
_AGAIN = 0.3
_FAILS = 0.05


class Crash(BaseException):
    """The worker ends here."""


@dataclass
class Chaos:
    """A worker that may die before a commit, and a Stripe that may not answer."""

    engine: Engine
    fake: Fake
    dice: random.Random
    crashes: int = 0
    is_on: bool = True

    def before_commit(self, _: Any) -> None:
        """Die, sometimes: nothing of the transaction is there then."""
        if self.is_on and self.dice.random() < _CRASHES:
            self.crashes += 1
            raise Crash

    def fail_once(self) -> None:
        """Let the next call to Stripe fail, sometimes."""
        if self.dice.random() < _FAILS:
            faults = f"{self.fake.url}/_fake/faults"
            self.fake.http.post(faults, json={"kind": "error_before", "method": "GET"})

    def answer_again(self) -> None:
        """Let Stripe answer: what is planned to fail is for the worker, not for the story."""
        self.fake.http.post(f"{self.fake.url}/_fake/faults/clear")


@dataclass
class Wire:
    """What Stripe tells on its way to one inbox."""

    fake: Fake
    inbox: Inbox
    dice: random.Random
    seen: int
    pending: list[dict[str, Any]] = field(default_factory=list)
    delivered: list[dict[str, Any]] = field(default_factory=list)

    def deliver(self, *, is_all: bool = False) -> None:
        """Deliver what is told, shuffled: about half of it, or all; and some of it again."""
        news = self.fake.events(after=self.seen)
        self.seen += len(news)
        self.pending += news
        self.dice.shuffle(self.pending)
        count = len(self.pending)
        if not is_all:
            count = sum(self.dice.random() < _DELIVERS for _ in self.pending)
        going, self.pending = self.pending[:count], self.pending[count:]
        again = [one for one in self.delivered if is_all or self.dice.random() < _AGAIN]
        self.delivered += going
        self.inbox.store(*going, *again)
        for one in again:
            if self.dice.random() < _AGAIN:
                self.inbox.replay(one["id"])


def play(scenario: Scenario, seeds: range, engine: Engine, client: redis.Redis, fake: Fake) -> int:
    """Run a scenario with each seed, on an account each; return how often a worker died.

    Asserts that each account has in the ledger what the scenario says, that Redis has the same,
    and that the audit finds nothing.
    """
    world = World(engine, client)
    world.opener.open_shards()
    inbox = Inbox(engine, StripeApi(fake_stripe.KEY, fake.url))
    crashes = 0
    expected: dict[str, int] = {}
    for seed in seeds:
        account = f"acme-{seed}"
        inbox.make_account(account)
        dice = random.Random(seed)
        chaos = Chaos(engine, fake, dice)
        sa.event.listen(engine, "commit", chaos.before_commit)
        try:
            expected[account] = _run(scenario(fake, account), inbox, chaos, account)
        finally:
            sa.event.remove(engine, "commit", chaos.before_commit)
        crashes += chaos.crashes
    for account, amount in expected.items():
        assert inbox.ledger(account) == amount, (account, scenario.__name__)
    world.sender.run_once()
    world.assert_sound()
    for account, amount in expected.items():
        assert world.account(account).number("available") == amount, (account, scenario.__name__)
    return crashes


def _run(story: Generator[None, None, int], inbox: Inbox, chaos: Chaos, account: str) -> int:
    wire = Wire(chaos.fake, inbox, chaos.dice, len(chaos.fake.state.events))
    while True:
        try:
            next(story)
        except StopIteration as end:
            expected: int = end.value
            break
        with_crashes(wire.deliver, chaos)
        chaos.fail_once()
        with_crashes(inbox.run, chaos)
        chaos.answer_again()
        inbox.clock.now += chaos.dice.randrange(20_000)
    chaos.is_on = False
    wire.deliver(is_all=True)
    inbox.run()
    # What failed is due again later: out of order, something may have waited for another.
    inbox.clock.now += 3_600_000
    inbox.run()
    open_ones = [one for one in inbox.statuses() if one not in ("applied", "ignored")]
    assert open_ones == [], account
    return expected


def with_crashes(work: Callable[[], Any], chaos: Chaos) -> None:
    """Do something as a worker that dies now and then, and is started again."""
    assert chaos.engine is not None
    while True:
        try:
            work()
            return
        except Crash:
            continue
