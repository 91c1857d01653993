"""expire, by its header:

1. An unknown account and another epoch are refused.
2. With nothing due it says when something will be, and changes nothing.
3. A hold that is due gives back what it set aside, and its id stays known.
4. A grant that is due ends with what is left of it, as one event; what is held of it stays held.
5. It ends 16 things a call, the soonest first, and says whether more is due.
6. The sweep's entry is the account's next expiry, and there is none without one.
"""

from __future__ import annotations

import pytest

from tests.lua.consistent import check_consistent
from tests.lua.support import HOUR_MS, Account
from tests.lua.table import After, Row, crowded, do, funded, refused_first

NEVER = 999_999_999_999_999
FAR_MS = 4_000_000_000_000
GRANTED = [do.open(), do.grant(1, 100, expires_at_ms=FAR_MS)]


def ended(grant_no: int, amount: int) -> tuple[str, str, int, int, int, dict[int, int]]:
    return ("expire", f"grant:{grant_no}", amount, 0, 0, {grant_no: amount})


ROWS = [
    *refused_first(do.expire()),
    Row("with nothing to wait for nothing is due", do.expire(), ["done", 0, NEVER],
        before=funded()),
    Row("before its time nothing is due", do.expire(), ["done", 0, FAR_MS], before=GRANTED),
    Row("a hold gives back what it set aside", do.expire(), ["done", 0, NEVER],
        After(100, 0, {1: 100}), before=[*funded(), do.hold("h", 60), do.pass_time(HOUR_MS)]),
    Row("a hold keeps what was charged", do.expire(), ["done", 0, NEVER],
        After(60, 0, {1: 60}),
        before=[*funded(), do.hold("h", 60), do.settle("h", 40, final=0), do.pass_time(HOUR_MS)]),
    Row("a hold gives back to each grant and to the overdraft", do.expire(), ["done", 0, NEVER],
        After(150, 0, {1: 100, 2: 50}),
        before=[*funded(overdraft=50), do.grant(2, 50, category="promo"), do.hold("h", 170),
                do.pass_time(HOUR_MS)]),
    Row("what a hold gives back covers what others charged", do.expire(), ["done", 0, NEVER],
        After(30, 0, {1: 30}, [("cover", "", 0, 0, 0, {1: 30, 0: -30})]),
        before=[*funded(), do.hold("h", 60), do.debit("d", 40), do.hold("i", 0),
                do.settle("i", 30), do.pass_time(HOUR_MS)]),
    Row("a grant ends with what is left of it", do.expire(), ["done", 0, NEVER],
        After(0, 0, {}, [ended(1, 70)]),
        before=[*GRANTED, do.debit("d", 30), do.pass_time(FAR_MS)]),
    Row("a grant that is used up ends without an event", do.expire(), ["done", 0, NEVER],
        After(0, 0, {}), before=[*GRANTED, do.debit("d", 100), do.pass_time(FAR_MS)]),
    Row("a grant that is the head makes the next one head", do.expire(), ["done", 0, NEVER],
        After(50, 0, {2: 50}, [ended(1, 70)]),
        before=[*GRANTED, do.grant(2, 50), do.debit("d", 30), do.pass_time(FAR_MS)]),
    Row("a grant that is not the head ends too", do.expire(), ["done", 0, NEVER],
        After(50, 0, {2: 50}, [ended(1, 100)]),
        before=[*GRANTED, do.grant(2, 80, priority=0), do.debit("d", 30), do.pass_time(FAR_MS)]),
    Row("what is held of a grant stays held", do.expire(), ["done", 0, FAR_MS - 9],
        After(0, 60, {}, [ended(1, 40)]),
        before=[*GRANTED, do.hold("h", 60), do.due("g:1", 1), do.due("h:h", FAR_MS - 9)]),
    Row("grant first, what its hold gives back afterwards expires", do.expire(),
        ["done", 0, NEVER],
        After(0, 0, {}, [ended(1, 40), ended(1, 60)]),
        before=[*GRANTED, do.hold("h", 60), do.due("g:1", 1), do.due("h:h", 2)]),
    Row("hold first, the grant ends with what came back", do.expire(), ["done", 0, NEVER],
        After(0, 0, {}, [ended(1, 100)]),
        before=[*GRANTED, do.hold("h", 60), do.due("h:h", 1), do.due("g:1", 2)]),
    Row("what waits longer is left", do.expire(), ["done", 0, FAR_MS],
        After(200, 0, {1: 100, 2: 100}),
        before=[*funded(), do.grant(2, 100, expires_at_ms=FAR_MS), do.hold("h", 60),
                do.due("h:h", 1)]),
    Row("exactly 16 are ended in one call", do.expire(), ["done", 0, NEVER],
        After(100, 0, {1: 100}), before=crowded(16)),
    Row("of 17 one is left for the next call", do.expire(), ["done", 1, 17],
        After(99, 1, {1: 99}),
        before=[*crowded(17), *(do.due(f"h:old{n}", n + 1) for n in range(17))]),
    Row("a suspended account's hold expires", do.expire(), ["done", 0, NEVER],
        After(100, 0, {1: 100}),
        before=[*funded(), do.hold("h", 60), do.status("suspended"), do.pass_time(HOUR_MS)]),
]  # fmt: skip


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.name)
def test_expire(account: Account, row: Row) -> None:
    row.check(account)


