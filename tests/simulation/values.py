"""What is passed around and never changed: events, marks, fences, refills, signs of life."""

from __future__ import annotations

from collections.abc import Generator
from typing import NamedTuple

Steps = Generator[None, None, None]
"""Something that is done in steps: between two of them anything may happen, also nothing more."""

Key = tuple[int, str, str, int, int]
"""The id of an event in the ledger."""


class Violation(Exception):
    """Raised when a promise is broken: `kind` in some words, `detail` for who reads the trace."""

    def __init__(self, kind: str, detail: str) -> None:
        super().__init__(f"{kind}: {detail}")
        self.kind = kind


class Event(NamedTuple):
    """One usage event or take, as a script wrote it. `over`: what was charged beyond all grants."""

    account: int
    gen: int
    seq: int
    operation: str
    id: str
    amount: int
    over: int

    @property
    def key(self) -> Key:
        """Its id in the ledger: `persistence.events.event_id`. Callers' ids are UUIDv7 here."""
        if self.operation == "take":
            return (self.account, "take", self.id, self.gen, self.seq)
        return (self.account, self.operation, self.id, 0, 0)


class Mark(NamedTuple):
    """That a sidecar has handed in all that it had of older epochs."""

    sidecar: str
    epoch: int


class Fence(NamedTuple):
    """`persistence.fences.Fence`."""

    epoch: int
    run_id: int
    replid: int
    is_draining: bool


class Refill(NamedTuple):
    """One movement of credits to a generation. Its number is its place in the generation's list."""

    kind: str
    amount: int


class Beat(NamedTuple):
    """A sidecar's last sign of life."""

    boot: int
    at: int
    is_leaving: bool


class Ended(NamedTuple):
    """What Redis remembers of an id: `operation` is debit, settle, release or expire."""

    operation: str
    amount: int
    place: int
    held: int


class Hold(NamedTuple):
    """An open hold."""

    amount: int
    expires: int
