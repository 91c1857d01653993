"""One history: chance decides who does what and what breaks; then all is healed, and checked."""

from __future__ import annotations

from collections.abc import Callable, Generator
from functools import partial
from typing import Any

from tests.simulation.checks import check, check_nothing_is_lost, unfinished
from tests.simulation.journal import Disk
from tests.simulation.rules import OVERDRAFT, Rules
from tests.simulation.sidecar import Sidecar
from tests.simulation.truth import Request
from tests.simulation.values import Violation
from tests.simulation.worker import Worker
from tests.simulation.world import Actor, Task, World

_ROUNDS = 40  # in which everything must be well again when nothing breaks any more
_PATIENCE = 400  # steps that one thing may take then


class History(World):
    """A world with its actors, and what they may begin."""

    def __init__(self, seed: int, rules: Rules, *, is_traced: bool = False) -> None:
        super().__init__(seed, rules, is_traced=is_traced)
        self.sidecars = [Sidecar(self, f"s{n}") for n in range(self.rng.randint(2, 3))]
        self.workers = [Worker(self, f"w{n}") for n in range(self.rng.randint(1, 2))]
        self.ended: set[str] = set()
        self.is_behind = False

    def set_up(self) -> None:
        """Let everything begin as it should, in most histories."""
        if self.rng.random() < 0.1:
            return
        worker = self.workers[0]
        for sidecar in self.sidecars:
            self._run(sidecar.look())
        self._run(worker.register())
        for number in range(len(self.ledger.accounts)):
            self._run(worker.send(number))
        self.now += 1
        for sidecar in self.sidecars:
            self._run(sidecar.look())

    # Choices ----------------------------------------------------------------------------------

    def awake(self) -> list[Sidecar]:
        """Return the sidecars that may do something now."""
        return [s for s in self.sidecars if s.is_up and s.asleep_until <= self.now]

    def some_sidecar(self) -> Sidecar | None:
        """Return one that may do something."""
        awake = [s for s in self.awake() if not s.is_leaving]
        return self.rng.choice(awake) if awake else None

    def some_worker(self) -> Worker | None:
        """Return one that may do something."""
        awake = [w for w in self.workers if w.is_up and w.asleep_until <= self.now]
        return self.rng.choice(awake) if awake else None

    def go(self, actor: Actor, name: str, steps: Generator[None, None, Any]) -> None:
        """Let an actor begin something, and go on with it for a while, mostly to the end."""
        self.go_on(self.begin(actor, name, steps))

    def go_on(self, task: Task) -> None:
        """Go on with what an actor is in the middle of."""
        patience = 60 if self.rng.random() < 0.7 else self.rng.randint(1, 4)
        for _ in range(patience):
            if not self.advance(task):
                return

    def go_alone(
        self, actor: Actor, name: str, steps: Callable[[], Generator[None, None, Any]]
    ) -> None:
        """Let an actor begin something that it does only once at a time, or go on with it."""
        for task in self.tasks:
            if task.actor is actor and task.name == name:
                self.go_on(task)
                return
        self.go(actor, name, steps())

    # What callers do --------------------------------------------------------------------------

    def request(self, verb: str, account: int, id: str, amount: int) -> None:
        """Send something new through some sidecar."""
        request = Request(verb, account, id, amount)
        self.requests.append(request)
        self.send(request)

    def send(self, request: Request, through: str = "") -> None:
        """Send a request, the first time or again."""
        named = [s for s in self.awake() if s.name == through and not s.is_leaving]
        sidecar = named[0] if named else self.some_sidecar()
        if sidecar is not None:
            ttl = self.rng.choice((15, 60, 200))
            self.go(sidecar, "request", sidecar.decide(request, ttl))

    def new_call(self, verb: str) -> None:
        """Ask for a debit or a hold."""
        account = self.rng.randrange(len(self.ledger.accounts))
        amount = self.rng.randint(5, 40)
        if self.rng.random() < 0.15:
            amount = self._all_of(account) or amount
        self.request(verb, account, f"{verb[0]}{self.new_id()}", amount)

    def _all_of(self, account: int) -> int:
        """Return all that some Redis says may be spent: what is there twice is spent twice."""
        server = self.rng.choice([self.primary, *self.others])
        there = server.data.accounts.get(account)
        return max(there.available + OVERDRAFT, 0) if there is not None else 0

    def end_hold(self) -> None:
        """Settle or release a hold that was acknowledged, through its sidecar mostly."""
        open_holds = [
            r for r in self.requests
            if r.verb == "hold" and r.is_acknowledged and r.id not in self.ended
        ]  # fmt: skip
        if not open_holds:
            return
        hold = self.rng.choice(open_holds)
        self.ended.add(hold.id)
        verb = "settle" if self.rng.random() < 0.75 else "release"
        amount = max(1, int(hold.amount * self.rng.choice((0.5, 1, 1, 1.3))))
        request = Request(verb, hold.account, hold.id, amount, hold.through)
        self.requests.append(request)
        self.send(request, hold.through if self.rng.random() < 0.8 else "")

    def repeat(self) -> None:
        """Send a request again, with the same id: mostly one that had no answer."""
        chosen = [r for r in self.requests if not r.is_acknowledged or self.rng.random() < 0.3]
        if chosen:
            request = self.rng.choice(chosen)
            self.note("caller: sends again", request.id)
            self.send(request, request.through if self.rng.random() < 0.6 else "")

    def go_on_somewhere(self) -> None:
        """Go on with something that was left in the middle."""
        if self.tasks:
            self.advance(self.rng.choice(self.tasks))

    # What sidecars do by themselves -----------------------------------------------------------

    def look(self) -> None:
        """Let sidecars look at Redis, and hand in if they are to."""
        for sidecar in self.awake():
            if not sidecar.server.is_up or not sidecar.server.is_master:
                sidecar.server = self.primary
            self.go_alone(sidecar, "look", sidecar.look)
            for shard in sidecar.to_hand_in()[:1]:
                self.go_alone(sidecar, "hand in", partial(sidecar.hand_in, shard))

    def tidy(self) -> None:
        """Let journals remove what is forgotten."""
        for sidecar in self.awake():
            sidecar.disk.tidy()

    # What workers do --------------------------------------------------------------------------

    def job(self, name: str, steps: Callable[[Worker], Generator[None, None, Any]]) -> None:
        """Let a worker do one of its jobs, unless it is at it."""
        worker = self.some_worker()
        if worker is None:
            return
        if not worker.server.is_up or not worker.server.is_master:
            worker.server = self.primary
        self.go_alone(worker, name, partial(steps, worker))

    def pay_again(self) -> None:
        """Payments that a ledger which went back in time has forgotten are found again."""
        for id, (account, amount) in self.truth.grants.items():
            self.ledger.grant(account, id, amount)

    # The end ----------------------------------------------------------------------------------

    def die(self, actor: Actor) -> None:
        """End an actor's process, with everything that it was in the middle of."""
        actor.is_up = False
        for task in [task for task in self.tasks if task.actor is actor]:
            self.drop(task)

    def settle_down(self) -> None:
        """Heal everything, and let the protocol run to its end. Raises `Violation`."""
        self.note("everything is healed")
        self._heal()
        for _ in range(_PATIENCE):
            if not self.tasks:
                break
            self.advance(self.rng.choice(self.tasks))
        else:
            raise Violation("stuck", f"still at it: {[t.name for t in self.tasks]}")
        for _ in range(_ROUNDS):
            self.now += 2
            self._round()
            left = unfinished(
                self.ledger, self.primary, self.sidecars, is_fenced=self.rules.is_fenced
            )
            if left:
                continue
            check(self.ledger, self.primary, self.truth, self._destroyed())
            if self._serve():
                return
        check_nothing_is_lost(self.ledger, self.truth, self._destroyed())
        raise Violation("stuck", left or "no sidecar answers")

    def _serve(self) -> bool:
        """Spend all that there is, through some sidecar; tell whether that was done before."""
        spent = {request.account for request in self.requests if request.id.startswith("last")}
        for account in sorted(set(range(len(self.ledger.accounts))) - spent):
            request = Request("debit", account, f"last{account}", self._all_of(account))
            sidecar = self.rng.choice([s for s in self.sidecars if s.is_up])
            if request.amount:
                self._run(sidecar.decide(request, 1))
            if request.is_acknowledged or not request.amount:
                self.requests.append(request)
        return len(spent) == len(self.ledger.accounts)

    def _heal(self) -> None:
        for server in self.others:
            server.is_up = False
        self.others.clear()
        self.primary.is_up = self.primary.is_master = True
        actors: list[Sidecar | Worker] = [*self.sidecars, *self.workers]
        for actor in actors:
            actor.asleep_until = 0
            if not actor.is_up and not (isinstance(actor, Sidecar) and actor.disk.is_destroyed):
                actor.start()
            actor.server = self.primary

    def _destroyed(self) -> set[str]:
        return {s.name for s in self.sidecars if s.disk.is_destroyed}

    def _round(self) -> None:
        self.pay_again()
        # Somebody asks for each account: only then is it known that Redis lacks it.
        self.primary.data.asks.update(range(len(self.ledger.accounts)))
        for sidecar in self.sidecars:
            if sidecar.is_up:
                sidecar.is_leaving = False
                self._run(sidecar.look())
                for shard in sidecar.to_hand_in():
                    self._run(sidecar.hand_in(shard))
        for worker in self.workers:
            self._run(worker.open_shards())
            self._run(worker.register())
            for number in range(len(self.ledger.shards)):
                self._run(worker.flush(number))
            self._run(worker.publish())
            self._run(worker.answer())
            self._run(worker.reopen())
            for number in range(len(self.ledger.accounts)):
                self._run(worker.send(number))
        self.declare_dead()

    def declare_dead(self) -> None:
        """Let an operator declare dead whose disk is destroyed, when it is waited for."""
        for name in self._destroyed():
            row = self.ledger.sidecars.get(name)
            is_waited_for = (
                row is not None and row.state == "alive" and self.ledger.is_pending(name)
            )
            if is_waited_for and self.ledger.may_enter():
                self.primary.data.forget_signs(name)
                self._run(self.workers[0].end(name, "dead"))

    def write_off(self, disk: Disk) -> None:
        """Know what may be lost with a disk: what nobody else acknowledged and the ledger lacks."""
        disk.is_destroyed = True
        gone = self._destroyed()
        for key, by in self.truth.by.items():
            if by <= gone and key not in self.ledger.usage:
                self.truth.written_off[key] = self.truth.acknowledged[key]

    def _run(self, steps: Generator[None, None, Any]) -> None:
        for number, _ in enumerate(steps):
            if number > _PATIENCE:
                raise Violation("stuck", f"{steps} never ends")
