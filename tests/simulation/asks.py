"""Refills, reopening, and accounts that sidecars ask for. `persistence.refills`, `asks`."""

from __future__ import annotations

from tests.simulation import scripts
from tests.simulation.jobs import Jobs
from tests.simulation.redis_state import Account, Server
from tests.simulation.scripts import Call
from tests.simulation.values import Refill, Steps


class Asks(Jobs):
    """Brings accounts to Redis."""

    def reopen(self) -> Steps:
        """Reopen what is due: `persistence.reopening.Reopener.run_once`."""
        for number in range(len(self.ledger.accounts)):
            yield from self._reopen(number)

    def _reopen(self, number: int) -> Steps:
        if not self.ledger.is_due(self.ledger.accounts[number]):
            return
        while self.ledger.opener is not None:
            yield
        account = self.ledger.accounts[number]
        if self.ledger.is_due(account):
            self.ledger.reopen(account, self.rules)
            self.world.note("worker: reopened", f"{number} gen {account.gen} {account.present}")
        yield

    def answer(self) -> Steps:
        """Load the accounts that sidecars ask for: `persistence.asks.AccountLoader`."""
        server = self.master()
        if server is None:
            return
        asks = sorted(server.data.asks)
        server.data.asks.clear()
        for number in asks:
            yield
            yield from self._reopen(number)
            yield from self.send(number)
            yield from self._look_for(number)

    def _look_for(self, number: int) -> Steps:
        """Find out whether Redis has an account that it must have: `AccountLoader._outcome`."""
        account, server = self.ledger.accounts[number], self.master()
        if server is None or not self.ledger.is_sendable(account):
            return
        generation, shard = account.present, self.ledger.shards[account.shard]
        call = self._call(number, server)
        yield
        found = scripts.load(call)
        if found not in ("unknown", "fenced") or not generation.applied:
            return
        if self.rules.never_seeds_again:
            yield from self.suspect(account.shard, call.epoch, "account_missing")
        else:
            applied, seq = generation.applied, generation.seq
            again = Account(shard.epoch, account.gen, applied, seq, generation.balance)
            server.data.accounts[number] = again

    # Refills ----------------------------------------------------------------------------------

    def send(self, number: int) -> Steps:
        """Send what is pending of an account, and mark it: `RefillSender.send`."""
        ledger, account = self.ledger, self.ledger.accounts[number]
        server = self.master()
        generation, gen = account.present, account.gen
        if server is None or not ledger.is_sendable(account):
            return
        refills, applied = list(generation.refills), generation.applied
        if len(refills) == applied:
            return
        call = self._call(number, server)
        yield
        if not server.is_up:
            return
        # One transaction: nobody may see an account between its opening and its first grant.
        status, done, known = self._apply(call._replace(now=self.world.now), gen, refills, applied)
        self.world.note("worker: refills sent", f"{number}/{gen} {refills[applied:]} {status}")
        yield
        if status in ("unknown", "stale", "fenced", "behind"):
            cause = "refill_behind" if status == "behind" else "account_missing"
            yield from self.suspect(account.shard, call.epoch, cause)
        present = self.ledger.accounts[number].gens.get(gen)
        if present is None or not done:
            return
        present.applied = max(present.applied, min(done, len(present.refills)))
        self.world.note("worker: refills marked", f"{number}/{gen} up to {done}")
        if known > len(present.refills):
            yield from self.suspect(account.shard, call.epoch, "refill_ahead")

    def _call(self, number: int, server: Server) -> Call:
        account = self.ledger.accounts[number]
        shard = self.ledger.shards[account.shard]
        place = account.shard, shard.epoch, number, self.world.now
        return Call(server, shard.run_id, *place, self.rules)

    def _apply(
        self, call: Call, gen: int, refills: list[Refill], applied: int
    ) -> tuple[str, int, int]:
        """Apply what follows `applied`; return the status, the last that is in, and Redis's last.

        What Redis lacks before them is sent again first: `RefillSender._catch_up`.
        """
        status, done, known, number = "applied", 0, 0, applied + 1
        while number <= len(refills):
            status, known = scripts.refill(call, gen, number, refills[number - 1])
            if status == "gap" and known < applied:
                return "behind", done, known
            if status == "gap":
                number = known + 1
            elif status in ("applied", "replayed"):
                done, number = number, number + 1
            else:
                break
        return status, done, known
