"""Redis as the hot path sees it: one script call at a time, fenced, with a deadline and no retry.

A call that gave no answer has an unknown outcome. It is never sent again from here: the caller
repeats the same id, and the script finds out.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any, Final, cast

from redis.exceptions import (
    AskError,
    ClusterDownError,
    NoScriptError,
    ReadOnlyError,
    ResponseError,
    TryAgainError,
)

from sidecar import keys
from sidecar.errors import ErrorCode, Refusal, StoreUnavailable
from sidecar.meter.entries import Argument
from sidecar.meter.lease import Lease, Place
from sidecar.meter.loader import AccountLoader
from sidecar.meter.nodes import Node, Nodes
from sidecar.meter.wire import FAULTS
from sidecar.metrics import MeterMetrics

log: Final = logging.getLogger(__name__)

_EXPIRE_ROUNDS: Final = 64


@dataclass(frozen=True, slots=True)
class Decision:
    """A script's reply, where it ran, and what it left for the journal.

    `stream_id` and `event`: of the usage event that the call wrote; a replay of the call that
    wrote it knows the former only.
    """

    reply: list[Any]
    place: Place
    stream_id: str = ""
    event: bytes = b""

    @property
    def status(self) -> bytes:
        """The script's status."""
        status: bytes = self.reply[0]
        return status


class Store:
    """Runs scripts on the accounts of the shards that are open to this sidecar."""

    def __init__(
        self,
        nodes: Nodes,
        lease: Lease,
        loader: AccountLoader,
        metrics: MeterMetrics,
        allowances: dict[str, int],
        *,
        timeout_ms: int,
    ) -> None:
        self._nodes = nodes
        self._lease = lease
        self._loader = loader
        self._metrics = metrics
        self._allowances = allowances
        self._timeout_seconds = timeout_ms / 1000

    async def run(self, verb: str, account: str, args: tuple[Argument, ...]) -> Decision:
        """Run the script of a verb on one account.

        Raises `StoreUnavailable` when Redis gave no answer or may not decide for the account, and
        `Refusal` (404) when the ledger does not know the account.
        """
        decision = await self._run_once(verb, account, args)
        if decision.status in _ABSENT:
            # Of another epoch is as good as not there: what Redis has of it was given up.
            await self._load(account)
            decision = await self._run_once(verb, account, args)
        if decision.status in _ABSENT:
            self._lease.suspect()
            raise StoreUnavailable("the account was loaded, but is not there")
        return decision

    async def event(self, place: Place, stream_id: str) -> bytes:
        """Return a usage event that is in the stream, or nothing when it is there no more."""
        stream = keys.stream(place.shard, place.epoch)
        entries = await self._call(
            place.node, place.node.client.xrange(stream, stream_id, stream_id)
        )
        return bytes(entries[0][1][b"e"]) if entries else b""

    async def hand_in(self, place: Place, mark: str, events: list[bytes]) -> str | None:
        """Append events of older epochs to a shard's stream, and the mark that they were all.

        Returns the stream id of the last entry, or None when the shard is of another epoch by now.
        Raises `StoreUnavailable`.
        """
        names = keys.fence(place.shard), keys.stream(place.shard, place.epoch)
        script = place.scripts.hand_in
        reply = await self._evaluate(place.node, script.sha, names, (place.epoch, mark, *events))
        return reply[1].decode() if reply[0] == b"appended" else None

    async def close(self) -> None:
        """Close all connections."""
        await self._loader.close()
        await self._nodes.close()

    async def _run_once(self, verb: str, account: str, args: tuple[Argument, ...]) -> Decision:
        place = self._lease.place(account)
        names = keys.account_keys(account, place.shard, place.epoch)
        try:
            return await self._run_at(place, verb, names, args, account)
        except _Unknown:
            # Redis did nothing: it has no such script, after a flush of them or a restart.
            await self._lease.renew(place.node)
            place = self._lease.place(account)
            names = keys.account_keys(account, place.shard, place.epoch)
            return await self._run_at(place, verb, names, args, account)

    async def _run_at(
        self,
        place: Place,
        verb: str,
        names: tuple[str, ...],
        args: tuple[Argument, ...],
        account: str,
    ) -> Decision:
        script = getattr(place.scripts, verb)
        for _ in range(_EXPIRE_ROUNDS):
            reply = await self._evaluate(place.node, script.sha, names, (place.epoch, *args))
            if reply[0] in _ABSENT:
                return Decision(reply, place)
            trail = reply.pop()
            if reply[0] != b"again":
                return self._decision(reply, trail, place, account)
            await self._evaluate(place.node, place.scripts.expire.sha, names, (place.epoch,))
        raise StoreUnavailable("too much of the account expires at once")

    def _decision(self, reply: list[Any], trail: list[Any], place: Place, account: str) -> Decision:
        """Split a reply from its last element, which `lua/prelude.lua` describes."""
        allowance, *written = trail
        if allowance:
            self._allowances[account] = allowance
        elif account in self._allowances:
            del self._allowances[account]
        stream_id = written[0].decode() if written and written[0] else ""
        return Decision(reply, place, stream_id, written[1] if len(written) > 1 else b"")

    async def _load(self, account: str) -> None:
        outcome = await self._loader.load(account)
        self._metrics.account_loads.labels(outcome).inc()
        if outcome == "unknown":
            raise Refusal(ErrorCode.ACCOUNT_NOT_FOUND, "There is no such account.")
        if outcome != "loaded":
            raise StoreUnavailable(f"the account could not be loaded: {outcome}")

    async def _evaluate(
        self, node: Node, sha: str, names: tuple[str, ...], args: tuple[Argument, ...]
    ) -> list[Any]:
        call = cast(Callable[..., Awaitable[list[Any]]], node.client.evalsha)
        return cast(list[Any], await self._call(node, call(sha, len(names), *names, *args)))

    async def _call(self, node: Node, call: Awaitable[Any]) -> Any:
        started = time.perf_counter()
        try:
            async with asyncio.timeout(self._timeout_seconds):
                reply = await call
        except NoScriptError as error:
            raise _Unknown(str(error)) from error
        except FAULTS as error:
            raise self._failed(node, error) from error
        self._metrics.redis_seconds.observe(time.perf_counter() - started)
        return reply

    def _failed(self, node: Node, error: Exception) -> StoreUnavailable:
        self._metrics.redis_errors.labels(type(error).__name__).inc()
        if isinstance(error, ReadOnlyError):
            self._lease.give_up(node)
        elif isinstance(error, _MOVING):
            self._lease.suspect()  # the slot has another node, or will have it soon
        elif isinstance(error, ResponseError):
            log.error("Redis refused a call", extra={"error": str(error)})
        else:
            self._lease.suspect()
        return StoreUnavailable(f"Redis: {str(error) or type(error).__name__}")


class _Unknown(StoreUnavailable):
    """Raised when Redis does not know a script."""


_MOVING: Final = (AskError, TryAgainError, ClusterDownError)  # `MovedError` is an `AskError`
_ABSENT: Final = (b"unknown", b"fenced")