def test_a_hold_that_expired_is_remembered(account: Account) -> None:
    account.open()
    account.grant(1, 100)
    account.hold("h", 60)
    account.pass_time(HOUR_MS)
    account.expire()
    assert account.answers()["h"][1] == "expired"
    assert account.holds() == {}


def test_the_sweep_knows_an_account_only_while_it_waits_for_something(account: Account) -> None:
    account.open()
    account.grant(1, 100)
    assert account.redis.zscore(account.keys[5], "acme") is None
    expires_at_ms = account.hold("h", 60)[4]
    assert account.redis.zscore(account.keys[5], "acme") == expires_at_ms
    account.pass_time(HOUR_MS)
    account.expire()
    assert account.redis.zscore(account.keys[5], "acme") is None


def test_many_things_at_once_are_ended_call_by_call(account: Account) -> None:
    account.open()
    for grant_no in range(1, 41):
        account.grant(grant_no, 10, expires_at_ms=FAR_MS + grant_no)
    account.hold("h", 200)
    account.pass_time(FAR_MS)
    replies = []
    for _ in range(3):
        replies.append(account.expire()[:2])
        check_consistent(account)
    assert replies == [["done", 1], ["done", 1], ["done", 0]]
    assert account.fields()["available"] == "0"
    assert sum(event.amount for event in account.events()) == 400


def test_a_call_that_was_told_again_goes_through_after_expire(account: Account) -> None:
    for step in crowded(17):
        step(account)
    assert account.debit("d", 100) == ["again"]
    assert account.expire() == ["done", 0, NEVER]
    assert account.debit("d", 100) == ["debited", 0, 100, 0]
    check_consistent(account)


def test_whatever_call_comes_first_ends_what_is_due(account: Account) -> None:
    account.open()
    account.grant(1, 100, expires_at_ms=FAR_MS)
    account.pass_time(FAR_MS)
    assert account.debit("d", 1) == ["insufficient", 0, 0]
    assert account.events()[0].operation == "expire"
    check_consistent(account)


def test_what_is_due_at_this_very_millisecond_is_due(account: Account) -> None:
    account.open()
    account.grant(1, 100)
    for n in range(17):
        account.hold(f"h{n}", 1)
    due_ms = account.now_ms() + 20
    for n in range(17):
        account.due(f"h:h{n}", due_ms)
    # "Nothing is due yet" is right only before that instant, and while nothing has ended.
    while held := account.number("held"):
        at_ms, reply = account.now_ms(), account.expire()
        is_begun = at_ms >= due_ms or account.number("held") < held
        assert not (is_begun and reply == ["done", 0, due_ms])
