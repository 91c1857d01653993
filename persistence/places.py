"""Where accounts are: which shard, epoch and Redis process their newest generation belongs to."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import sqlalchemy as sa
from sqlalchemy import Connection
from sqlalchemy.dialects.postgresql import ARRAY

from persistence.pipelines import Argument, Call
from sidecar import keys


@dataclass(frozen=True, slots=True)
class Place:
    """Where an account is. `epoch` is its shard's; `run_id` is empty while no Redis decides for it.

    `is_present`: Redis decides for it now, or will when it has its refills. `is_due`: its Redis was
    given up and it can be reopened; with neither it is closing. `has_refills`: it was in Redis.
    """

    account: str
    shard: int
    epoch: int
    run_id: str
    is_present: bool
    is_due: bool
    has_refills: bool

    def keys(self) -> tuple[str, ...]:
        """Return the KEYS of the account's scripts."""
        return keys.account_keys(self.account, self.shard, self.epoch)

    def call(self, verb: str, *args: Argument) -> Call:
        """Return a call of one of the account's scripts."""
        return Call(verb, self.account, self.shard, self.epoch, self.run_id, args)


def places_of(connection: Connection, accounts: Sequence[str]) -> list[Place]:
    """Return the places of those accounts that the ledger has."""
    if not accounts:
        return []
    rows = connection.execute(_PLACES, {"accounts": list(accounts)})
    return [Place(*row) for row in rows]


_PLACES: Final = sa.text(
    """
    SELECT a.account, g.shard, s.epoch, coalesce(s.run_id, '') AS run_id,
        g.state = 'open' AND g.epoch = s.epoch AND s.state <> 'suspect' AND s.is_fenced
            AS is_present,
        g.state <> 'closed' AND g.epoch < s.epoch AND s.state = 'open' AND s.is_fenced AS is_due,
        g.applied_refill_no > 0 AS has_refills
    FROM accounts a
    JOIN generations g ON g.account = a.account AND g.gen = a.generation
    JOIN shards s ON s.shard = g.shard
    WHERE a.account = ANY(:accounts)
    """
).bindparams(sa.bindparam("accounts", type_=ARRAY(sa.Text)))
