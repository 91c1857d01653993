"""Events as the scripts write them to a usage stream, and the ids they get in the ledger."""

from __future__ import annotations

import hashlib
from typing import Any, Final

import msgspec

from persistence.errors import BadEvent
from sidecar.domain import MAX_AMOUNT, USAGE_OPERATIONS, Operation, is_account, is_id

FIELD: Final = b"e"
"""The one field of a stream entry that is an event."""

MARK_FIELD: Final = b"h"
"""The one field of a stream entry that says that a sidecar's journal is handed in."""

RING_FIELD: Final = b"r"
"""The one field of a stream entry that says that an account has run low."""

VERSION: Final = 1

LATE: Final = 1
DEGRADED: Final = 2
FINAL: Final = 4

_MAX_GENERATION: Final = 2**31 - 1
_MAX_AT_MS: Final = 2**48 - 1
_DAY_MS: Final = 86_400_000
_OLDEST_ID_MS: Final = 7 * _DAY_MS
_NEWEST_ID_MS: Final = _DAY_MS


class Event(msgspec.Struct, array_like=True, gc=False):
    """One entry. `amount` is this event's change seen as a charge, in microcredits.

    `allocations` is flat (grant_no, amount, …) with the sign of `amount`, to which it sums; grant
    number 0 is what was charged beyond all grants. `context` and `detail` are JSON or empty.
    """

    version: int
    account: str
    generation: int
    seq: int
    operation: Operation
    id: str
    at_ms: int
    amount: int
    total: int
    flags: int
    allocations: list[int]
    context: str
    detail: str


class Details(msgspec.Struct, gc=False):
    """What the context of a hold and the detail of a call say together; None where nothing.

    `usage`, `scopes` and `metadata` are JSON text, empty where nothing.
    """

    model: str | None = None
    usage: msgspec.Raw = msgspec.Raw()
    price_version: str | int | None = None
    scopes: msgspec.Raw = msgspec.Raw()
    metadata: msgspec.Raw = msgspec.Raw()
    of: str | None = None
    reason: str | None = None


_decode: Final = msgspec.msgpack.Decoder(Event).decode
_decode_details: Final = msgspec.json.Decoder(Details).decode
_decode_metadata: Final = msgspec.json.Decoder(dict[str, Any]).decode
_NO_DETAILS: Final = Details()


def decode_event(raw: bytes) -> Event:
    """Return the event of a stream entry's field. Raises `BadEvent`, saying what is wrong."""
    try:
        event = _decode(raw)
    except msgspec.MsgspecError as error:
        raise BadEvent(f"not an event: {error}") from error
    problem = _problem(event)
    if problem:
        raise BadEvent(problem)
    return event


def details_of(event: Event) -> Details:
    """Return context and detail as one; the detail wins, metadata are merged.

    Raises `BadEvent` when one of them is not JSON of the right shape.
    """
    try:
        if not event.context:
            return _decode_details(event.detail) if event.detail else _NO_DETAILS
        details = _decode_details(event.context)
        return _merged(details, _decode_details(event.detail)) if event.detail else details
    except msgspec.MsgspecError as error:
        raise BadEvent(f"context or detail: {error}") from error


def is_given(value: msgspec.Raw) -> bool:
    """Tell whether there is JSON text that is not null."""
    return len(value) > 0 and bytes(value) != b"null"


def event_id(event: Event) -> bytes:
    """Return the 16 bytes of the event's UUIDv7.

    It is derived from the caller's id when that is a UUIDv7 of about the event's time: the same
    call, run again after a loss of Redis, is then the same event. Otherwise it is derived from the
    event's place in its generation and from what it says: a Redis that went back in time may have
    used the same place for another event.
    """
    at_ms = _time_of_id(event) if event.operation in USAGE_OPERATIONS else None
    if at_ms is None:
        place = f"{event.account}\0{event.generation}\0{event.seq}"
        what = f"{event.operation.value}\0{event.id}\0{event.amount}"
        return _uuid7(event.at_ms, f"{place}\0{what}\0{event.at_ms}")
    name = f"{event.account}\0{event.id}\0{event.operation.value}"
    if event.operation is Operation.SETTLE:
        # A streamed hold is settled in steps; each has its own total, the last one is final.
        name += f"\0{event.total}\0{(event.flags & FINAL) // FINAL}"
        if event.amount == 0:
            # A step that charges nothing more has the total of the one before it.
            name += f"\0{event.generation}\0{event.seq}"
    return _uuid7(at_ms, name)


def _problem(event: Event) -> str | None:
    if event.version != VERSION:
        return f"event version {event.version}"
    if not is_account(event.account):
        return "not an account name"
    if event.operation in USAGE_OPERATIONS and not is_id(event.id):
        return "not an id"
    if not (
        1 <= event.generation <= _MAX_GENERATION
        and 1 <= event.seq <= MAX_AMOUNT
        and 0 <= event.at_ms <= _MAX_AT_MS
        and abs(event.total) <= MAX_AMOUNT
    ):
        return "a number out of range"
    return _problem_of_amount(event)


def _problem_of_amount(event: Event) -> str | None:
    flat, amount, operation = event.allocations, event.amount, event.operation
    if len(flat) % 2 or sum(flat[1::2]) != amount:
        return "the allocations do not sum to the amount"
    if flat and (max(flat) > MAX_AMOUNT or min(flat) < -MAX_AMOUNT or min(flat[::2]) < 0):
        return "an allocation out of range"
    if not -MAX_AMOUNT <= amount <= MAX_AMOUNT:
        return "an amount out of range"
    is_refund = operation is Operation.REFUND
    if (is_refund and amount > 0) or (not is_refund and amount < 0):
        return f"a {operation.value} of {amount}"
    return None


def _merged(context: Details, detail: Details) -> Details:
    metadata = _either(detail.metadata, context.metadata)
    if is_given(detail.metadata) and is_given(context.metadata):
        both = _decode_metadata(context.metadata) | _decode_metadata(detail.metadata)
        metadata = msgspec.Raw(msgspec.json.encode(both))
    return Details(
        model=detail.model or context.model,
        usage=_either(detail.usage, context.usage),
        price_version=detail.price_version or context.price_version,
        scopes=_either(detail.scopes, context.scopes),
        metadata=metadata,
        of=detail.of or context.of,
        reason=detail.reason or context.reason,
    )


def _either(first: msgspec.Raw, second: msgspec.Raw) -> msgspec.Raw:
    return first if is_given(first) else second


def _time_of_id(event: Event) -> int | None:
    """Return the timestamp of a caller's id that is a UUIDv7 near the event's time, else None."""
    id = event.id
    if len(id) != 36 or id[14] != "7" or id[19] not in "89abAB":
        return None
    if not id[8] == id[13] == id[18] == id[23] == "-":
        return None
    try:
        at_ms = int.from_bytes(bytes.fromhex(id.replace("-", ""))[:6])
    except ValueError:
        return None
    is_near = event.at_ms - _OLDEST_ID_MS <= at_ms <= event.at_ms + _NEWEST_ID_MS
    return at_ms if is_near else None


def _uuid7(at_ms: int, name: str) -> bytes:
    """Return a UUIDv7 (RFC 9562) whose random bits are a digest of `name`."""
    digest = bytearray(hashlib.blake2b(name.encode(), digest_size=10).digest())
    digest[0] = 0x70 | (digest[0] & 0x0F)
    digest[2] = 0x80 | (digest[2] & 0x3F)
    return at_ms.to_bytes(6) + bytes(digest)
