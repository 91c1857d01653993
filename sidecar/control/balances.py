"""What Redis says of accounts: `available`, `held`, open holds. Read only, and never waited for.

Only the Redis process is asked that the ledger lent to. While an account is closing, its Redis
having been lost, nothing is known of what it has there.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final, cast

from redis.exceptions import RedisError, ResponseError

from persistence.errors import RedisChanged
from persistence.pipelines import call_many, call_reachable
from persistence.places import Place
from sidecar.errors import ErrorCode, Refusal
from sidecar.nodes import RedisNodes
from sidecar.records import HoldRecord, decode_hold

log: Final = logging.getLogger(__name__)

_EXPIRE_ROUNDS: Final = 64
_HOLDS_A_SCAN: Final = 500


@dataclass(frozen=True, slots=True)
class Balance:
    """What an account has in Redis, in microcredits."""

    available: int
    held: int


class RedisReader:
    """Reads accounts in Redis."""

    def __init__(self, nodes: RedisNodes) -> None:
        self._nodes = nodes

    def balances(self, places: Sequence[Place]) -> dict[str, Balance]:
        """Return what Redis says of each account; those of which it says nothing are left out."""
        present = [place for place in places if place.is_present]
        try:
            replies = self._ask_all(present) if present else []
        except (RedisError, RedisChanged, OSError) as error:
            log.warning("Redis gave no balances", extra={"error": str(error)})
            return {}
        return {
            place.account: Balance(available=reply[2], held=reply[3])
            for place, reply in zip(present, replies, strict=True)
            if isinstance(reply, list) and reply[0] == b"ok"
        }

    def open_holds(self, place: Place) -> list[HoldRecord]:
        """Return the open holds of an account, newest first.

        Raises `Refusal` (503) when Redis cannot say, and while the account is closing. One that
        Redis does not have because nobody has called it yet has no open holds there.
        """
        if not place.is_present:
            raise _unavailable()
        try:
            status = self._ask(place)[0]
            if status == b"fenced":
                raise _unavailable()
            packed = self._packed_holds(place) if status == b"ok" else {}
        except (RedisError, RedisChanged, OSError) as error:
            raise _unavailable() from error
        holds = [decode_hold(id.decode(), record) for id, record in packed.items()]
        held = [hold for hold in holds if hold is not None and hold.state == "held"]
        return sorted(held, key=lambda hold: (hold.created_at_ms, hold.id), reverse=True)

    def find_hold(self, place: Place, id: str) -> HoldRecord | None:
        """Return a hold, open or ended lately, or None. Raises `Refusal` (503).

        What a lost Redis knew of holds is not shown.
        """
        if not place.is_present:
            return None
        _, _, _, open_key, _, _, even_key, odd_key, _ = place.keys()
        try:
            pipeline = self._nodes.of(place.shard).pipeline(transaction=False)
            for key in (open_key, even_key, odd_key):
                pipeline.hget(key, id)
            found = [record for record in pipeline.execute() if record]
        except (RedisError, OSError) as error:
            raise _unavailable() from error
        return decode_hold(id, found[0]) if found else None

    def _packed_holds(self, place: Place) -> dict[bytes, bytes]:
        # In steps: one HGETALL of very many holds would keep decisions waiting.
        scan = self._nodes.of(place.shard).hscan_iter(place.keys()[3], count=_HOLDS_A_SCAN)
        return dict(cast(Any, scan))

    def _ask_all(self, places: Sequence[Place]) -> list[Any]:
        replies = call_reachable(self._nodes, [place.call("balance", 0) for place in places])
        # One by one what needs more than one call: much that expires.
        return [
            self._ask(place) if isinstance(reply, list) and reply[0] == b"again" else reply
            for place, reply in zip(places, replies, strict=True)
        ]

    def _ask(self, place: Place) -> list[Any]:
        calls = [place.call("balance", 0)]
        for _ in range(_EXPIRE_ROUNDS):
            reply = call_many(self._nodes, calls)[-1]
            if isinstance(reply, Exception):
                raise reply
            if reply[0] != b"again":
                return list(reply)
            calls = [place.call("expire"), place.call("balance", 0)]
        raise ResponseError("too much of the account expires at once")


def _unavailable() -> Refusal:
    return Refusal(ErrorCode.STORE_UNAVAILABLE, "Redis cannot say now which holds are open.")
