"""The checks of the order: of the ledger against the clients' time, and of all answers."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import msgspec
import pytest

from tests.faults.check_order import check_order
from tests.faults.check_replay import check_replay, explain
from tests.faults.check_usage import Verdict
from tests.faults.made_up import ACCOUNT, Made
from tests.faults.replay_story import stories


def order_problems(made: Made) -> list[str]:
    """Return what is wrong with the ledger's order."""
    verdict = Verdict()
    check_order(made.calls, made.truth, verdict)
    return verdict.problems


def replay_problems(made: Made) -> list[str]:
    """Return what is wrong with the answers, all of which must have been decided."""
    verdict = Verdict()
    assert check_replay(made.calls, made.truth, verdict) == 0
    return verdict.problems


def long() -> Made:
    """Return a history with every kind of call, one after the other."""
    made = Made()
    made.hold("h1", 300, 700)
    made.debit("d1", 100, 600)
    extended = made.call("extend", "h1", 350)
    made.attempt(extended, amount=350, available=550)
    step = made.call("settle", "h1", 50, final=False)
    made.attempt(step, charged=50, available=550)
    made.event(step)
    made.settle("h1", 200, 700, 150)
    made.refund("r1", "d1", 40, 740)
    refused = made.call("debit", "d2", 741)
    made.attempt(refused, 402, error={"code": "insufficient_credits", "available": 740})
    made.hold("h2", 40, 700)
    release = made.call("release", "h2")
    made.attempt(release, available=740)
    made.hold("h3", 100, 640)
    made.settle("h3", 130, 610)
    return made


# The ledger's order ---------------------------------------------------------------------------


def test_the_order_of_the_answers_is_fine() -> None:
    assert order_problems(long()) == []


def test_an_event_before_one_that_was_answered_before_it_was_sent_is_a_problem() -> None:
    made = long()
    swap(made, 0, 1)
    assert len(order_problems(made)) == 1


def test_a_newer_generation_comes_after_an_older_one() -> None:
    made = long()
    made.truth.events[-1] = msgspec.structs.replace(made.truth.events[-1], generation=2, seq=1)
    assert order_problems(made) == []
    made.truth.events[0] = msgspec.structs.replace(made.truth.events[0], generation=3, seq=1)
    assert len(order_problems(made)) > 0


def test_calls_at_the_same_time_may_come_in_any_order() -> None:
    made = Made()
    for id, available in (("d1", 800), ("d2", 900)):
        call = made.call("debit", id, 100)
        made.attempt(call, lasts=10, charged=100, available=available)
        made.event(call)
    swap(made, 0, 1)
    assert order_problems(made) == []
    assert replay_problems(made) == []


def swap(made: Made, first: int, second: int) -> None:
    """Let two events take each other's place."""
    events = made.truth.events
    one, other = events[first], events[second]
    events[first] = msgspec.structs.replace(one, seq=other.seq)
    events[second] = msgspec.structs.replace(other, seq=one.seq)


# All answers ----------------------------------------------------------------------------------


def test_there_is_an_order_that_explains_all_answers() -> None:
    assert replay_problems(long()) == []


@pytest.mark.parametrize("place", range(11))
def test_one_answer_that_is_off_by_one_is_found(place: int) -> None:
    made = long()
    call = made.calls[place]
    (attempt,) = call.attempts
    fields: dict[str, Any] = attempt.fields.get("error", attempt.fields)
    fields["available"] += 1
    assert len(replay_problems(made)) == 1


def test_a_grant_beyond_what_is_available_is_found() -> None:
    made = Made(granted=100)
    made.debit("d1", 80, 20)
    made.hold("h1", 30, -10)
    assert len(replay_problems(made)) == 1


def test_events_in_another_order_than_the_answers_are_found() -> None:
    made = long()
    swap(made, 0, 1)
    assert len(replay_problems(made)) == 1


def test_a_call_without_an_answer_was_carried_out_when_others_saw_it() -> None:
    made = Made()
    silent = made.call("hold", "h1", 300)
    made.attempt(silent, 0, error="TimeoutError")
    made.debit("d1", 100, 600)
    assert replay_problems(made) == []


def test_a_call_without_an_answer_was_not_carried_out_when_others_did_not_see_it() -> None:
    made = Made()
    silent = made.call("hold", "h1", 300)
    made.attempt(silent, 0, error="TimeoutError")
    made.debit("d1", 100, 900)
    assert replay_problems(made) == []


def test_a_call_that_nobody_made_explains_nothing() -> None:
    made = Made()
    made.debit("d1", 100, 600)
    assert len(replay_problems(made)) == 1


def test_a_refill_may_come_at_any_time() -> None:
    for place in range(3):
        made = Made()
        for number in range(3):
            more = 50 if number >= place else 0
            made.debit(f"d{number}", 100, 1_000 - 100 * (number + 1) + more)
        made.truth.refills.append(replace_refill(made, number=3, amount=50))
        assert replay_problems(made) == []


def replace_refill(made: Made, **changes: Any) -> Any:
    """Return the grant with something else about it."""
    return msgspec.structs.replace(made.truth.refills[1], **changes)


def _settled_late(made: Made) -> None:
    made.hold("h1", 300, 600)
    made.lose(900)
    settle = made.call("settle", "h1", 200)
    made.attempt(settle, charged=200, available=700, late=True)
    made.event(settle, late=True)


def _released_of_a_lost_generation(made: Made) -> None:
    made.hold("h1", 300, 600)
    made.lose(900)
    made.debit("d2", 100, 800)
    release = made.call("release", "h1")
    made.attempt(release, available=800)


def _lost_and_done_again(made: Made) -> None:
    again = made.call("debit", "again", 50)
    made.attempt(again, 0, error="TimeoutError")
    seen = made.call("hold", "seen", 10)
    made.attempt(seen, amount=10, available=840)
    made.lose(900)
    made.attempt(again, charged=50, available=850)
    made.event(again)


def _done_again_and_dropped(made: Made) -> None:
    twice = made.call("debit", "twice", 50)
    made.attempt(twice, 0, error="TimeoutError")
    made.event(twice)
    made.lose(850)
    made.truth.duplicates.append((ACCOUNT, 2, 1, 50))
    made.truth.refills.append(replace_refill(made, generation=2, number=3, amount=50))
    made.attempt(twice, charged=50, available=800)
    made.debit("d3", 10, 840)
    made.truth.events[-1] = msgspec.structs.replace(made.truth.events[-1], seq=2)


def _accepted_without_redis(made: Made) -> None:
    degraded = made.call("debit", "degraded", 70)
    made.attempt(degraded, charged=70, available=99, degraded=True)
    made.lose(900)
    made.debit("d4", 100, 800)
    made.event(degraded, degraded=True)
    made.debit("d5", 100, 630)


@pytest.mark.parametrize(
    "story",
    [
        _settled_late,
        _released_of_a_lost_generation,
        _lost_and_done_again,
        _done_again_and_dropped,
        _accepted_without_redis,
    ],
)
def test_what_happens_around_a_loss_is_explained(story: Callable[[Made], None]) -> None:
    made = Made()
    made.debit("d0", 100, 900)
    story(made)
    assert replay_problems(made) == []


def test_credits_that_a_new_generation_should_not_have_are_found() -> None:
    made = Made()
    made.debit("d0", 100, 900)
    made.lose(900)
    made.debit("d1", 100, 900)
    assert len(replay_problems(made)) == 1


def test_a_search_that_takes_too_long_decides_nothing() -> None:
    made = long()
    (story,) = stories(made.calls, replace(made.truth))
    assert explain(story, most_states=3) == (None, None)
