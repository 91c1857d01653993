"""How far the ledger is behind, as metrics and the log tell it."""

from __future__ import annotations

import logging
import math

import pytest
from prometheus_client import CollectorRegistry

from persistence.catching_up import CatchingUp
from sidecar.metrics import WorkerMetrics


class Ledger:
    """A ledger that someone looks at, with a clock of its own."""

    def __init__(self) -> None:
        self.now = 100.0
        self.registry = CollectorRegistry()
        metrics = WorkerMetrics(self.registry)
        self._catching_up = CatchingUp(metrics, behind_seconds=10, clock=lambda: self.now)

    def look(self, unflushed: int, lag_seconds: float, flushed: int = 0) -> None:
        self._catching_up.look(unflushed, lag_seconds, flushed)

    def metric(self, name: str) -> float:
        value = self.registry.get_sample_value(name)
        assert value is not None
        return value

    @property
    def lag(self) -> float:
        return self.metric("credits_flush_lag_seconds")

    @property
    def estimate(self) -> float:
        return self.metric("credits_flush_catch_up_seconds")


@pytest.fixture
def ledger(caplog: pytest.LogCaptureFixture) -> Ledger:
    caplog.set_level(logging.INFO, "persistence.catching_up")
    return Ledger()


def test_a_ledger_that_keeps_up_says_nothing(
    ledger: Ledger, caplog: pytest.LogCaptureFixture
) -> None:
    for lag in (0, 0.2, 9.9, 0):
        ledger.look(100, lag)
    assert caplog.records == []
    assert (ledger.lag, ledger.metric("credits_unflushed_events")) == (0, 100)
    assert ledger.estimate == 0


def test_the_lag_grows_while_postgres_cannot_be_asked(ledger: Ledger) -> None:
    ledger.look(0, 0)
    ledger.now += 1
    assert ledger.lag == 0
    ledger.now += 59
    assert ledger.lag == 60
    ledger.look(5_000, 61)
    ledger.now += 2
    assert ledger.lag == 63


def test_catching_up_is_told_when_it_begins_and_when_it_is_over(
    ledger: Ledger, caplog: pytest.LogCaptureFixture
) -> None:
    ledger.look(100_000, 3_600, flushed=1_000)
    assert ledger.estimate == math.inf
    ledger.now += 2
    ledger.look(60_000, 2_000, flushed=51_000)
    assert ledger.estimate == 3.0
    ledger.now += 3
    ledger.look(50, 0.1, flushed=126_000)
    assert ledger.estimate == 0
    begun, over = caplog.records
    assert (begun.levelno, over.levelno) == (logging.WARNING, logging.INFO)
    assert (begun.__dict__["events"], begun.__dict__["lag_seconds"]) == (100_000, 3_600)
    assert (over.__dict__["events"], over.__dict__["seconds"]) == (125_000, 5.0)
    assert over.__dict__["events_per_second"] == 25_000


def test_a_lag_between_the_two_marks_is_neither_news_nor_over(
    ledger: Ledger, caplog: pytest.LogCaptureFixture
) -> None:
    for lag in (12, 9, 12, 3):
        ledger.look(100, lag)
    assert len(caplog.records) == 1


def test_a_loss_in_between_never_counts_backwards(
    ledger: Ledger, caplog: pytest.LogCaptureFixture
) -> None:
    ledger.look(100, 12, flushed=1_000)
    ledger.look(0, 0, flushed=3)
    assert caplog.records[-1].__dict__["events"] == 0
