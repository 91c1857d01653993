"""Everything that there is in one history, and what happens to it step by step."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Generator
from typing import Any, NamedTuple, Protocol

from tests.simulation.ledger import Account, Generation, Ledger, Shard
from tests.simulation.redis_state import Data, Server, Stream
from tests.simulation.rules import SHARDS, Rules
from tests.simulation.truth import Request, Truth
from tests.simulation.values import Fence, Refill


class Actor(Protocol):
    """A sidecar or a worker."""

    name: str
    is_up: bool
    asleep_until: int


class Task(NamedTuple):
    """Something that an actor is in the middle of."""

    actor: Actor
    name: str
    steps: Generator[None, None, Any]


class World:
    """One history's ledger, Redis processes, clock and chance. Actors are added to it."""

    def __init__(self, seed: int, rules: Rules, *, is_traced: bool = False) -> None:
        self.rng = random.Random(seed)
        self.rules = rules
        self.now = 100
        self.counts: Counter[str] = Counter()
        self.trace: list[str] | None = [] if is_traced else None
        self.tasks: list[Task] = []
        self.requests: list[Request] = []
        self._last_id = 0
        self.primary = Server(self.new_id(), self.new_id(), Data(timeline=1))
        self.others: list[Server] = []
        accounts = self.rng.choice((1, 1, 2, 3))
        self.truth = Truth([0] * accounts, [0] * accounts)
        self.ledger = self._begun(accounts)
        self.kept_data = [self.primary.data.copy()]
        self.kept_ledgers = [(self.now, self.ledger.copy())]

    def new_id(self) -> int:
        """Return a number that was not there before: a run id, a boot, the id of a call."""
        self._last_id += 1
        return self._last_id

    def note(self, what: str, detail: object = "") -> None:
        """Count that a step or a fault was there, and put it into the trace."""
        self.counts[what] += 1
        if self.trace is not None:
            self.trace.append(f"{self.now:5}  {what:38} {detail}")

    # Tasks ------------------------------------------------------------------------------------

    def begin(self, actor: Actor, name: str, steps: Generator[None, None, Any]) -> Task:
        """Let an actor begin something."""
        task = Task(actor, name, steps)
        self.tasks.append(task)
        return task

    def advance(self, task: Task) -> bool:
        """Let a task do its next step, unless its actor is asleep; tell whether it goes on."""
        if task.actor.asleep_until > self.now:
            return True
        try:
            next(task.steps)
        except StopIteration:
            self.tasks.remove(task)
            return False
        return True

    def drop(self, task: Task) -> None:
        """End a task where it is: its reply is lost, or its actor died."""
        self.tasks.remove(task)
        task.steps.close()

    def is_busy(self, actor: Actor, name: str) -> bool:
        """Tell whether an actor is in the middle of something of that name."""
        return any(task.actor is actor and task.name == name for task in self.tasks)

    # The beginning ----------------------------------------------------------------------------

    def _begun(self, accounts: int) -> Ledger:
        """Return a ledger of shards that are open and accounts that Redis does not have yet."""
        server, count = self.primary, min(accounts, SHARDS)
        shards = [Shard(1, server.run_id, server.replid) for _ in range(count)]
        for number in range(count):
            server.data.fences[number] = Fence(1, server.run_id, server.replid, False)
            server.data.streams[number, 1] = Stream(is_claimed=True)
        ledger = Ledger(1, shards, [])
        for number in range(accounts):
            generation = Generation(1, refills=[Refill("open", 0)])
            ledger.accounts.append(Account(number % count, gens={1: generation}))
            self.grant(ledger, number, 100)
        return ledger

    def grant(self, ledger: Ledger, account: int, amount: int) -> None:
        """Let a payment come in."""
        id = f"grant:{self.new_id()}"
        self.truth.grant(account, id, amount)
        ledger.grant(account, id, amount)
