"""Repeats of what this sidecar acknowledged and Redis has forgotten: answered from the journal.

Pure: it compares a request with the record that the journal has of its id.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from sidecar.meter.entries import Entry
from sidecar.meter.operations import Plan
from sidecar.meter.refusals import REFUSALS

_FINGERPRINT: Final = 1  # of a plan's arguments
_AMOUNT_OF_REFUND: Final = 3

Answer = dict[str, Any]


def answer_again(verb: str, plan: Plan, entry: Entry) -> Answer | None:
    """Return the first answer of a repeated request, or None when it is to be decided.

    Raises the `Refusal` that Redis would have given, had it not forgotten.
    """
    return _AGAIN[verb](plan, entry) if verb in _AGAIN else None


def _again_hold(plan: Plan, entry: Entry) -> Answer | None:
    if entry.operation in _CHARGES:
        _refuse(b"conflict", plan)
    if entry.operation != "hold":
        return None
    if entry.fingerprint != plan.args[_FINGERPRINT]:
        _refuse(b"conflict", plan)
    return _replayed(entry)


def _again_settle(plan: Plan, entry: Entry) -> Answer | None:
    if entry.operation in _CHARGES:
        _refuse(b"conflict", plan)
    if entry.operation == "release":
        _refuse(b"hold_released", plan)
    fingerprint = plan.args[_FINGERPRINT]
    if entry.operation == "settle" and entry.fingerprint == fingerprint:
        return _replayed(entry)
    if entry.hold is not None and entry.hold.last == fingerprint:
        return entry.hold.last_answer | {"replayed": True}
    if entry.operation == "settle" and entry.answer["status"] == "settled":
        _refuse(b"hold_settled", plan)
    return None


def _again_release(plan: Plan, entry: Entry) -> Answer | None:
    if entry.operation == "release":
        return _replayed(entry)
    _refuse_ended(plan, entry)
    return None


def _again_extend(plan: Plan, entry: Entry) -> Answer | None:
    if entry.operation == "release":
        _refuse(b"hold_released", plan)
    _refuse_ended(plan, entry)
    return None


def _refuse_ended(plan: Plan, entry: Entry) -> None:
    if entry.operation in _CHARGES:
        _refuse(b"conflict", plan)
    if entry.operation == "settle" and entry.answer["status"] == "settled":
        _refuse(b"hold_settled", plan)


def _again_debit(plan: Plan, entry: Entry) -> Answer | None:
    if entry.operation != "debit" or entry.fingerprint != plan.args[_FINGERPRINT]:
        _refuse(b"conflict", plan)
    return _replayed(entry)


def _again_refund(plan: Plan, entry: Entry) -> Answer | None:
    is_same = plan.args[_AMOUNT_OF_REFUND] in (0, entry.answer.get("refunded"))
    same_charge = entry.fingerprint == plan.args[_FINGERPRINT]
    if entry.operation != "refund" or not (is_same and same_charge):
        _refuse(b"conflict", plan)
    return _replayed(entry)


def _replayed(entry: Entry) -> Answer:
    return entry.answer | {"replayed": True}


def _refuse(status: bytes, plan: Plan) -> None:
    raise REFUSALS[status](plan, [status], None)


_CHARGES: Final = ("debit", "refund")
_AGAIN: Final[dict[str, Callable[[Plan, Entry], Answer | None]]] = {
    "hold": _again_hold,
    "settle": _again_settle,
    "release": _again_release,
    "extend": _again_extend,
    "debit": _again_debit,
    "refund": _again_refund,
}
