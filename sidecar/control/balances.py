"""What Redis says of accounts: `available`, `held`, open holds. Read only, and never waited for."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final, cast

import redis
from redis.backoff import NoBackoff
from redis.exceptions import NoScriptError, RedisError, ResponseError
from redis.retry import Retry

from sidecar import keys
from sidecar.errors import ErrorCode, Refusal
from sidecar.records import HoldRecord, decode_hold
from sidecar.scripts import ScriptRunner, Scripts

log: Final = logging.getLogger(__name__)

_EXPIRE_ROUNDS: Final = 64
_HOLDS_A_SCAN: Final = 500


@dataclass(frozen=True, slots=True)
class Place:
    """Where an account is in Redis."""

    account: str
    shard: int
    epoch: int

    def keys(self) -> tuple[str, ...]:
        """Return the KEYS of the account's scripts."""
        return keys.account_keys(self.account, self.shard, self.epoch)


@dataclass(frozen=True, slots=True)
class Balance:
    """What an account has in Redis, in microcredits."""

    available: int
    held: int


def connect(url: str, timeout_ms: int) -> redis.Redis:
    """Return a client that gives up after `timeout_ms` and repeats nothing."""
    return redis.Redis.from_url(
        url,
        socket_timeout=timeout_ms / 1000,
        socket_connect_timeout=timeout_ms / 1000,
        retry=Retry(NoBackoff(), 0),
    )


class RedisReader:
    """Reads accounts in Redis."""

    def __init__(self, client: redis.Redis, scripts: Scripts) -> None:
        self._client = client
        self._scripts = scripts
        self._runner = ScriptRunner(client)

    def balances(self, places: Sequence[Place]) -> dict[str, Balance]:
        """Return what Redis says of each account; those of which it says nothing are left out."""
        try:
            replies = self._ask_all(places) if places else []
        except (RedisError, OSError) as error:
            log.warning("Redis gave no balances", extra={"error": str(error)})
            return {}
        return {
            place.account: Balance(available=reply[2], held=reply[3])
            for place, reply in zip(places, replies, strict=True)
            if isinstance(reply, list) and reply[0] == b"ok"
        }

    def open_holds(self, place: Place) -> list[HoldRecord]:
        """Return the open holds of an account, newest first.

        Raises `Refusal` (503) when Redis cannot say. An account that Redis does not have, because
        it is new or its state was lost, has no open holds there.
        """
        try:
            status = self._ask(place)[0]
            if status == b"fenced":
                raise _unavailable()
            packed = self._packed_holds(place) if status == b"ok" else {}
        except (RedisError, OSError) as error:
            raise _unavailable() from error
        holds = [decode_hold(id.decode(), record) for id, record in packed.items()]
        held = [hold for hold in holds if hold is not None and hold.state == "held"]
        return sorted(held, key=lambda hold: (hold.created_at_ms, hold.id), reverse=True)

    def find_hold(self, place: Place, id: str) -> HoldRecord | None:
        """Return a hold, open or ended lately, or None. Raises `Refusal` (503)."""
        _, _, _, open_key, _, _, even_key, odd_key, _ = place.keys()
        try:
            pipeline = self._client.pipeline(transaction=False)
            for key in (open_key, even_key, odd_key):
                pipeline.hget(key, id)
            found = [record for record in pipeline.execute() if record]
        except (RedisError, OSError) as error:
            raise _unavailable() from error
        return decode_hold(id, found[0]) if found else None

    def _packed_holds(self, place: Place) -> dict[bytes, bytes]:
        # In steps: one HGETALL of very many holds would keep decisions waiting.
        scan = self._client.hscan_iter(place.keys()[3], count=_HOLDS_A_SCAN)
        return dict(cast(Any, scan))

    def _ask_all(self, places: Sequence[Place]) -> list[Any]:
        script = self._scripts.balance
        pipeline = self._client.pipeline(transaction=False)
        for place in places:
            names = place.keys()
            pipeline.evalsha(script.sha, len(names), *names, place.epoch, 0)
        replies = pipeline.execute(raise_on_error=False)
        # One by one what needs more than one call: a script to load, or much that expires.
        return [
            self._ask(place) if _is_incomplete(reply) else reply
            for place, reply in zip(places, replies, strict=True)
        ]

    def _ask(self, place: Place) -> list[Any]:
        for _ in range(_EXPIRE_ROUNDS):
            reply: list[Any] = self._runner.call(
                self._scripts.balance, place.keys(), (place.epoch, 0)
            )
            if reply[0] != b"again":
                return reply
            self._runner.call(self._scripts.expire, place.keys(), (place.epoch,))
        raise ResponseError("too much of the account expires at once")


def _is_incomplete(reply: Any) -> bool:
    if isinstance(reply, list):
        return bool(reply[0] == b"again")
    return isinstance(reply, NoScriptError)


def _unavailable() -> Refusal:
    return Refusal(ErrorCode.STORE_UNAVAILABLE, "Redis cannot say now which holds are open.")
