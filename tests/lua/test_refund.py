"""refund, by its header:

1. What every script refuses first: an unknown account, another epoch, too much due to expire.
2. The same refund again gets the first answer again: all that was left, written out or not, is the
   same; another amount or charge under its id is a conflict, and so is the id of a hold or debit.
3. `of` must be a hold or debit; a running hold is refused.
4. The sum of refunds never exceeds what was charged; with nothing left even nothing is refused.
5. It goes back to the grants that it came from, what was burnt last first, in as many steps as one
   likes; what came from a grant that has expired expires too, what came from the overdraft is paid
   back. Bounds 1 and 2^53-1.
6. What comes back covers the overdraft that others charged.
7. It is one event with the context of the hold; suspended accounts get refunds too.
"""

from __future__ import annotations

import pytest

from sidecar.domain import MAX_AMOUNT
from tests.lua.consistent import check_consistent
from tests.lua.support import CHARGES, REFUNDED, Account
from tests.lua.table import After, Charge, Row, Step, again_first, do, funded, refused_first

DEBITED = [*funded(), do.debit("d", 60)]
THREE = [do.open(overdraft=10), do.grant(1, 20), do.grant(2, 20), do.debit("d", 45)]
FAR_MS = 4_000_000_000_000


def refunded(amount: int, parts: dict[int, int], id: str = "r") -> Charge:
    return ("refund", id, -amount, amount, 4, {no: -part for no, part in parts.items()})


def settled(final: int = 1) -> list[Step]:
    return [*funded(), do.hold("h", 60), do.settle("h", 40, final=final)]


