"""The packed records of holds, debits and refunds in Redis, as Python reads them.

`lua/prelude.lua` names the fields of a record; this is the one place that reads them elsewhere.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

import msgspec


@dataclass(frozen=True, slots=True)
class HoldRecord:
    """One hold, as Redis has it: amounts in microcredits, instants in Unix milliseconds."""

    id: str
    state: str
    amount: int
    charged: int
    refunded: int
    held: int
    allocations: list[tuple[int, int]]
    expires_at_ms: int
    created_at_ms: int
    price_version: str
    context: dict[str, Any]


def decode_hold(id: str, packed: bytes) -> HoldRecord | None:
    """Return the hold of a packed record, or None when it is the record of a debit or refund."""
    fields = msgspec.msgpack.decode(packed)
    if fields[0] != "hold":
        return None
    flat = fields[9]
    allocations = list(zip(flat[::2], flat[1::2], strict=True))
    return HoldRecord(
        id=id,
        state=fields[1],
        amount=fields[8],
        charged=fields[4],
        refunded=fields[5],
        held=sum(amount for _, amount in allocations),
        allocations=allocations,
        expires_at_ms=fields[10],
        created_at_ms=fields[14],
        price_version=fields[11],
        context=json.loads(fields[7]) if fields[7] else {},
    )
