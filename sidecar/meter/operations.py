"""The verbs of the hot path: a request becomes the arguments of a script, its reply an answer.

Pure: nothing here does I/O. Each verb has a plan (request → arguments) and an answer (reply →
JSON object); `OPERATIONS` lists them.
"""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from hashlib import blake2b
from typing import Any, Final, Generic, TypeVar

import msgspec

from sidecar.domain import NEVER_EXPIRES, Category
from sidecar.meter import requests
from sidecar.meter.requests import (
    BalanceRequest,
    CheckRequest,
    DebitRequest,
    ExtendRequest,
    HoldRequest,
    RefundRequest,
    ReleaseRequest,
    Scopes,
    SettleRequest,
)
from sidecar.pricing.book import Price, PriceBook

_encode: Final = msgspec.json.Encoder().encode
_CATEGORIES: Final = tuple(Category)  # in the order of their rank

R = TypeVar("R", bound=requests.Request)
Reply = list[Any]


@dataclass(slots=True)
class Plan:
    """A request, priced: the arguments of its script, and what its answer needs to know."""

    args: tuple[str | int | bytes, ...] = ()
    amount: int = 0
    usage: Mapping[str, int] | None = None
    price: Price | None = None

    def affordable(self, budget: int) -> dict[str, int]:
        """Return how many output tokens `budget` pays for, where the price says so."""
        if self.price is None or self.usage is None:
            return {}
        tokens = self.price.affordable_output_tokens(self.usage, budget)
        return {} if tokens is None else {"affordable_output_tokens": tokens}


@dataclass(frozen=True, slots=True)
class Operation(Generic[R]):
    """One verb: its request type, its script, and the two ways across."""

    name: str
    request: type[R]
    script: str
    plan: Callable[[R, PriceBook, str], Plan]
    answer: Callable[[R, Plan, Reply], dict[str, Any]]


def fingerprint(*parts: object) -> str:
    """Return 16 characters that tell a repeat of a request from another one under the same id."""
    text = "\0".join(map(str, parts))
    return b64encode(blake2b(text.encode(), digest_size=12).digest()).decode()


def _priced(request: requests.Priced, book: PriceBook, version: str) -> tuple[Plan, str, str]:
    """Return the plan without its arguments, the price version, and what is to be charged."""
    requests.check_priced(request)
    if request.usage is None:
        amount = request.amount or 0
        return Plan(amount=amount), "", f"amount {amount}"
    counts = request.usage.counts()
    is_used = isinstance(request, SettleRequest)
    price = book.price(request.usage.model, version, is_used=is_used)
    plan = Plan(amount=price.amount(counts), usage=counts, price=price)
    asked = sorted((meter, count) for meter, count in counts.items() if count)
    return plan, version or price.version, f"usage {request.usage.model} {asked}"


def _scopes(scopes: Scopes | None) -> dict[str, str]:
    return msgspec.to_builtins(scopes) if scopes is not None else {}


def _json(fields: dict[str, Any]) -> bytes:
    given = {name: value for name, value in fields.items() if value}
    return _encode(given) if given else b""


def _detail(
    request: SettleRequest | DebitRequest, plan: Plan, scopes: Scopes | None = None
) -> bytes:
    requests.check_metadata(request.metadata)
    return _json(
        {
            "model": request.usage.model if request.usage else None,
            "usage": plan.usage,
            "price_version": plan.price.version if plan.price else None,
            "scopes": _scopes(scopes),
            "metadata": request.metadata,
        }
    )


# hold -----------------------------------------------------------------------------------------


def _plan_hold(request: HoldRequest, book: PriceBook, version: str) -> Plan:
    plan, price_version, asked = _priced(request, book, version)
    requests.check_metadata(request.metadata)
    ttl_ms = request.ttl_ms or requests.TTL_DEFAULT_MS
    scopes = _scopes(request.scopes)
    partial = 1 if request.partial else 0
    context = _json(
        {
            "model": request.usage.model if request.usage else None,
            "price_version": price_version,
            "scopes": scopes,
            "metadata": request.metadata,
        }
    )
    print_ = fingerprint("hold", asked, ttl_ms, sorted(scopes.items()), partial)
    plan.args = (request.id, print_, plan.amount, ttl_ms, partial, price_version, context)
    return plan


def _answer_hold(request: HoldRequest | ExtendRequest, plan: Plan, reply: Reply) -> dict[str, Any]:
    _, replayed, amount, available, expires_at_ms, partial, _ = reply
    answer = {
        "id": request.id,
        "status": "held",
        "amount": amount,
        "available": available,
        "expires_at_ms": expires_at_ms,
        "replayed": bool(replayed),
    }
    if partial:
        answer |= {"partial": True, **plan.affordable(amount)}
    return answer


# settle ---------------------------------------------------------------------------------------


def _plan_settle(request: SettleRequest, book: PriceBook, version: str) -> Plan:
    plan, price_version, asked = _priced(request, book, version)
    final = 0 if request.final is False else 1
    detail = _detail(request, plan)
    print_ = fingerprint("settle", asked, final)
    plan.args = (request.id, print_, plan.amount, final, price_version, detail, b"", 0)
    return plan


