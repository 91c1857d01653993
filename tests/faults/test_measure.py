"""The figures: how long a fault was felt, and what was answered meanwhile."""

from __future__ import annotations

from typing import Any

from tests.faults.episode import Result
from tests.faults.history import Attempt, Call
from tests.faults.measure import answers, recoveries
from tests.faults.report import Report, add
from tests.faults.rows import ROWS

HELD: dict[str, Any] = {"status": "held", "replayed": False}
MARK = 10.0


def attempts(*ended: tuple[float, int, dict[str, Any]]) -> list[tuple[Call, Attempt]]:
    """Return attempts at holds of one account: when each was answered, and how."""
    call = Call(0, "acme", "hold", "h", {}, 0, [])
    return [(call, Attempt(0, at - 0.1, at, http, fields)) for at, http, fields in ended]


def test_an_account_that_was_served_all_the_time_needs_no_recovery() -> None:
    served = attempts((10.5, 200, HELD), (11.0, 402, {}))
    assert recoveries(served, MARK, ["acme"]) == {"acme": 0.0}


def test_the_recovery_ends_with_the_first_decision_after_the_last_refusal() -> None:
    ended = attempts(
        (9.0, 503, {}), (10.5, 503, {}), (11.0, 200, HELD), (11.5, 0, {}), (12.5, 402, {}),
        (13.0, 200, HELD),
    )  # fmt: skip
    assert recoveries(ended, MARK, ["acme"]) == {"acme": 2.5}


def test_a_call_that_waits_in_vain_while_others_are_served_is_no_longer_outage() -> None:
    ended = attempts((10.5, 503, {}), (11.0, 200, HELD))
    (call, waiting), *_ = attempts((12.0, 0, {}))
    waiting.sent = 10.6
    assert recoveries([*ended, (call, waiting)], MARK, ["acme"]) == {"acme": 1.0}


def test_what_was_granted_without_redis_is_no_recovery() -> None:
    ended = attempts((10.5, 200, HELD | {"degraded": True}), (11.0, 200, HELD))
    assert recoveries(ended, MARK, ["acme"]) == {"acme": 1.0}


def test_answers_are_counted_by_what_they_say() -> None:
    ended = attempts(
        (10.0, 200, HELD), (10.0, 200, HELD | {"degraded": True}), (10.0, 503, {}), (10.0, 0, {})
    )
    assert answers(ended) == {"200": 1, "degraded": 1, "503": 1, "none": 1}


def test_a_report_with_a_problem_is_not_good() -> None:
    row = ROWS["flushall"]
    total = Result(row)
    add(total, Result(row, cycles=2, acknowledged=5, recoveries=[0.5]))
    assert Report(1, {}, [total], 1.0).is_good
    add(total, Result(row, cycles=1, lost=1, problems=["lost: one"]))
    assert not Report(1, {}, [total], 1.0).is_good
    assert (total.cycles, total.acknowledged, total.lost) == (3, 5, 1)
