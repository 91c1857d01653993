"""Accounts that sidecars ask for because Redis does not have them, loaded and answered."""

from __future__ import annotations

import logging
from collections import defaultdict
from collections.abc import Mapping
from typing import Any, Final

import redis
import sqlalchemy as sa
from sqlalchemy import Engine
from sqlalchemy.dialects.postgresql import ARRAY

from persistence.pipelines import Call, call_many
from persistence.refills import RefillSender
from sidecar import keys
from sidecar.domain import is_account
from sidecar.metrics import WorkerMetrics
from sidecar.scripts import Scripts

_log: Final = logging.getLogger(__name__)

BATCH_ASKS: Final = 500


class AccountLoader:
    """Answers `credits:ask`: `loaded`, `unknown` to the ledger, or `lost`."""

    def __init__(
        self,
        engine: Engine,
        client: redis.Redis,
        scripts: Scripts,
        sender: RefillSender,
        metrics: WorkerMetrics,
    ) -> None:
        self._engine = engine
        self._redis = client
        self._scripts = scripts
        self._sender = sender
        self._metrics = metrics

    def answer_asks(self, timeout_s: float = 1.0) -> int:
        """Wait for asks, at most `timeout_s`, answer those that are there and return their number.

        Raises the errors of SQLAlchemy and redis-py; the asks of that round go unanswered, and
        those who asked try again.
        """
        asks = self._take(timeout_s)
        if not asks:
            return 0
        outcomes = self._load(sorted(set(asks)))
        self._publish(asks, outcomes)
        return sum(map(len, asks.values()))

    def _take(self, timeout_s: float) -> dict[str, list[str]]:
        """Return the channels that wait, by account."""
        first: Any = self._redis.blpop([keys.ASK], timeout=timeout_s)
        if first is None:
            return {}
        rest: Any = self._redis.lpop(keys.ASK, BATCH_ASKS - 1)
        asks: dict[str, list[str]] = defaultdict(list)
        for item in (first[1], *(rest or ())):
            channel, _, account = item.decode(errors="replace").partition(" ")
            if channel.startswith(keys.ANSWER_CHANNEL_PREFIX) and is_account(account):
                asks[account].append(channel)
        return asks

    def _load(self, accounts: list[str]) -> dict[str, str]:
        outcomes = dict.fromkeys(accounts, "unknown")
        places = self._places(accounts)
        usable = [account for account, place in places.items() if place is not None]
        lost = self._sender.send(usable).lost if usable else set()
        present = self._present({account: places[account] for account in usable})
        for account in places:
            is_loaded = account in present and account not in lost
            outcomes[account] = "loaded" if is_loaded else "lost"
        return outcomes

    def _places(self, accounts: list[str]) -> dict[str, tuple[int, int] | None]:
        """Return shard and epoch of the accounts that the ledger has; None where Redis is lost."""
        with self._engine.connect() as connection:
            rows = connection.execute(_PLACES, {"accounts": accounts}).all()
        return {row.account: (row.shard, row.epoch) if row.is_usable else None for row in rows}

    def _present(self, places: Mapping[str, tuple[int, int] | None]) -> set[str]:
        names = list(places)
        calls: list[Call] = []
        for name in names:
            place = places[name]
            assert place is not None
            calls.append((self._scripts.balance, name, *place, (0,)))
        replies = call_many(self._redis, calls) if calls else []
        return {name for name, reply in zip(names, replies, strict=True) if _is_there(reply)}

    def _publish(self, asks: dict[str, list[str]], outcomes: dict[str, str]) -> None:
        pipeline = self._redis.pipeline(transaction=False)
        for account, channels in asks.items():
            outcome = outcomes[account]
            self._metrics.account_loads.labels(outcome).inc(len(channels))
            if outcome == "lost":
                _log.error("account is not in Redis any more", extra={"account": account})
            for channel in channels:
                pipeline.publish(channel, f"{account} {outcome}")
        pipeline.execute()


def _is_there(reply: Any) -> bool:
    return not isinstance(reply, Exception) and reply[0] not in (b"unknown", b"fenced")


_PLACES: Final = sa.text(
    """
    SELECT a.account, g.shard, g.epoch,
        (g.state = 'open' AND s.state = 'open' AND s.epoch > 0 AND s.epoch = g.epoch) AS is_usable
    FROM accounts a
    JOIN generations g ON g.account = a.account AND g.gen = a.generation
    JOIN shards s ON s.shard = g.shard
    WHERE a.account = ANY(:accounts)
    """
).bindparams(sa.bindparam("accounts", type_=ARRAY(sa.Text)))
