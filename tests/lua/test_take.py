"""take, by its header:

1. What every refill refuses first: unknown, fenced, stale, replayed, gap.
2. Less than -(2^53-1) available is refused.
3. The amount goes, from the grant that is named, then in burn order, then below zero; bounds 1 and
   2^53-1. One event says of which grants.
"""

from __future__ import annotations

import pytest

from sidecar.domain import MAX_AMOUNT
from tests.lua.support import HOUR_MS, Account
from tests.lua.table import After, Charge, Row, do, funded, refill_first

FAR_MS = 4_000_000_000_000
TWO = [*funded(), do.grant(2, 50)]


def taken(refill_no: int, amount: int, parts: dict[int, int]) -> list[Charge]:
    return [("take", f"refill:{refill_no}", amount, 0, 0, parts)]


ROWS = [
    *refill_first("take", 10),
    Row("less than -(2^53-1) is out of range", do.take(1), ["out_of_range"],
        before=[do.open(), do.take(MAX_AMOUNT)]),
    Row("credits go in burn order", do.take(110), ["applied"],
        After(40, 0, {1: 0, 2: 40}, taken(4, 110, {1: 100, 2: 10})), before=TWO),
    Row("1 goes", do.take(1), ["applied"], After(99, 0, {1: 99}, taken(3, 1, {1: 1})),
        before=funded()),
    Row("2^53-1 goes", do.take(MAX_AMOUNT), ["applied"],
        After(0, 0, {1: 0}, taken(3, MAX_AMOUNT, {1: MAX_AMOUNT})), before=funded(MAX_AMOUNT)),
    Row("2^53-1 goes where nothing is", do.take(MAX_AMOUNT), ["applied"],
        After(-MAX_AMOUNT, 0, {}, taken(2, MAX_AMOUNT, {0: MAX_AMOUNT})), before=[do.open()]),
    Row("it goes below zero without any overdraft", do.take(130), ["applied"],
        After(-30, 0, {1: 0}, taken(3, 130, {1: 100, 0: 30})), before=funded()),
    Row("what is held stays held", do.take(100), ["applied"],
        After(-60, 60, {1: 0}, taken(3, 100, {1: 40, 0: 60})),
        before=[*funded(), do.hold("h", 60)]),
    Row("the grant that is named gives first", do.take(30, 2), ["applied"],
        After(120, 0, {1: 100, 2: 20}, taken(4, 30, {2: 30})), before=TWO),
    Row("all of the grant that is named", do.take(50, 2), ["applied"],
        After(100, 0, {1: 100, 2: 0}, taken(4, 50, {2: 50})), before=TWO),
    Row("then the burn order", do.take(60, 2), ["applied"],
        After(90, 0, {1: 90, 2: 0}, taken(4, 60, {2: 50, 1: 10})), before=TWO),
    Row("then below zero", do.take(160, 2), ["applied"],
        After(-10, 0, {1: 0, 2: 0}, taken(4, 160, {2: 50, 1: 100, 0: 10})), before=TWO),
    Row("the grant that is named may be the head", do.take(30, 1), ["applied"],
        After(120, 0, {1: 70, 2: 50}, taken(4, 30, {1: 30})), before=TWO),
    Row("the head and more", do.take(120, 1), ["applied"],
        After(30, 0, {1: 0, 2: 30}, taken(4, 120, {1: 100, 2: 20})), before=TWO),
    Row("a grant that is used up gives nothing", do.take(10, 2), ["applied"],
        After(90, 50, {1: 90, 2: 0}, taken(4, 10, {1: 10})),
        before=[*funded(), do.grant(2, 50, category="promo"), do.hold("h", 50)]),
    Row("a grant that is used up and not the head gives nothing", do.take(10, 2), ["applied"],
        After(89, 51, {1: 89, 2: 0}, taken(4, 10, {1: 10})),
        before=[*funded(), do.grant(2, 50, category="promo"), do.hold("h", 51)]),
    Row("a grant that Redis does not know gives nothing", do.take(10, 9), ["applied"],
        After(90, 0, {1: 90}, taken(3, 10, {1: 10})), before=funded()),
    Row("a grant that expired gives nothing", do.take(10, 2), ["applied"],
        After(90, 0, {1: 90}, taken(4, 10, {1: 10})),
        before=[*funded(), do.grant(2, 50, expires_at_ms=FAR_MS), do.expire_grant(2)]),
    Row("a grant that is due has ended before", do.take(10, 2), ["applied"],
        After(90, 0, {1: 90}, [("expire", "grant:2", 50, 0, 0, {2: 50}),
                               *taken(4, 10, {1: 10})]),
        before=[*funded(), do.grant(2, 50, expires_at_ms=FAR_MS), do.due("g:2", 1)]),
    Row("a hold that is due has given back before", do.take(100), ["applied"],
        After(0, 0, {1: 0}, taken(3, 100, {1: 100})),
        before=[*funded(), do.hold("h", 60), do.pass_time(HOUR_MS)]),
    Row("a suspended account's credits go too", do.take(10), ["applied"],
        After(90, 0, {1: 90}, taken(4, 10, {1: 10})), before=[*funded(), do.status("suspended")]),
]  # fmt: skip


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.name)
def test_take(account: Account, row: Row) -> None:
    row.check(account)


def test_what_was_taken_below_zero_is_covered_by_the_next_grant(account: Account) -> None:
    account.open()
    account.take(30)
    account.grant(1, 100)
    assert account.left() == {1: 70}
    assert account.events()[-1].parts() == {1: 30, 0: -30}
