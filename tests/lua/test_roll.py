"""roll, by its header:

1. What every refill refuses first: unknown, fenced, stale, replayed, gap.
2. With keep 0 the grants go, and so does what is given back to them later.
3. Otherwise the first keep first, all together at most keep; what is more expires, an event each.
4. A grant that is carried over has its new place in the burn order, and its new expiry.
5. What is given back to it later stays in it.
6. Grants that are not there are passed over.
"""

from __future__ import annotations

import pytest

from sidecar.domain import MAX_AMOUNT
from tests.lua.consistent import check_consistent
from tests.lua.support import HOUR_MS, Account
from tests.lua.table import After, Charge, Row, do, funded, refill_first

FAR_MS = 4_000_000_000_000
LATER_MS = FAR_MS + HOUR_MS
TWO = [do.open(), do.grant(1, 100, expires_at_ms=FAR_MS), do.grant(2, 50, expires_at_ms=FAR_MS)]
BOTH = [(1, LATER_MS), (2, LATER_MS)]
OVERDRAWN = [do.open(overdraft=50), do.debit("d", 30)]


def ended(*parts: tuple[int, int]) -> list[Charge]:
    return [("expire", f"grant:{no}", amount, 0, 0, {no: amount}) for no, amount in parts]


ROWS = [
    *refill_first("roll", 10, [(1, FAR_MS)]),
    Row("with keep 0 the head goes", do.roll(0, [(1, FAR_MS)]), ["applied"],
        After(50, 0, {2: 50}, ended((1, 100))), before=TWO),
    Row("with keep 0 another than the head goes", do.roll(0, [(2, FAR_MS)]), ["applied"],
        After(100, 0, {1: 100}, ended((2, 50))), before=TWO),
    Row("with keep 0 all go", do.roll(0, BOTH), ["applied"],
        After(0, 0, {}, ended((1, 100), (2, 50))), before=TWO),
    Row("with keep 0 one that is used up goes without an event", do.roll(0, BOTH), ["applied"],
        After(0, 0, {}, ended((2, 20))), before=[*TWO, do.debit("d", 130)]),
    Row("with keep 0 one that never expires goes", do.roll(0, [(1, None)]), ["applied"],
        After(0, 0, {}, ended((1, 100))), before=funded()),
    Row("with keep 0 what is held of it stays held", do.roll(0, [(1, FAR_MS)]), ["applied"],
        After(50, 60, {2: 50}, ended((1, 40))), before=[*TWO, do.hold("h", 60)]),
    Row("all is kept when it is less than keep", do.roll(151, BOTH), ["applied"],
        After(150, 0, {1: 100, 2: 50}), before=TWO),
    Row("all is kept when it is just keep", do.roll(150, BOTH), ["applied"],
        After(150, 0, {1: 100, 2: 50}), before=TWO),
    Row("the first keep first", do.roll(120, BOTH), ["applied"],
        After(120, 0, {1: 100, 2: 20}, ended((2, 30))), before=TWO),
    Row("the first are those that are named first", do.roll(120, [(2, LATER_MS), (1, LATER_MS)]),
        ["applied"], After(120, 0, {1: 70, 2: 50}, ended((1, 30))), before=TWO),
    Row("the others stay with nothing", do.roll(60, BOTH), ["applied"],
        After(60, 0, {1: 60, 2: 0}, ended((1, 40), (2, 50))), before=TWO),
    Row("1 is kept", do.roll(1, BOTH), ["applied"],
        After(1, 0, {1: 1, 2: 0}, ended((1, 99), (2, 50))), before=TWO),
    Row("2^53-1 is kept", do.roll(MAX_AMOUNT, [(1, LATER_MS)]), ["applied"],
        After(MAX_AMOUNT, 0, {1: MAX_AMOUNT}), before=funded(MAX_AMOUNT)),
    Row("2^53-1 less 1 is kept", do.roll(MAX_AMOUNT - 1, [(1, LATER_MS)]), ["applied"],
        After(MAX_AMOUNT - 1, 0, {1: MAX_AMOUNT - 1}, ended((1, 1))), before=funded(MAX_AMOUNT)),
    Row("2^53-1 ends", do.roll(0, [(1, LATER_MS)]), ["applied"],
        After(0, 0, {}, ended((1, MAX_AMOUNT))), before=funded(MAX_AMOUNT)),
    Row("what was used is not kept", do.roll(30, [(1, LATER_MS)]), ["applied"],
        After(70, 0, {1: 20, 2: 50}), before=[*TWO, do.debit("d", 80)]),
    Row("what is held is no part of what is kept", do.roll(30, [(1, LATER_MS)]), ["applied"],
        After(80, 60, {1: 30, 2: 50}, ended((1, 10))), before=[*TWO, do.hold("h", 60)]),
    Row("a grant that is not there is passed over", do.roll(120, [(9, LATER_MS), *BOTH]),
        ["applied"], After(120, 0, {1: 100, 2: 20}, ended((2, 30))), before=TWO),
    Row("with keep 0 too", do.roll(0, [(9, LATER_MS)]), ["applied"],
        After(150, 0, {1: 100, 2: 50}), before=TWO),
    Row("one that is due has ended before", do.roll(50, BOTH), ["applied"],
        After(50, 0, {2: 50}, ended((1, 100))), before=[*TWO, do.due("g:1", 1)]),
    Row("no grants at all", do.roll(50, []), ["applied"], After(150, 0, {1: 100, 2: 50}),
        before=TWO),
    Row("others stay as they are", do.roll(10, [(2, LATER_MS)]), ["applied"],
        After(110, 0, {1: 100, 2: 10}, ended((2, 40))), before=TWO),
    Row("an overdraft stays", do.roll(0, [(1, LATER_MS)]), ["applied"],
        After(-20, 0, {}), before=[*OVERDRAWN, do.grant(1, 10, expires_at_ms=FAR_MS)]),
    Row("a suspended account's grants are rolled", do.roll(120, BOTH), ["applied"],
        After(120, 0, {1: 100, 2: 20}, ended((2, 30))), before=[*TWO, do.status("suspended")]),
    Row("rolling again changes no credits", do.roll(120, BOTH), ["applied"],
        After(120, 0, {1: 100, 2: 20}), before=[*TWO, do.roll(120, BOTH)]),
]  # fmt: skip


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.name)
def test_roll(account: Account, row: Row) -> None:
    row.check(account)


