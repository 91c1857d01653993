"""The worst faults, once each, with real processes; `make faults` makes all of them many times."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Final

import pytest

from tests.faults.run import run_short

ONE_REDIS: Final = (
    "replies",
    "sidecar-kill",
    "redis-kill",
    "power-loss",
    "flushall",
    "stale-replica",
    "redis-down",
    "host-lost",
)
CLUSTER: Final = ("resharding", "cluster-failover")
WATCHED: Final = ("sentinel-failover",)


@pytest.mark.parametrize("rows", [ONE_REDIS, CLUSTER, WATCHED], ids=["one", "cluster", "watched"])
def test_no_promise_is_broken_by_one_fault_of_each_kind(rows: tuple[str, ...]) -> None:
    said: list[str] = []
    with tempfile.TemporaryDirectory(prefix="credits-faults-") as directory:
        results = run_short(rows, Path(directory), seed=1, say=said.append)
    assert [problem for result in results for problem in result.problems] == [], said
    assert {result.row.name: result.cycles for result in results} == dict.fromkeys(rows, 1)
    assert all(result.acknowledged > 0 for result in results)
