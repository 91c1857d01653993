"""The load runner's own judgement: a client that must be trusted, a comparison that must see.

1. a call without an answer is sent again under the same id, and its receipt is kept once
2. a call that never gets an answer is on record as unanswered
3. a call carried out twice, two different answers, or an answer out of the contract is a finding
4. a refusal after an attempt without an answer stays in doubt until it was sent again
5. receipts and ledger that differ in any way give a mismatch
6. percentiles are exact
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from loadtests import checks, receipts
from loadtests.caller import Answer, Broken, Caller, GaveUp, NoAnswer
from loadtests.checks import Balance
from loadtests.figures import Latency, percentile
from loadtests.ledger import Truth
from loadtests.receipts import Receipt, ReceiptFile, Told, Unanswered

BODY = {"account": "a", "id": "1", "amount": 5}


def debited(**fields: Any) -> Answer:
    """Return a debit's answer."""
    answer = {"id": "1", "status": "debited", "charged": 5, "available": 95, "replayed": False}
    return Answer(200, answer | fields)


def refused(http: int, code: str) -> Answer:
    """Return an error's answer."""
    return Answer(http, {"error": {"code": code}})


class Script:
    """A transport that plays answers from a list."""

    def __init__(self, *outcomes: Answer | NoAnswer) -> None:
        self._outcomes = list(outcomes)
        self.sent: list[tuple[str, dict[str, Any]]] = []

    def send(self, operation: str, body: dict[str, Any]) -> Answer:
        """Play the next."""
        self.sent.append((operation, dict(body)))
        outcome = self._outcomes.pop(0)
        if isinstance(outcome, NoAnswer):
            raise outcome
        return outcome

    def send_twice(self, operation: str, body: dict[str, Any]) -> Sequence[Answer | NoAnswer]:
        """Play the next two."""
        return [self.send(operation, body), self.send(operation, body)]

    def hang_up(self, operation: str, body: dict[str, Any]) -> None:
        """Play nothing."""


def run(
    path: Path, script: Script, *expected: str, repeats: float = 0.0, patience_seconds: float = 9
) -> Answer:
    """Make one debit."""
    file = ReceiptFile(path)
    try:
        caller = Caller(
            script, file, repeats=repeats, patience_seconds=patience_seconds, sleep=lambda _: None
        )
        return caller.call("debit", BODY, *(expected or ("debited",)))
    finally:
        file.close()


def test_a_call_without_an_answer_is_sent_again_under_the_same_id(tmp_path: Path) -> None:
    script = Script(NoAnswer("reset"), refused(503, "store_unavailable"), debited(replayed=True))
    run(tmp_path / "r", script)
    assert script.sent == [("debit", BODY)] * 3
    assert list(receipts.read(tmp_path / "r")) == [
        Receipt(account="a", id="1", operation="debit", status="debited", charged=5)
    ]


def test_a_call_that_never_gets_an_answer_is_on_record(tmp_path: Path) -> None:
    with pytest.raises(GaveUp):
        run(tmp_path / "r", Script(NoAnswer("reset")), patience_seconds=-1)
    assert list(receipts.read(tmp_path / "r")) == [Unanswered("debit", BODY)]


def test_a_refusal_after_an_attempt_without_an_answer_stays_in_doubt(tmp_path: Path) -> None:
    script = Script(NoAnswer("reset"), refused(402, "insufficient_credits"))
    run(tmp_path / "r", script, "debited", "insufficient_credits")
    assert list(receipts.read(tmp_path / "r")) == [Unanswered("debit", BODY)]


def test_a_plain_refusal_leaves_nothing_to_do(tmp_path: Path) -> None:
    run(tmp_path / "r", Script(refused(402, "insufficient_credits")), "insufficient_credits")
    assert not list(receipts.read(tmp_path / "r"))


@pytest.mark.parametrize(
    "answer",
    [
        refused(404, "account_not_found"),
        debited(status="held"),
    ],
)
def test_an_answer_that_the_contract_does_not_allow_is_a_finding(
    answer: Answer, tmp_path: Path
) -> None:
    with pytest.raises(Broken):
        run(tmp_path / "r", Script(answer))
    assert told_of(tmp_path / "r").findings


