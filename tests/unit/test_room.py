"""The mark from which on Redis is too full for new calls."""

from __future__ import annotations

import logging

import pytest
from prometheus_client import CollectorRegistry

from sidecar.meter.room import Room
from sidecar.metrics import MeterMetrics


def test_new_calls_are_refused_from_the_mark_on_and_until_well_below_it(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO, "sidecar.meter.room")
    metrics = MeterMetrics(CollectorRegistry())
    room = Room(85, metrics)
    found = [room.refuses(ratio) for ratio in (0.5, 0.849, 0.85, 0.84, 0.81, 0.80, 0.84, 0.9)]
    assert found == [False, False, True, True, True, False, False, True]
    refusals = next(iter(metrics.memory_refusals.collect())).samples[0].value
    assert refusals == found.count(True)
    assert [(record.levelno, record.__dict__["ratio"]) for record in caplog.records] == [
        (logging.ERROR, 0.85),
        (logging.INFO, 0.8),
        (logging.ERROR, 0.9),
    ]


def test_a_mark_of_everything_refuses_only_when_all_is_used() -> None:
    room = Room(100, MeterMetrics(CollectorRegistry()))
    assert [room.refuses(ratio) for ratio in (0.99, 1.0, 0.96, 0.94)] == [False, True, True, False]
