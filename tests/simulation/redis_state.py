"""Redis: what one process has in memory, and who it is."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from tests.simulation.values import Beat, Ended, Event, Fence, Hold, Mark


@dataclass(slots=True)
class Account:
    """An account's keys."""

    epoch: int
    gen: int
    refill_no: int = 1
    seq: int = 0
    available: int = 0
    held: int = 0
    holds: dict[str, Hold] = field(default_factory=dict)
    ended: dict[str, Ended] = field(default_factory=dict)


@dataclass(slots=True)
class Stream:
    """Entries by id, and how many there ever were. `is_claimed`: a worker began it.

    `ever` is no part of Redis: it says what was in the stream before it was trimmed.
    """

    entries: list[tuple[int, Event | Mark]] = field(default_factory=list)
    ever: list[Event | Mark] = field(default_factory=list)
    added: int = 0
    last_id: int = 0
    is_claimed: bool = False

    def add(self, now: int, entry: Event | Mark) -> int:
        """XADD: ids are the clock's, and grow."""
        self.last_id = max(self.last_id + 1, now * 1_000)
        self.entries.append((self.last_id, entry))
        self.ever.append(entry)
        self.added += 1
        return self.last_id


@dataclass(slots=True)
class Data:
    """All keys. `timeline` is None when there is no `credits:meta`."""

    timeline: int | None = None
    accounts: dict[int, Account] = field(default_factory=dict)
    streams: dict[tuple[int, int], Stream] = field(default_factory=dict)
    fences: dict[int, Fence] = field(default_factory=dict)
    cursors: dict[int, tuple[int, int]] = field(default_factory=dict)
    signs: dict[str, Beat] = field(default_factory=dict)
    registered: dict[str, int] = field(default_factory=dict)
    asks: set[int] = field(default_factory=set)
    opened: dict[int, tuple[int, int]] = field(default_factory=dict)

    def copy(self) -> Data:
        """Return what a replica, or the file on disk, has of it now."""
        accounts = {
            n: replace(a, holds=dict(a.holds), ended=dict(a.ended))
            for n, a in self.accounts.items()
        }
        streams = {
            place: replace(s, entries=list(s.entries), ever=list(s.ever))
            for place, s in self.streams.items()
        }
        return Data(
            self.timeline, accounts, streams, dict(self.fences), dict(self.cursors),
            dict(self.signs), dict(self.registered), set(self.asks), dict(self.opened),
        )  # fmt: skip

    def stream(self, shard: int, epoch: int) -> Stream:
        """Return a stream, begun by this write when it is not there."""
        return self.streams.setdefault((shard, epoch), Stream())

    def added(self, shard: int, epoch: int) -> int:
        """`persistence.streams.entries_added`: -1 when it is not the one its epoch began with."""
        stream = self.streams.get((shard, epoch))
        return stream.added if stream is not None and stream.is_claimed else -1

    def forget_signs(self, sidecar: str) -> Beat | None:
        """`persistence.sidecars.forget_signs`."""
        self.registered.pop(sidecar, None)
        return self.signs.pop(sidecar, None)


@dataclass(slots=True)
class Server:
    """A Redis process. `changed_at`: when it last became a replica or a master."""

    run_id: int
    replid: int
    data: Data
    is_up: bool = True
    is_master: bool = True
    changed_at: int = 0
