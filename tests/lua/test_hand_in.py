"""hand_in: what a journal has of older epochs goes into the present stream, behind it the mark."""

from __future__ import annotations

from typing import Any

import pytest
import redis

from sidecar import keys
from sidecar.scripts import ScriptRunner, load_scripts

EPOCH = 3
EVENTS = [b"first", b"\x00\xff second", b"third"]


class Shard:
    """Shard 7, whose fence is of epoch 3."""

    def __init__(self, client: redis.Redis) -> None:
        self.redis: Any = client
        self.redis.hset(keys.fence(7), "epoch", EPOCH)

    def hand_in(self, events: list[bytes], mark: str = "", epoch: int = EPOCH) -> list[Any]:
        """Run the script."""
        names = (keys.fence(7), keys.stream(7, EPOCH))
        reply: list[Any] = ScriptRunner(self.redis).call(
            load_scripts().hand_in, names, (epoch, mark, *events)
        )
        return reply

    def entries(self) -> list[Any]:
        """Return the fields of all entries, in their order."""
        return [fields for _, fields in self.redis.xrange(keys.stream(7, EPOCH))]


@pytest.fixture
def shard(redis_client: redis.Redis) -> Shard:
    """A shard."""
    return Shard(redis_client)


def test_events_come_first_and_the_mark_last(shard: Shard) -> None:
    shard.hand_in(EVENTS[:2])
    status, last = shard.hand_in(EVENTS[2:], "a-sidecar 3")
    assert status == b"appended"
    assert last == shard.redis.xrevrange(keys.stream(7, EPOCH), count=1)[0][0]
    assert shard.entries() == [*({b"e": event} for event in EVENTS), {b"h": b"a-sidecar 3"}]


def test_a_journal_that_has_nothing_leaves_its_mark(shard: Shard) -> None:
    assert shard.hand_in([], "a-sidecar 3")[0] == b"appended"
    assert shard.entries() == [{b"h": b"a-sidecar 3"}]


def test_nothing_leaves_nothing(shard: Shard) -> None:
    assert shard.hand_in([]) == [b"appended", b""]
    assert shard.entries() == []


@pytest.mark.parametrize("epoch", [2, 4, 33])
def test_another_epoch_is_fenced(shard: Shard, epoch: int) -> None:
    assert shard.hand_in(EVENTS, "a-sidecar 3", epoch) == [b"fenced"]
    assert shard.entries() == []


def test_a_shard_without_a_fence_takes_nothing(shard: Shard) -> None:
    shard.redis.delete(keys.fence(7))
    assert shard.hand_in(EVENTS, "a-sidecar 3") == [b"fenced"]
    assert shard.entries() == []


def test_500_events_go_in_one_call(shard: Shard) -> None:
    shard.hand_in([b"x" * 300] * 500, "a-sidecar 3")
    assert len(shard.entries()) == 501
