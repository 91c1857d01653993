"""Pages of lists: opaque cursors that hold the sort key of the last row."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final, Generic, TypeVar

import msgspec

from sidecar.errors import ErrorCode, Refusal

T = TypeVar("T")

_MAX_LENGTH: Final = 1024


@dataclass(frozen=True, slots=True)
class Page(Generic[T]):
    """Some rows of a list, and the cursor of those after them; None at the end."""

    rows: list[T]
    next_cursor: str | None


def encode_cursor(key: Sequence[int]) -> str:
    """Return the cursor of a sort key."""
    return base64.urlsafe_b64encode(msgspec.json.encode(list(key))).decode().rstrip("=")


def decode_cursor(cursor: str, length: int) -> list[int]:
    """Return the sort key of a cursor, or refuse (422) what is none of this list's."""
    refusal = Refusal(ErrorCode.INVALID_REQUEST, "Not a cursor of this list.", param="cursor")
    if len(cursor) > _MAX_LENGTH:
        raise refusal
    try:
        padded = cursor + "=" * (-len(cursor) % 4)
        decoded = base64.b64decode(padded, altchars=b"-_", validate=True)
        key: list[Any] = msgspec.json.decode(decoded, type=list[int])
    except (binascii.Error, ValueError, msgspec.MsgspecError) as error:
        raise refusal from error
    if len(key) != length or any(abs(part) >= 2**63 for part in key):
        raise refusal
    return key


def page_of(rows: list[T], limit: int, key: Callable[[T], Sequence[int]]) -> Page[T]:
    """Return the first `limit` of `rows`, which were read with one row more to see if they end."""
    if len(rows) <= limit:
        return Page(rows, None)
    return Page(rows[:limit], encode_cursor(key(rows[limit - 1])))
