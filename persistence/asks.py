"""Accounts that sidecars ask for because Redis does not have them, loaded and answered."""

from __future__ import annotations

import logging
from collections import defaultdict
from collections.abc import Sequence
from typing import Any, Final

from sqlalchemy import Engine

from persistence.database import in_transaction
from persistence.errors import RedisChanged
from persistence.pipelines import call_reachable, is_away
from persistence.places import Place, places_of
from persistence.recovery import Cause, suspect
from persistence.refills import RefillSender, Sent
from persistence.reopening import Reopener
from sidecar import keys
from sidecar.domain import is_account
from sidecar.metrics import WorkerMetrics
from sidecar.nodes import FAULTS, RedisNodes

_log: Final = logging.getLogger(__name__)

BATCH_ASKS: Final = 500


class AccountLoader:
    """Answers `{credits}:ask`: `loaded`, `unknown` to the ledger, `closing` or `lost`.

    `closing`: the account's Redis was given up, and it is away until every journal is in. `lost`:
    Redis refused what it was sent.
    """

    def __init__(
        self,
        engine: Engine,
        nodes: RedisNodes,
        sender: RefillSender,
        reopener: Reopener,
        metrics: WorkerMetrics,
    ) -> None:
        self._engine = engine
        self._nodes = nodes
        self._sender = sender
        self._reopener = reopener
        self._metrics = metrics

    def answer_asks(self, timeout_s: float = 1.0) -> int:
        """Wait for asks, at most `timeout_s`, answer those that are there and return their number.

        Raises `RedisChanged` and the errors of SQLAlchemy and redis-py; the asks of that round go
        unanswered, and those who asked try again.
        """
        asks = self._take(timeout_s)
        if not asks:
            return 0
        outcomes = self._load(sorted(set(asks)))
        self._publish(asks, outcomes)
        return sum(map(len, asks.values()))

    def _take(self, timeout_s: float) -> dict[str, list[str]]:
        """Return the channels that wait, by account."""
        home: Any = self._nodes.home
        first = home.blpop([keys.ASK], timeout=timeout_s)
        if first is None:
            return {}
        rest = home.lpop(keys.ASK, BATCH_ASKS - 1)
        asks: dict[str, list[str]] = defaultdict(list)
        for item in (first[1], *(rest or ())):
            channel, _, account = item.decode(errors="replace").partition(" ")
            if channel.startswith(keys.ANSWER_CHANNEL_PREFIX) and is_account(account):
                asks[account].append(channel)
        return asks

    def _load(self, accounts: list[str]) -> dict[str, str]:
        places = self._places(accounts)
        due = [place.account for place in places if place.is_due]
        if due:
            self._reopener.reopen(due)
            places = self._places(accounts)
        usable = [place.account for place in places if place.is_present]
        sent = self._send(usable)
        # Read again: what Redis has been sent by now, it must have.
        usable_now = [place for place in self._places(usable) if place.is_present]
        outcomes = dict.fromkeys(accounts, "unknown")
        outcomes |= {place.account: "closing" for place in places}
        for place, reply in zip(usable_now, self._balances(usable_now), strict=True):
            outcomes[place.account] = self._outcome(place, reply)
        return outcomes | dict.fromkeys(sent.lost if sent else (), "closing")

    def _send(self, accounts: list[str]) -> Sent | None:
        if not accounts:
            return None
        try:
            return self._sender.send(accounts)
        except (*FAULTS, RedisChanged) as error:
            # Others of them may be there all the same: what Redis says of each one counts.
            _log.warning("refills not sent", extra={"error": str(error)})
            return None

    def _outcome(self, place: Place, reply: Any) -> str:
        if is_away(reply):
            return "closing"
        if isinstance(reply, Exception):
            return "lost"
        if reply[0] not in (b"unknown", b"fenced"):
            return "loaded"
        if not place.has_refills:
            return "lost"
        missing = Cause.ACCOUNT_MISSING
        if in_transaction(self._engine, lambda c: suspect(c, place.shard, place.epoch, missing)):
            fields = {"account": place.account, "shard": place.shard}
            _log.critical("account is not in Redis any more", extra=fields)
        return "closing"

    def _places(self, accounts: list[str]) -> list[Place]:
        with self._engine.connect() as connection:
            return places_of(connection, accounts)

    def _balances(self, places: Sequence[Place]) -> list[Any]:
        calls = [place.call("balance", 0) for place in places]
        return call_reachable(self._nodes, calls) if calls else []

    def _publish(self, asks: dict[str, list[str]], outcomes: dict[str, str]) -> None:
        pipeline = self._nodes.home.pipeline(transaction=False)
        for account, channels in asks.items():
            outcome = outcomes[account]
            self._metrics.account_loads.labels(outcome).inc(len(channels))
            if outcome == "lost":
                _log.error("account cannot be loaded", extra={"account": account})
            for channel in channels:
                pipeline.publish(channel, f"{account} {outcome}")
        pipeline.execute()