def with_three(account: Account) -> Account:
    """Return an account with grants 1, 2 and 3 of 100, which burn and end in this order."""
    account.open()
    for grant_no in (1, 2, 3):
        account.grant(grant_no, 100, expires_at_ms=FAR_MS + grant_no)
    return account


@pytest.mark.parametrize("grant_no", [1, 2, 3])
@pytest.mark.parametrize(
    ("expires_at_ms", "place"), [(FAR_MS - 1, 0), (FAR_MS + 9, 2), (None, 2), (FAR_MS + 2, None)]
)
@pytest.mark.parametrize("keep", [100, 60])
def test_a_grant_burns_in_its_new_place_and_ends_at_its_new_time(
    account: Account, grant_no: int, expires_at_ms: int | None, place: int | None, keep: int
) -> None:
    with_three(account)
    account.roll(keep, [(grant_no, expires_at_ms)])
    check_consistent(account)
    score = account.redis.zscore(account.keys[4], f"g:{grant_no}")
    assert score == expires_at_ms
    order = [number for number in (1, 2, 3) if number != grant_no]
    if place is None:
        order = [1, 2, 3]
        order = sorted(order, key=lambda n: (FAR_MS + (2 if n == grant_no else n), n))
    else:
        order.insert(place, grant_no)
    account.debit("d", 200 + keep)
    assert list(account.events()[-1].parts()) == order
    check_consistent(account)


def test_the_sweep_comes_when_what_was_carried_over_ends(account: Account) -> None:
    account.open()
    account.grant(1, 100, expires_at_ms=FAR_MS)
    account.roll(60, [(1, LATER_MS)])
    assert account.number("next_expiry") == LATER_MS
    assert account.redis.zscore(account.keys[5], account.name) == LATER_MS
    account.roll(60, [(1, FAR_MS - 7)])
    assert account.number("next_expiry") == FAR_MS - 7


def test_what_was_carried_over_ends_at_its_time(account: Account) -> None:
    account.open()
    account.grant(1, 100, expires_at_ms=FAR_MS)
    account.roll(60, [(1, 1_000)])
    assert account.balance(0)[2] == 0
    assert [(event.operation, event.amount) for event in account.events()] == [
        ("expire", 40),
        ("expire", 60),
    ]
    check_consistent(account)


def test_the_sweep_forgets_an_account_whose_grants_were_ended(account: Account) -> None:
    account.open()
    account.grant(1, 100, expires_at_ms=FAR_MS)
    account.roll(0, [(1, FAR_MS)])
    assert account.redis.zscore(account.keys[5], account.name) is None
    assert account.redis.zcard(account.keys[4]) == 0


def test_what_a_hold_gives_back_to_a_grant_that_was_ended_ends_too(account: Account) -> None:
    account.open()
    account.grant(1, 100)
    account.hold("h", 60)
    account.roll(0, [(1, FAR_MS)])
    account.release("h")
    assert account.number("available") == 0
    assert account.events()[-1].parts() == {1: 60}
    check_consistent(account)


@pytest.mark.parametrize("keep", [30, 40, 100])
def test_what_a_hold_gives_back_stays_in_a_grant_that_was_carried_over(
    account: Account, keep: int
) -> None:
    account.open()
    account.grant(1, 100)
    account.hold("h", 60)
    account.roll(keep, [(1, LATER_MS)])
    account.release("h")
    assert account.left() == {1: min(keep, 40) + 60}
    check_consistent(account)


def test_a_grant_with_nothing_kept_takes_back_what_a_hold_gives(account: Account) -> None:
    account.open()
    account.grant(1, 100, expires_at_ms=FAR_MS)
    account.grant(2, 50, expires_at_ms=FAR_MS)
    account.hold("h", 120)
    account.roll(5, [(2, LATER_MS), (1, LATER_MS)])
    account.release("h")
    assert account.left() == {1: 100, 2: 25}
    check_consistent(account)


def test_a_grant_that_is_carried_over_keeps_its_id_for_people(account: Account) -> None:
    account.open()
    account.grant(1, 100)
    account.roll(60, [(1, LATER_MS)])
    assert account.balance()[9][1:4:2] == [60, "grant-1"]


def test_so_many_grants_as_one_refill_may_roll(account: Account) -> None:
    account.open()
    numbers = range(1, 1_001)
    for grant_no in numbers:
        account.grant(grant_no, 2, expires_at_ms=FAR_MS)
    account.roll(999, [(grant_no, LATER_MS) for grant_no in numbers])
    assert account.number("available") == 999
    assert account.left()[499] == 2
    assert account.left()[500] == 1
    assert account.left()[501] == 0
    check_consistent(account)