ROWS = [
    *refused_first(do.refund("r", "d")),
    again_first(do.refund("r", "d")),
    Row("all of a debit comes back", do.refund("r", "d"), ["refunded", 0, 60, 100],
        After(100, 0, {1: 100}, [refunded(60, {1: 60})]), before=DEBITED, replays=True),
    Row("a part of a debit comes back", do.refund("r", "d", 10), ["refunded", 0, 10, 50],
        After(50, 0, {1: 50}, [refunded(10, {1: 10})]), before=DEBITED, replays=True),
    Row("1 comes back", do.refund("r", "d", 1), ["refunded", 0, 1, 41],
        After(41, 0, {1: 41}, [refunded(1, {1: 1})]), before=DEBITED, replays=True),
    Row("2^53-1 comes back", do.refund("r", "d", MAX_AMOUNT),
        ["refunded", 0, MAX_AMOUNT, MAX_AMOUNT],
        After(MAX_AMOUNT, 0, {1: MAX_AMOUNT}, [refunded(MAX_AMOUNT, {1: MAX_AMOUNT})]),
        before=[*funded(MAX_AMOUNT), do.debit("d", MAX_AMOUNT)], replays=True),
    Row("a settled hold's charge comes back, not what was held", do.refund("r", "h"),
        ["refunded", 0, 40, 100],
        After(100, 0, {1: 100}, [refunded(40, {1: 40})]), before=settled(), replays=True),
    Row("the charge of a hold that was released comes back", do.refund("r", "h"),
        ["refunded", 0, 40, 100], After(100, 0, {1: 100}, [refunded(40, {1: 40})]),
        before=[*settled(0), do.release("h")], replays=True),
    Row("the charge of a hold that expired comes back", do.refund("r", "h"),
        ["refunded", 0, 40, 100], After(100, 0, {1: 100}, [refunded(40, {1: 40})]),
        before=[*settled(0), do.pass_time(4_000_000), do.expire()], replays=True),
    Row("the charge of a late settle comes back", do.refund("r", "h"), ["refunded", 0, 50, 100],
        After(100, 0, {1: 100}, [refunded(50, {1: 50})]),
        before=[*settled(0), do.pass_time(4_000_000), do.settle("h", 50)], replays=True),
    Row("all that was left, written out, is the same request", do.refund("r", "d", 60),
        ["refunded", 1, 60, 100], before=[*DEBITED, do.refund("r", "d")]),
    Row("all that was left, not written out, is the same request", do.refund("r", "d"),
        ["refunded", 1, 60, 100], before=[*DEBITED, do.refund("r", "d", 60)]),
    Row("the rest after another refund is the same request", do.refund("s", "d", 50),
        ["refunded", 1, 50, 100],
        before=[*DEBITED, do.refund("r", "d", 10), do.refund("s", "d")]),
    Row("a part is another request than all", do.refund("r", "d"), ["conflict"],
        before=[*DEBITED, do.refund("r", "d", 10)]),
    Row("another amount under the id is a conflict", do.refund("r", "d", 11), ["conflict"],
        before=[*DEBITED, do.refund("r", "d", 10)]),
    Row("another charge under the id is a conflict", do.refund("r", "e", 10), ["conflict"],
        before=[*DEBITED, do.debit("e", 10), do.refund("r", "d", 10)]),
    Row("the id of a hold is a conflict", do.refund("h", "d", 60, fingerprint="same"), ["conflict"],
        before=[*DEBITED, do.hold("h", 1, fingerprint="same")]),
    Row("the id of a settled hold is a conflict", do.refund("h", "d", 40, fingerprint="same"),
        ["conflict"],
        before=[*DEBITED, do.hold("h", 40, fingerprint="same"), do.settle("h", 40)]),
    Row("the id of the debit itself is a conflict", do.refund("d", "d", 60, fingerprint="same"),
        ["conflict"], before=[*funded(), do.debit("d", 60, fingerprint="same")]),
    Row("a charge never seen is not found", do.refund("r", "x"), ["hold_not_found"],
        before=DEBITED),
    Row("of a refund is not found", do.refund("s", "r"), ["hold_not_found"],
        before=[*DEBITED, do.refund("r", "d", 10)]),
    Row("a running hold is open", do.refund("r", "h"), ["hold_open"],
        before=[*funded(), do.hold("h", 60)]),
    Row("a running hold is open although it was charged", do.refund("r", "h", 10), ["hold_open"],
        before=settled(0)),
    Row("more than was charged is refused", do.refund("r", "d", 61), ["refund_exceeds", 60],
        before=DEBITED),
    Row("2^53-1 is more than was charged", do.refund("r", "d", MAX_AMOUNT),
        ["refund_exceeds", 60], before=DEBITED),
    Row("more than is left is refused", do.refund("s", "d", 51), ["refund_exceeds", 50],
        before=[*DEBITED, do.refund("r", "d", 10)]),
    Row("with nothing left all that is left is refused", do.refund("s", "d"),
        ["refund_exceeds", 0], before=[*DEBITED, do.refund("r", "d")]),
    Row("a hold that was released has nothing to refund", do.refund("r", "h"),
        ["refund_exceeds", 0], before=[*funded(), do.hold("h", 60), do.release("h")]),
    Row("a hold that expired has nothing to refund", do.refund("r", "h"), ["refund_exceeds", 0],
        before=[*funded(), do.hold("h", 60), do.pass_time(4_000_000), do.expire()]),
    Row("a hold settled with 0 has nothing to refund", do.refund("r", "h"),
        ["refund_exceeds", 0], before=[*funded(), do.hold("h", 60), do.settle("h", 0)]),
    Row("what was burnt last comes back first", do.refund("r", "d", 10), ["refunded", 0, 10, 5],
        After(5, 0, {1: 0, 2: 5}, [refunded(10, {0: 5, 2: 5})]), before=THREE, replays=True),
    Row("the next step goes on where the last ended", do.refund("s", "d", 20),
        ["refunded", 0, 20, 25],
        After(25, 0, {1: 5, 2: 20}, [refunded(20, {2: 15, 1: 5}, "s")]),
        before=[*THREE, do.refund("r", "d", 10)], replays=True),
    Row("the last step brings everything back", do.refund("t", "d"), ["refunded", 0, 15, 40],
        After(40, 0, {1: 20, 2: 20}, [refunded(15, {1: 15}, "t")]),
        before=[*THREE, do.refund("r", "d", 10), do.refund("s", "d", 20)], replays=True),
    Row("an overdraft is paid back first", do.refund("r", "d", 5), ["refunded", 0, 5, 0],
        After(0, 0, {1: 0, 2: 0}, [refunded(5, {0: 5})]), before=THREE, replays=True),
    Row("an overdraft that was covered meanwhile becomes available", do.refund("r", "d", 5),
        ["refunded", 0, 5, 100],
        After(100, 0, {1: 0, 2: 0, 3: 95}, [refunded(5, {0: 5})]),
        before=[*THREE, do.grant(3, 100)], replays=True),
    Row("what came from an expired grant expires too", do.refund("r", "d"),
        ["refunded", 0, 10, 0],
        After(0, 0, {}, [refunded(10, {1: 10}), ("expire", "grant:1", 10, 0, 0, {1: 10})]),
        before=[do.open(), do.grant(1, 10, expires_at_ms=FAR_MS), do.debit("d", 10),
                do.expire_grant(1)], replays=True),
    Row("of two grants, one of them expired, only one comes back", do.refund("r", "d"),
        ["refunded", 0, 25, 20],
        After(20, 0, {2: 20},
              [refunded(25, {2: 15, 1: 10}), ("expire", "grant:1", 10, 0, 0, {1: 10})]),
        before=[do.open(), do.grant(1, 10, expires_at_ms=FAR_MS), do.grant(2, 20),
                do.debit("d", 25), do.expire_grant(1)], replays=True),
    Row("what comes back covers what others charged", do.refund("r", "d"),
        ["refunded", 0, 60, 30],
        After(30, 0, {1: 30}, [refunded(60, {1: 60}), ("cover", "", 0, 0, 0, {1: 30, 0: -30})]),
        before=[*DEBITED, do.hold("h", 0), do.settle("h", 70)], replays=True),
    Row("it goes back to an exhausted grant that is the head", do.refund("r", "d", 30),
        ["refunded", 0, 30, 30],
        After(30, 0, {1: 30}, [refunded(30, {1: 30})]), before=[*funded(), do.debit("d", 100)]),
    Row("it goes back to an exhausted grant before the head, which it displaces",
        do.refund("r", "d", 30), ["refunded", 0, 30, 70],
        After(70, 0, {1: 30, 2: 40}, [refunded(30, {1: 30})]),
        before=[*funded(), do.grant(2, 50), do.debit("d", 100), do.debit("e", 10)]),
    Row("it goes back to an exhausted grant after an exhausted head", do.refund("r", "d", 30),
        ["refunded", 0, 30, 30],
        After(30, 0, {1: 30, 2: 0}, [refunded(30, {1: 30})]),
        before=[*funded(), do.debit("d", 100), do.grant(2, 10, category="promo"),
                do.debit("e", 10)]),
    Row("a suspended account gets its refund", do.refund("r", "d"), ["refunded", 0, 60, 100],
        After(100, 0, {1: 100}, [refunded(60, {1: 60})]),
        before=[*DEBITED, do.status("suspended")]),
    Row("a closed account gets its refund", do.refund("r", "d"), ["refunded", 0, 60, 100],
        After(100, 0, {1: 100}, [refunded(60, {1: 60})]), before=[*DEBITED, do.status("closed")]),
]  # fmt: skip


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.name)
def test_refund(account: Account, row: Row) -> None:
    row.check(account)