def _answer_settle(request: SettleRequest, plan: Plan, reply: Reply) -> dict[str, Any]:
    status, replayed, charged, released, available, late = reply
    return {
        "id": request.id,
        "status": status.decode(),
        "charged": charged,
        "released": released,
        "available": available,
        "late": bool(late),
        "replayed": bool(replayed),
    }


# release, extend ------------------------------------------------------------------------------


def _plan_release(request: ReleaseRequest, book: PriceBook, version: str) -> Plan:
    return Plan(args=(request.id,))


def _answer_release(request: ReleaseRequest, plan: Plan, reply: Reply) -> dict[str, Any]:
    _, replayed, released, available = reply
    return {
        "id": request.id,
        "status": "released",
        "released": released,
        "available": available,
        "replayed": bool(replayed),
    }


def _plan_extend(request: ExtendRequest, book: PriceBook, version: str) -> Plan:
    if request.amount is None and request.ttl_ms is None:
        raise requests.invalid("Give a new amount, a ttl_ms, or both.", "amount")
    amount = request.amount or 0
    return Plan(args=(request.id, amount, request.ttl_ms or 0), amount=amount)


# debit, refund --------------------------------------------------------------------------------


def _plan_debit(request: DebitRequest, book: PriceBook, version: str) -> Plan:
    plan, _, asked = _priced(request, book, version)
    print_ = fingerprint("debit", asked, sorted(_scopes(request.scopes).items()))
    plan.args = (request.id, print_, plan.amount, _detail(request, plan, request.scopes))
    return plan


def _answer_debit(request: DebitRequest, plan: Plan, reply: Reply) -> dict[str, Any]:
    _, replayed, charged, available = reply
    return {
        "id": request.id,
        "status": "debited",
        "charged": charged,
        "available": available,
        "replayed": bool(replayed),
    }


def _plan_refund(request: RefundRequest, book: PriceBook, version: str) -> Plan:
    amount = request.amount or 0
    detail = _json({"of": request.of, "reason": request.reason})
    print_ = fingerprint("refund", request.of)
    return Plan(args=(request.id, print_, request.of, amount, detail), amount=amount)


def _answer_refund(request: RefundRequest, plan: Plan, reply: Reply) -> dict[str, Any]:
    _, replayed, refunded, available = reply
    return {
        "id": request.id,
        "status": "refunded",
        "refunded": refunded,
        "available": available,
        "replayed": bool(replayed),
    }


# check, balance -------------------------------------------------------------------------------


def _plan_check(request: CheckRequest, book: PriceBook, version: str) -> Plan:
    plan, _, _ = _priced(request, book, version)
    plan.args = (0,)
    return plan


def _answer_check(request: CheckRequest, plan: Plan, reply: Reply) -> dict[str, Any]:
    _, status, available, _, overdraft, *_ = reply
    answer: dict[str, Any] = {"allowed": True, "amount": plan.amount, "available": available}
    if status in (b"suspended", b"closed"):
        return answer | {"allowed": False, "reason": f"account_{status.decode()}"}
    if plan.amount > available + overdraft:
        affordable = plan.affordable(available + overdraft)
        return answer | {"allowed": False, "reason": "insufficient_credits", **affordable}
    return answer


def _plan_balance(request: BalanceRequest, book: PriceBook, version: str) -> Plan:
    return Plan(args=(1,))


def _answer_balance(request: BalanceRequest, plan: Plan, reply: Reply) -> dict[str, Any]:
    _, status, available, held, overdraft, _, _, _, _, grants = reply
    return {
        "account": request.account,
        "status": status.decode(),
        "available": available,
        "held": held,
        "overdraft_limit": overdraft,
        "grants": [_grant(*grants[i : i + 4]) for i in range(0, len(grants), 4)],
    }


def _grant(number: int, left: int, order: bytes, id: bytes) -> dict[str, Any]:
    expires_at_ms = int(order[3:18])
    return {
        "id": id.decode(),
        "remaining": left,
        "category": _CATEGORIES[int(order[18:19])].value,
        "priority": int(order[:3]),
        "expires_at_ms": None if expires_at_ms == NEVER_EXPIRES else expires_at_ms,
    }


OPERATIONS: Final[dict[str, Operation[Any]]] = {
    operation.name: operation
    for operation in (
        Operation("hold", HoldRequest, "hold", _plan_hold, _answer_hold),
        Operation("settle", SettleRequest, "settle", _plan_settle, _answer_settle),
        Operation("release", ReleaseRequest, "release", _plan_release, _answer_release),
        Operation("extend", ExtendRequest, "extend", _plan_extend, _answer_hold),
        Operation("debit", DebitRequest, "debit", _plan_debit, _answer_debit),
        Operation("refund", RefundRequest, "refund", _plan_refund, _answer_refund),
        Operation("check", CheckRequest, "balance", _plan_check, _answer_check),
        Operation("balance", BalanceRequest, "balance", _plan_balance, _answer_balance),
    )
}
