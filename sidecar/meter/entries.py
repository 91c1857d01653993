"""What the journal's records hold: one acknowledged decision each, packed by msgspec."""

from __future__ import annotations

from typing import Any, Final

import msgspec
from msgspec import Struct

_FORMAT: Final = 1

Argument = str | int | bytes


class Hold(Struct, array_like=True):
    """A hold as this sidecar acknowledged it: enough to settle it when Redis has lost it.

    `charges` are the allocations of its settles so far: grant number and amount in turn. `last`
    is the fingerprint of the latest settle. `is_granted_here`: Redis was away and does not have it.
    """

    fingerprint: str
    amount: int
    available: int
    expires_at_ms: int
    partial: int
    price_version: str
    context: str
    created_at_ms: int
    charged: int = 0
    charges: list[int] = []
    last: str = ""
    last_answer: dict[str, Any] = {}
    is_granted_here: bool = False

    def lost(self) -> bytes:
        """Return the record that `settle` takes when Redis has none of the hold; see its header."""
        answer = [self.amount, self.available, self.expires_at_ms, self.partial]
        return msgspec.msgpack.encode(
            [
                "hold", "lost", self.fingerprint, answer, self.charged, 0, self.charges,
                self.context, self.amount, [], self.expires_at_ms, self.price_version, "", [],
                self.created_at_ms,
            ]
        )  # fmt: skip


class Entry(Struct, array_like=True):
    """One acknowledged decision.

    `event` is the usage event as it is in the stream, empty when the decision wrote none; `epoch`
    and `stream_id` say where. `hold` is the hold as it is after the decision. `arguments` are
    those of the script that is still to run, for what was accepted while Redis was away; `done` is
    the number of such a record once that has happened, or, of a `void`, of one that never counted.
    """

    operation: str
    account: str
    id: str
    fingerprint: str
    answer: dict[str, Any]
    at_ms: int
    shard: int = 0
    epoch: int = 0
    stream_id: str = ""
    event: bytes = b""
    hold: Hold | None = None
    arguments: list[Any] | None = None
    done: int = 0
    format: int = _FORMAT

    @property
    def key(self) -> str:
        """What tells this id of this account from all others."""
        return key_of(self.account, self.id)


def key_of(account: str, id: str) -> str:
    """Return the key of an id of an account; neither has a space in it."""
    return f"{account} {id}"


def allocations_of(event: bytes) -> list[int]:
    """Return the allocations of a usage event as scripts write it."""
    allocations: list[int] = msgspec.msgpack.decode(event)[_ALLOCATIONS]
    return allocations


_ALLOCATIONS: Final = 10

encode: Final = msgspec.msgpack.Encoder().encode
decode: Final = msgspec.msgpack.Decoder(Entry).decode
