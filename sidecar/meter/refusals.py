"""What the scripts' refusals are in HTTP: one table, tested to be total."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from sidecar.errors import ErrorCode, Refusal
from sidecar.meter.operations import Plan, Reply


def _insufficient(plan: Plan, reply: Reply, top_up_url: str | None) -> Refusal:
    available, overdraft = reply[1], reply[2]
    required = reply[3] if len(reply) > 3 else plan.amount
    details: dict[str, Any] = {"available": available, "required": required}
    details |= plan.affordable(available + overdraft)
    if top_up_url:
        details["top_up_url"] = top_up_url
    message = f"The call needs {required} microcredits, and {available} are available."
    return Refusal(ErrorCode.INSUFFICIENT_CREDITS, message, **details)


def _lowered(plan: Plan, reply: Reply, _: str | None) -> Refusal:
    message = f"The total is below what the hold has already: {reply[1]}."
    return Refusal(ErrorCode.INVALID_REQUEST, message, param=_price_param(plan))


def _out_of_range(plan: Plan, reply: Reply, _: str | None) -> Refusal:
    message = "The account's balance would pass the range of 2^53-1."
    return Refusal(ErrorCode.INVALID_REQUEST, message, param=_price_param(plan))


def _price_param(plan: Plan) -> str:
    return "amount" if plan.usage is None else "usage"


def _refund_exceeds(plan: Plan, reply: Reply, _: str | None) -> Refusal:
    message = f"At most {reply[1]} microcredits of the charge are left to refund."
    return Refusal(ErrorCode.REFUND_EXCEEDS_CHARGE, message, refundable=reply[1])


def _may_not_spend(code: ErrorCode, message: str) -> Callable[[Plan, Reply, str | None], Refusal]:
    return lambda _, reply, __: Refusal(code, message, reason=reply[1].decode() or None)


def _plain(code: ErrorCode, message: str) -> Callable[[Plan, Reply, str | None], Refusal]:
    return lambda _, __, ___: Refusal(code, message)


REFUSALS: Final[dict[bytes, Callable[[Plan, Reply, str | None], Refusal]]] = {
    b"conflict": _plain(ErrorCode.ID_CONFLICT, "The id was used for another request."),
    b"hold_not_found": _plain(ErrorCode.HOLD_NOT_FOUND, "There is no hold or charge of this id."),
    b"hold_settled": _plain(ErrorCode.HOLD_SETTLED, "The hold was settled."),
    b"hold_released": _plain(ErrorCode.HOLD_RELEASED, "The hold was released."),
    b"hold_expired": _plain(ErrorCode.HOLD_EXPIRED, "The hold has expired."),
    b"hold_open": _plain(ErrorCode.HOLD_OPEN, "The hold still runs: settle or release it."),
    b"lowered": _lowered,
    b"out_of_range": _out_of_range,
    b"refund_exceeds": _refund_exceeds,
    b"suspended": _may_not_spend(ErrorCode.ACCOUNT_SUSPENDED, "The account is suspended."),
    b"closed": _may_not_spend(ErrorCode.ACCOUNT_CLOSED, "The account is closed."),
    b"insufficient": _insufficient,
}
"""Script status → the refusal that the caller gets. A refusal has changed nothing."""
