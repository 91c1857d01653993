"""A rebuild as an operator follows it: from suspect shards to accounts that are lent again."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import sqlalchemy as sa
from sqlalchemy import Connection, Engine
from sqlalchemy.dialects.postgresql import ARRAY

from persistence.recovery import rebuild, waiting_for


@dataclass(frozen=True, slots=True)
class Stage:
    """How far a rebuild is: its shards by what they wait for, and what is left to do.

    `suspect` wait for a worker to give them up, `draining` for the journals of `waiting_for`
    (names of sidecars, each with its number of shards). `accounts`: those not reopened yet.
    """

    suspect: int
    draining: int
    open: int
    waiting_for: Mapping[str, int]
    accounts: int

    @property
    def shards(self) -> int:
        """All its shards."""
        return self.suspect + self.draining + self.open

    @property
    def is_done(self) -> bool:
        """Whether every shard is open in a new epoch, and every account is lent to again."""
        return self.open == self.shards and not self.accounts


class Rebuild:
    """A rebuild of some shards, or of all. `shards`: those that were ever opened."""

    def __init__(self, engine: Engine, shards: Sequence[int] | None = None) -> None:
        self._engine = engine
        with engine.connect() as connection:
            values = {"shards": None if shards is None else list(shards)}
            self._epochs = {row.shard: row.epoch for row in connection.execute(_EPOCHS, values)}
        self.shards: Final = sorted(self._epochs)

    def begin(self) -> int:
        """Mark the shards to be given up; return for how many that is news. Raises as `rebuild`."""
        return rebuild(self._engine, self.shards)

    def look(self) -> Stage:
        """Return how far it is. Raises the errors of SQLAlchemy."""
        with self._engine.connect() as connection:
            rows = connection.execute(_STATES, {"shards": self.shards}).all()
            is_new = {row.shard: row.epoch > self._epochs[row.shard] for row in rows}
            ready = [row for row in rows if is_new[row.shard] and row.is_open]
            given_up = sum(is_new.values())
            return Stage(
                suspect=len(rows) - given_up,
                draining=given_up - len(ready),
                open=len(ready),
                waiting_for=waiting_for(connection) if given_up > len(ready) else {},
                accounts=int(connection.scalars(_LEFT, {"shards": self.shards}).one()),
            )


def unknown_shards(connection: Connection, shards: Sequence[int]) -> list[int]:
    """Return those of `shards` that the ledger does not have."""
    known = set(connection.scalars(sa.text("SELECT shard FROM shards")))
    return sorted(set(shards) - known)


_SHARD_LIST: Final = sa.bindparam("shards", type_=ARRAY(sa.Integer))

_EPOCHS: Final = sa.text(
    """
    SELECT shard, epoch FROM shards
    WHERE epoch > 0 AND (CAST(:shards AS integer[]) IS NULL OR shard = ANY(:shards))
    """
).bindparams(_SHARD_LIST)

_STATES: Final = sa.text(
    """
    SELECT shard, epoch, state = 'open' AND is_fenced AS is_open FROM shards
    WHERE shard = ANY(:shards)
    """
).bindparams(_SHARD_LIST)

_LEFT: Final = sa.text(
    """
    SELECT count(*) FROM shards s
    JOIN generations g ON g.shard = s.shard AND g.state <> 'closed' AND g.epoch < s.epoch
    WHERE s.shard = ANY(:shards)
    """
).bindparams(_SHARD_LIST)