@pytest.mark.parametrize(
    "answers",
    [
        pytest.param([debited(charged=6)], id="other figures than asked for"),
        pytest.param([debited(available=-1)], id="granted beyond what was available"),
        pytest.param([refused(500, "internal_error"), debited()], id="an internal error"),
    ],
)
def test_an_answer_with_wrong_figures_is_a_finding(answers: list[Answer], tmp_path: Path) -> None:
    run(tmp_path / "r", Script(*answers))
    assert told_of(tmp_path / "r").findings


@pytest.mark.parametrize(
    "others",
    [
        pytest.param(debited(), id="carried out twice"),
        pytest.param(debited(available=90, replayed=True), id="answered in two ways"),
        pytest.param(refused(409, "id_conflict"), id="done and refused"),
    ],
)
def test_repeats_that_disagree_are_a_finding(others: Answer, tmp_path: Path) -> None:
    # Repeats are certain with this share: twins, and once more after them.
    run(tmp_path / "r", Script(debited(), others, debited(replayed=True)), repeats=10)
    assert told_of(tmp_path / "r").findings


def test_repeats_that_agree_are_no_finding(tmp_path: Path) -> None:
    again = debited(replayed=True)
    run(tmp_path / "r", Script(debited(), again, again), repeats=10)
    told = told_of(tmp_path / "r")
    assert (told.findings, told.debited) == ([], {("a", "1"): 5})


def told_of(path: Path) -> Told:
    """Return the sum of a receipt file."""
    told = Told()
    for line in receipts.read(path):
        told.add(line)
    return told


def matching() -> tuple[Told, Truth]:
    """Return receipts and a ledger that agree."""
    told = Told()
    told.add(Receipt("a", "hold", "settle", "held", 10))
    told.add(Receipt("a", "hold", "settle", "settled", 30))
    told.add(Receipt("a", "debit", "debit", "debited", 5))
    told.add(Receipt("a", "refund", "refund", "refunded", 0, 2))
    truth = Truth(
        settled={("a", "hold"): 30},
        debited={("a", "debit"): 5},
        refunded={("a", "refund"): 2},
        finals={("a", "hold"): 1},
        usage={"a": 33},
        spent={"a": 33},
        granted={"a": 100},
    )
    return told, truth


def test_receipts_and_a_ledger_that_agree_are_no_mismatch() -> None:
    assert not list(checks.compare(*matching()))


@pytest.mark.parametrize(
    "break_it",
    [
        pytest.param(lambda told, truth: truth.settled.clear(), id="a settle is lost"),
        pytest.param(lambda told, truth: told.debited.clear(), id="a debit nobody was told of"),
        pytest.param(lambda told, truth: truth.refunded.update({("a", "refund"): 4}), id="twice"),
        pytest.param(lambda told, truth: truth.finals.update({("a", "hold"): 2}), id="two ends"),
        pytest.param(lambda told, truth: truth.finals.clear(), id="no end"),
        pytest.param(lambda told, truth: truth.usage.update(a=34), id="another sum"),
        pytest.param(lambda told, truth: truth.spent.update(a=32), id="another generation spent"),
        pytest.param(lambda told, truth: told.findings.append("x"), id="a finding"),
        pytest.param(
            lambda told, truth: told.unanswered.append(Unanswered("debit", {})), id="unanswered"
        ),
    ],
)
def test_any_difference_is_a_mismatch(break_it: Callable[[Told, Truth], None]) -> None:
    told, truth = copy.deepcopy(matching())
    break_it(told, truth)
    assert list(checks.compare(told, truth))


@pytest.mark.parametrize(
    ("available", "held", "may_overspend", "mismatches"),
    [
        (60, 7, False, 0),
        (60, 8, False, 1),
        (-1, 68, False, 1),
        (-1, 68, True, 0),
    ],
)
def test_what_is_left_in_redis_is_compared(
    available: int, held: int, may_overspend: bool, mismatches: int
) -> None:
    told, truth = matching()
    balances = [Balance("http://sidecar", "a", available, held)]
    found = checks.compare_balances(told, truth, balances, may_overspend=may_overspend)
    assert len(list(found)) == mismatches


@pytest.mark.parametrize(
    ("share", "expected"), [(0.5, 50.0), (0.99, 99.0), (0.999, 100.0), (1.0, 100.0)]
)
def test_percentiles_are_exact(share: float, expected: float) -> None:
    assert percentile([float(value) for value in range(1, 101)], share) == expected


def test_percentiles_of_nothing_are_zero() -> None:
    assert Latency.of([]) == Latency(0, 0, 0, 0)
