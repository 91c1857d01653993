"""One decision: price the request, run its script, and say what came of it."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Sequence
from typing import Any, Final, cast

import msgspec

from sidecar.errors import ErrorCode, JournalError, Refusal, StoreUnavailable
from sidecar.meter import requests
from sidecar.meter.acknowledge import Acknowledger, Answer
from sidecar.meter.afterwards import Afterwards
from sidecar.meter.earlier import Earlier
from sidecar.meter.entries import Argument
from sidecar.meter.operations import OPERATIONS, Operation, Plan
from sidecar.meter.outage import Outage
from sidecar.meter.refusals import REFUSALS
from sidecar.meter.store import Decision, Store
from sidecar.metrics import MeterMetrics
from sidecar.pricing.book import PriceBook

log: Final = logging.getLogger(__name__)


class Decider:
    """Decides requests against one store with one price book."""

    def __init__(
        self,
        store: Store,
        acknowledger: Acknowledger,
        earlier: Earlier,
        outage: Outage,
        afterwards: Afterwards,
        book: PriceBook,
        metrics: MeterMetrics,
        top_up_url: str | None = None,
    ) -> None:
        self._store = store
        self._acknowledger = acknowledger
        self._earlier = earlier
        self._outage = outage
        self._afterwards = afterwards
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

    async def _decide(self, operation: Operation[Any], request: requests.Request) -> Answer:
        try:
            await self._afterwards.make_good(request.account)
            self._acknowledger.require_room(operation.name)
            return await self._decide_in_redis(operation, request)
        except StoreUnavailable as error:
            return await self._outage.decide(operation, request, error)
        except JournalError as error:
            raise StoreUnavailable(str(error)) from error

    async def _decide_in_redis(
        self, operation: Operation[Any], request: requests.Request
    ) -> Answer:
        plan = operation.plan(request, self._book, "")
        earlier = self._earlier.find(operation.name, request)
        answer = None if earlier is None else await earlier.answer(operation.name, plan)
        if answer is not None:
            return answer
        lost = earlier.lost if earlier is not None and operation.name == "settle" else b""
        plan, decision = await self._run(operation, request, plan, lost)
        refuse = REFUSALS.get(decision.status)
        if refuse is not None:
            self._acknowledger.require(decision)
            raise refuse(plan, decision.reply, self._top_up_url)
        if operation.name == "hold" and decision.reply[1] and decision.reply[6]:
            # A repeat is answered by the prices of the first time.
            plan = operation.plan(request, self._book, decision.reply[6].decode())
        answer = operation.answer(request, plan, decision.reply)
        await self._acknowledger.acknowledge(operation.name, request, plan, decision, answer)
        return answer

    async def _run(
        self, operation: Operation[Any], request: requests.Request, plan: Plan, lost: bytes
    ) -> tuple[Plan, Decision]:
        decision = await self._store.run(operation.script, request.account, _with(plan, lost))
        if decision.status == b"reprice":
            # The hold was priced by another version of the book: that one prices its settle too.
            plan = operation.plan(request, self._book, decision.reply[1].decode())
            decision = await self._store.run(operation.script, request.account, _with(plan, lost))
        return plan, decision

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


def _with(plan: Plan, lost: bytes) -> tuple[Argument, ...]:
    """Return a settle's arguments with what is known here of its hold; or those there are."""
    return (*plan.args[:-2], lost, 0) if lost else plan.args


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
