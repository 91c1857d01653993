"""The mark from which on Redis is too full for new calls."""

from __future__ import annotations

import logging

import pytest

from sidecar.meter.room import Room


def test_new_calls_are_refused_from_the_mark_on_and_until_well_below_it(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO, "sidecar.meter.room")
    room = Room(85)
    found = [room.is_full(ratio) for ratio in (0.5, 0.849, 0.85, 0.84, 0.81, 0.80, 0.84, 0.9)]
    assert found == [False, False, True, True, True, False, False, True]
    assert [(record.levelno, record.__dict__["ratio"]) for record in caplog.records] == [
        (logging.ERROR, 0.85),
        (logging.INFO, 0.8),
        (logging.ERROR, 0.9),
    ]


def test_a_mark_of_everything_refuses_only_when_all_is_used() -> None:
    room = Room(100)
    assert [room.is_full(ratio) for ratio in (0.99, 1.0, 0.96, 0.94)] == [False, True, True, False]
