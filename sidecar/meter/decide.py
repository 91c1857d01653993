"""One decision: price the request, run its script, and say what came of it."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Sequence
from typing import Any, Final, cast

import msgspec

from sidecar.errors import ErrorCode, Refusal, StoreUnavailable
from sidecar.meter import requests
from sidecar.meter.operations import OPERATIONS, Operation, Plan, Reply
from sidecar.meter.refusals import REFUSALS
from sidecar.meter.store import Store
from sidecar.metrics import MeterMetrics
from sidecar.pricing.book import PriceBook
from sidecar.scripts import Scripts

log: Final = logging.getLogger(__name__)


class Decider:
    """Decides requests against one store with one price book."""

    def __init__(
        self,
        store: Store,
        scripts: Scripts,
        book: PriceBook,
        metrics: MeterMetrics,
        top_up_url: str | None = None,
    ) -> None:
        self._store = store
        self._scripts = scripts
        self._book = book
        self._metrics = metrics
        self._top_up_url = top_up_url

    async def decide(self, operation: Operation[Any], request: requests.Request) -> dict[str, Any]:
        """Decide one request and return its answer. Raises `Refusal` when it is refused."""
        started = time.perf_counter()
        status = "internal_error"
        try:
            answer = await self._decide(operation, request)
            status = str(answer.get("status", "ok"))
            return answer
        except Refusal as refusal:
            status = refusal.code.value
            raise
        except StoreUnavailable as error:
            status = ErrorCode.STORE_UNAVAILABLE.value
            log.debug("no decision", extra={"error": str(error)})
            message = "No decision could be made now. Send the same id again."
            raise Refusal(ErrorCode.STORE_UNAVAILABLE, message) from error
        finally:
            self._metrics.decisions.labels(operation.name, status).inc()
            seconds = time.perf_counter() - started
            self._metrics.decision_seconds.labels(operation.name).observe(seconds)

    async def _decide(self, operation: Operation[Any], request: requests.Request) -> dict[str, Any]:
        plan, reply = await self._run(operation, request, version="")
        if reply[0] == b"reprice":
            # The hold was priced by another version of the book: that one prices its settle too.
            plan, reply = await self._run(operation, request, version=reply[1].decode())
        refuse = REFUSALS.get(reply[0])
        if refuse is not None:
            raise refuse(plan, reply, self._top_up_url)
        if operation.name == "hold" and reply[1] and reply[6]:
            # A repeat is answered by the prices of the first time.
            plan = operation.plan(request, self._book, reply[6].decode())
        return operation.answer(request, plan, reply)

    async def _run(
        self, operation: Operation[Any], request: requests.Request, version: str
    ) -> tuple[Plan, Reply]:
        plan = operation.plan(request, self._book, version)
        script = getattr(self._scripts, operation.script)
        return plan, await self._store.run(script, request.account, plan.args)

    async def batch(self, members: Sequence[Any]) -> list[dict[str, Any]]:
        """Decide the members of a batch, each on its own; those of one account in their order."""
        results: list[dict[str, Any]] = [{} for _ in members]
        by_account: dict[str, list[int]] = {}
        for position, member in enumerate(members):
            by_account.setdefault(_account_of(member), []).append(position)

        async def decide(positions: list[int]) -> None:
            unavailable: Refusal | None = None
            for position in positions:
                try:
                    operation, request = _read_member(members[position])
                    # An account that has no answer now would keep each of its members waiting.
                    if unavailable is not None:
                        raise unavailable
                    results[position] = {"http": 200, **await self.decide(operation, request)}
                except Refusal as refusal:
                    results[position] = {"http": refusal.http, **refusal.body()}
                    if refusal.code is ErrorCode.STORE_UNAVAILABLE:
                        unavailable = refusal

        await asyncio.gather(*(decide(positions) for positions in by_account.values()))
        return results


def _account_of(member: Any) -> str:
    account = member.get("account") if isinstance(member, dict) else None
    return account if isinstance(account, str) else ""


def _read_member(member: Any) -> tuple[Operation[Any], requests.Request]:
    if not isinstance(member, dict):
        raise requests.invalid("An operation must be an object.", "operations")
    fields = dict(member)
    name = fields.pop("op", None)
    operation = OPERATIONS.get(name) if isinstance(name, str) else None
    if operation is None or name == "balance":
        known = ", ".join(sorted(OPERATIONS.keys() - {"balance"}))
        raise requests.invalid(f"`op` must be one of {known}.", "op")
    return operation, cast(requests.Request, requests.convert(fields, operation.request))


DECODERS: Final[dict[str, msgspec.json.Decoder[Any]]] = {
    name: msgspec.json.Decoder(operation.request) for name, operation in OPERATIONS.items()
}
