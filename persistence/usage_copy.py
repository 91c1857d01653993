"""Usage events as rows of a binary COPY: what `usage_events` gets, byte by byte.

The format is Postgres's (COPY, "Binary Format"): a header, then for each row the number of its
columns and each column's length and bytes, all big-endian. Written by hand because the generic
encoder takes several times as long, and this is where the flusher spends its time.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache
from struct import Struct
from typing import Final

import msgspec

from persistence.events import DEGRADED, FINAL, LATE, Details, Event, is_given

COLUMNS: Final = (
    "event_id, seq, amount, total, at_ms, batch, generation, shard, late, degraded, final,"
    " account, operation, id, allocations, model, price_version, of, reason, usage, scopes,"
    " metadata"
)
"""The columns in the order of the rows."""

_HEADER: Final = b"PGCOPY\n\xff\r\n\0" + bytes(8)
_TRAILER: Final = b"\xff\xff"
_NULL: Final = b"\xff\xff\xff\xff"
_EMPTY_ARRAY: Final = Struct("!iiii").pack(12, 0, 0, 20)
_LENGTH: Final = Struct("!i").pack
# 22 columns; the first eleven have fixed lengths: 16, 5 x 8, 2 x 4 and 3 x 1 bytes.
_FIXED: Final = Struct("!h i16s iq iq iq iq iq ii ii i? i? i?").pack
_JSON: Final = Struct("!ib").pack  # length and version of a jsonb


@dataclass(frozen=True, slots=True)
class UsageRow:
    """An event with the id that it gets and what its context and detail say."""

    event_id: bytes
    event: Event
    details: Details


def encode_rows(rows: Iterable[UsageRow], shard: int, batch: int) -> bytes:
    """Return a whole binary COPY of `rows`."""
    parts = [_HEADER]
    for row in rows:
        _append_row(parts, row, shard, batch)
    parts.append(_TRAILER)
    return b"".join(parts)


def _append_row(parts: list[bytes], row: UsageRow, shard: int, batch: int) -> None:
    event, details, flags = row.event, row.details, row.event.flags
    fixed = _FIXED(
        22, 16, row.event_id, 8, event.seq, 8, event.amount, 8, event.total, 8, event.at_ms,
        8, batch, 4, event.generation, 4, shard, 1, flags & LATE != 0,
        1, flags & DEGRADED != 0, 1, flags & FINAL != 0,
    )  # fmt: skip
    parts.append(fixed)
    id, version = event.id.encode(), details.price_version
    parts += (
        _text(event.account),
        _text(event.operation.value),
        _LENGTH(len(id)),
        id,
        _array(event.allocations),
        _text(details.model),
        _text(None if version is None else str(version)),
        _text(details.of),
        _text(details.reason),
        _json(details.usage),
        _json(details.scopes),
        _json(details.metadata),
    )


@lru_cache(maxsize=8192)  # accounts, models and price versions come again and again
def _text(value: str | None) -> bytes:
    if value is None:
        return _NULL
    # Postgres's text cannot hold U+0000; a strange name is no reason to lose a charge.
    data = value.replace("\0", "\ufffd").encode()
    return _LENGTH(len(data)) + data


def _json(value: msgspec.Raw) -> bytes:
    if not is_given(value):
        return _NULL
    data = bytes(value)
    if b"\\u0000" in data:
        data = data.replace(b"\\u0000", b"\\ufffd")
    return _JSON(len(data) + 1, 1) + data


def _array(values: list[int]) -> bytes:
    count = len(values)
    if not count:
        return _EMPTY_ARRAY
    layout = _ARRAYS.get(count) or _array_layout(count)
    if count == 2:  # one grant, nearly always
        return layout.pack(44, 1, 0, 20, 2, 1, 8, values[0], 8, values[1])
    flat: list[int] = []
    for value in values:
        flat += (8, value)
    # Bytes, dimensions, nulls, element type (int8), size, lower bound, then each element.
    return layout.pack(20 + 12 * count, 1, 0, 20, count, 1, *flat)


_ARRAYS: Final[dict[int, Struct]] = {}


def _array_layout(count: int) -> Struct:
    layout = Struct("!iiiiii" + "iq" * count)
    if count <= 64:
        _ARRAYS[count] = layout
    return layout
