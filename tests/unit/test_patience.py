"""Patience with shards whose fence could not be written."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

from persistence.patience import Patience


def ready(patience: Patience) -> list[int]:
    rows: Any = [SimpleNamespace(shard=shard) for shard in range(3)]
    return [row.shard for row in patience.ready(rows)]


def test_a_shard_that_fails_is_tried_again_later_each_time_and_at_most_so_late() -> None:
    now = [100.0]
    patience = Patience(lambda: now[0])
    assert ready(patience) == [0, 1, 2]
    waits = []
    for _ in range(9):
        patience.failed([1])
        assert ready(patience) == [0, 2]
        began = now[0]
        while ready(patience) == [0, 2]:
            now[0] += 0.25
        waits.append(now[0] - began)
    assert waits == [0.25, 0.5, 1, 2, 4, 8, 15, 15, 15]


def test_one_that_works_is_tried_at_once_again() -> None:
    patience = Patience(lambda: 0.0)
    patience.failed([0, 1])
    patience.worked([1])
    assert ready(patience) == [1, 2]