def test_a_refund_writes_its_event_to_the_last_field(account: Account) -> None:
    account.open()
    account.grant(1, 100)
    account.hold("h", 60, context='{"model":"m"}')
    account.settle("h", 60)
    account.refund("r", "h", 20, detail='{"of":"h"}')
    event = account.events()[-1]
    assert event == (
        1, "acme", 1, 2, "refund", "r", event.at_ms, -20, 20, 4, [1, -20],
        '{"model":"m"}', '{"of":"h"}',
    )  # fmt: skip


def test_a_charge_remembers_what_was_refunded_of_it(account: Account) -> None:
    for step in THREE:
        step(account)
    account.refund("r", "d", 10)
    record = account.answers()["d"]
    assert (record[REFUNDED], record[CHARGES]) == (10, [1, 20, 2, 15])


def test_a_refund_of_yesterdays_charge_counts_for_the_refunds_of_today(account: Account) -> None:
    account.open()
    account.grant(1, 100)
    account.debit("d", 60)
    account.pass_midnight()
    assert account.refund("r", "d", 50) == ["refunded", 0, 50, 90]
    assert account.refund("s", "d", 11) == ["refund_exceeds", 10]
    account.pass_midnight()
    assert account.refund("s", "d", 11) == ["refund_exceeds", 10]
    check_consistent(account)


def test_credits_that_came_back_burn_again_in_order(account: Account) -> None:
    account.open()
    account.grant(1, 10)
    account.grant(2, 10)
    account.debit("d", 15)
    account.refund("r", "d")
    account.debit("e", 15)
    assert account.events()[-1].allocations == [1, 10, 2, 5]
    check_consistent(account)
