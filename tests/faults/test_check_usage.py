"""The checks of usage, answers and credits: each finds what it is there for."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from tests.faults.check_balances import check_said
from tests.faults.check_usage import Verdict, check_answers, check_overspend, check_usage
from tests.faults.made_up import ACCOUNT, Made


def verdict_of(made: Made, *, is_lossy: bool = False) -> Verdict:
    """Return what the checks say."""
    verdict = Verdict(is_lossy=is_lossy)
    check_answers(made.calls, verdict)
    check_usage(made.calls, made.truth, verdict)
    check_overspend(made.calls, made.truth, verdict)
    return verdict


def sound() -> Made:
    """Return a history in which all is well."""
    made = Made()
    made.hold("h", 300, 700)
    made.debit("d", 100, 600)
    made.settle("h", 200, 700)
    made.refund("r", "d", 40, 740)
    refused = made.call("hold", "x", 5_000)
    made.attempt(refused, 402, error={"code": "insufficient_credits", "available": 740})
    return made


def test_a_sound_history_is_sound() -> None:
    assert verdict_of(sound()) == Verdict()


def test_a_charge_that_is_not_in_the_ledger_is_lost() -> None:
    made = sound()
    lost = made.call("debit", "gone", 70)
    made.attempt(lost, charged=70, available=670)
    verdict = verdict_of(made)
    assert (verdict.lost, verdict.lost_amount) == (1, 70)
    assert len(verdict.problems) == 1


def test_the_last_step_of_a_hold_that_is_not_in_the_ledger_is_lost() -> None:
    made = Made()
    made.hold("h", 300, 700)
    first = made.call("settle", "h", 50, final=False)
    made.attempt(first, charged=50, available=700)
    made.event(first)
    last = made.call("settle", "h", 80, final=True)
    made.attempt(last, charged=80, available=920)
    verdict = verdict_of(made)
    assert (verdict.lost, verdict.lost_amount) == (1, 30)


def _charged_twice(made: Made) -> None:
    made.event(made.calls[1])


def _charged_too_much(made: Made) -> None:
    made.event(made.calls[2], 20)


def _nobody_asked(made: Made) -> None:
    stranger = made.call("debit", "stranger", 1)
    made.event(stranger)
    made.calls.remove(stranger)


def _refused_without_a_doubt_and_charged(made: Made) -> None:
    refused = made.call("debit", "refused", 9)
    made.attempt(refused, 402, error={"code": "insufficient_credits", "available": 0})
    made.event(refused)


def _ended_twice(made: Made) -> None:
    made.event(made.calls[2], 0)


def _failed(made: Made) -> None:
    made.attempt(made.calls[1], 500, error={"code": "internal_error"})


def _settle_refused(made: Made) -> None:
    made.hold("h2", 1, 739)
    settle = made.call("settle", "h2", 1)
    made.attempt(settle, 404, error={"code": "hold_not_found"})


def _told_something_else(made: Made) -> None:
    made.attempt(made.calls[1], charged=99, available=600, replayed=True)


def _carried_out_twice(made: Made) -> None:
    made.attempt(made.calls[1], charged=100, available=500)


def _granted_too_much(made: Made) -> None:
    made.hold("h3", 1_000, -260)


@pytest.mark.parametrize(
    "spoil",
    [
        _charged_twice,
        _charged_too_much,
        _nobody_asked,
        _refused_without_a_doubt_and_charged,
        _ended_twice,
        _failed,
        _settle_refused,
        _told_something_else,
        _carried_out_twice,
        _granted_too_much,
    ],
)
def test_what_may_not_be_is_a_problem(spoil: Callable[[Made], None]) -> None:
    made = sound()
    spoil(made)
    assert verdict_of(made).problems != []


def test_a_call_without_an_answer_may_be_charged_or_not() -> None:
    made = sound()
    for id in ("charged", "not"):
        call = made.call("debit", id, 5)
        made.attempt(call, 0, error="TimeoutError")
        if id == "charged":
            made.event(call)
    assert verdict_of(made) == Verdict()


def test_a_refusal_after_a_charge_without_an_answer_is_counted() -> None:
    made = sound()
    call = made.call("debit", "d2", 5)
    made.attempt(call, 0, error="TimeoutError")
    made.event(call)
    made.attempt(call, 402, error={"code": "insufficient_credits", "available": 0})
    verdict = verdict_of(made, is_lossy=True)
    assert (verdict.problems, verdict.doubtful) == ([], 1)


def test_after_a_loss_an_extend_may_find_no_hold_but_a_settle_may_not() -> None:
    for operation, problems in (("extend", 0), ("settle", 1)):
        made = sound()
        call = made.call(operation, "h9", 5)
        made.attempt(call, 404, error={"code": "hold_not_found"})
        assert len(verdict_of(made, is_lossy=True).problems) == problems


def test_credits_below_zero_are_overspent() -> None:
    made = Made(granted=100)
    made.debit("d1", 80, 20)
    made.debit("d2", 50, 0)
    verdict = verdict_of(made)
    assert verdict.overspent == 30


@pytest.mark.parametrize("why", ["late", "degraded"])
def test_what_was_settled_late_or_without_redis_is_not_overspent(why: str) -> None:
    made = Made(granted=100)
    made.hold("h", 80, 20)
    settle = made.call("settle", "h", 80)
    made.attempt(settle, charged=80, available=0)
    made.event(settle, **{why: True})
    made.debit("d", 100, 0)
    assert verdict_of(made, is_lossy=True).overspent == 0


def test_what_a_dead_sidecar_had_not_handed_in_is_lost_but_no_problem() -> None:
    made = sound()
    lost = made.call("debit", "gone", 70)
    answered = made.attempt(lost, sidecar=1, charged=70, available=670).answered
    for at, problems in ((answered + 1, 0), (answered - 1, 1), (answered + 60, 1)):
        verdict = Verdict(deaths=[(1, at)])
        check_usage(made.calls, made.truth, verdict)
        assert (verdict.lost, len(verdict.problems)) == (1, problems)


@pytest.mark.parametrize(
    ("said", "problems"),
    [
        ({"control": (700, 300), "sidecar-0": (700, 300)}, 0),
        ({"control": (700, 300), "sidecar-0": (690, 310)}, 1),
        ({"control": (600, 300), "sidecar-0": (600, 300)}, 2),
        ({"control": (1_001, -1), "sidecar-0": (1_001, -1)}, 2),
    ],
)
def test_everybody_must_say_the_same_balance(
    said: dict[str, tuple[int, int]], problems: int
) -> None:
    verdict = Verdict()
    check_said(ACCOUNT, said, 1_000, verdict)
    assert len(verdict.problems) == problems
