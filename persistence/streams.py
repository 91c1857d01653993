"""A shard's stream as the flusher reads it: only from the Redis that the ledger names."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any
from uuid import UUID

import redis
from redis.exceptions import ResponseError

from persistence.errors import BadEvent, RedisChanged
from persistence.events import FIELD, MARK_FIELD, RING_FIELD, decode_event
from persistence.fences import RedisProcess, ask_process, process_of
from persistence.letters import DeadLetter, Entry
from sidecar import keys
from sidecar.domain import is_account
from sidecar.nodes import RedisNodes

RawEntry = tuple[bytes, list[bytes]]
"""A stream entry: its id, and its fields and values in turn."""


@dataclass(frozen=True, slots=True)
class Reading:
    """Entries after the cursor, at most as many as were asked for, and how many there ever were."""

    entries: list[RawEntry]
    added: int


@dataclass(slots=True)
class Batch:
    """What the entries are: events, marks of sidecars whose journals are in, and the rest.

    `rings` are accounts that have run low.
    """

    events: list[Entry] = field(default_factory=list)
    marks: list[tuple[UUID, int]] = field(default_factory=list)
    rings: set[str] = field(default_factory=set)
    unreadable: list[DeadLetter] = field(default_factory=list)


class StreamReader:
    """Reads shards' streams."""

    def __init__(self, nodes: RedisNodes) -> None:
        self._nodes = nodes

    def read(
        self, shard: int, epoch: int, cursor: str, count: int, process: RedisProcess
    ) -> Reading:
        """Return what comes after the cursor, read together with who answers.

        Raises `RedisChanged` when that is not `process`, and the errors of redis-py.
        """
        stream = keys.stream(shard, epoch)
        # The same connections, without redis-py's reworking of each entry.
        client = redis.Redis(connection_pool=self._nodes.of(shard).connection_pool)
        client.set_response_callback("XRANGE", lambda reply, **_: reply)
        pipeline = client.pipeline(transaction=True)
        ask_process(pipeline)
        pipeline.xinfo_stream(stream)
        pipeline.xrange(stream, min=f"({cursor}", max="+", count=count)
        server, replication, info, entries = pipeline.execute(raise_on_error=False)
        for reply in (server, replication, entries):
            if isinstance(reply, Exception):
                raise reply
        if process_of(server, replication) != process:
            raise RedisChanged(f"shard {shard} was decided by another Redis process")
        return Reading(list(entries), entries_added(info))


def is_told(info: Any) -> bool:
    """Tell whether XINFO's answer says anything: that there is no such stream is an answer too."""
    return not isinstance(info, Exception) or _is_gone(info)


def entries_added(info: Any) -> int:
    """Return how many entries a stream ever got, from XINFO's answer.

    -1 when it is gone, or is not the one that its epoch began with.
    """
    if _is_gone(info):
        return -1
    if isinstance(info, Exception):
        raise info
    return int(info["entries-added"]) if info["groups"] else -1


def _is_gone(info: Any) -> bool:
    return isinstance(info, ResponseError) and "no such key" in str(info)


def sorted_out(entries: Sequence[RawEntry]) -> Batch:
    """Return the entries by what they are, each kind in its order."""
    batch = Batch()
    for id, fields in entries:
        is_known = len(fields) == 2 and fields[0] in (FIELD, MARK_FIELD, RING_FIELD)
        raw = fields[1] if is_known else b"\0".join(fields)
        try:
            if is_known and fields[0] == MARK_FIELD:
                batch.marks.append(_mark(raw))
            elif is_known and fields[0] == RING_FIELD:
                batch.rings.add(_ring(raw))
            else:
                batch.events.append((id.decode(), raw, decode_event(raw)))
        except BadEvent as error:
            letter = DeadLetter(id.decode(), raw, "unreadable", str(error)[:500])
            batch.unreadable.append(letter)
    return batch


def _mark(raw: bytes) -> tuple[UUID, int]:
    """Return sidecar and epoch of `<sidecar id> <epoch>`."""
    try:
        id, epoch = raw.decode().split(" ")
        return UUID(id), int(epoch)
    except ValueError as error:
        raise BadEvent("not the mark of a sidecar") from error


def _ring(raw: bytes) -> str:
    """Return the account that has run low."""
    account = raw.decode(errors="replace")
    if not is_account(account):
        raise BadEvent("not the name of an account")
    return account
