"""release, by its header:

1. What every script refuses first: an unknown account, another epoch, too much due to expire.
2. No hold of the id: not found; the id of a debit or refund: a conflict.
3. A release again gets the first answer again.
4. A hold that was settled or expired stays so (I3).
5. All that was not charged goes back to the grants, or the overdraft, that it came from; what came
   from a grant that has expired meanwhile expires too. No usage event is written.
6. What comes back covers the overdraft that others charged.
"""

from __future__ import annotations

import pytest

from sidecar.domain import MAX_AMOUNT
from tests.lua.support import Account
from tests.lua.table import After, Row, again_first, do, funded, refused_first

HELD = [*funded(), do.hold("h", 60)]
FAR_MS = 4_000_000_000_000

ROWS = [
    *refused_first(do.release("h")),
    again_first(do.release("h")),
    Row("no hold of the id is not found", do.release("h"), ["hold_not_found"], before=funded()),
    Row("a debit is a conflict", do.release("d"), ["conflict"],
        before=[*funded(), do.debit("d", 40)]),
    Row("a refund is a conflict", do.release("r"), ["conflict"],
        before=[*funded(), do.debit("d", 40), do.refund("r", "d")]),
    Row("everything is free again", do.release("h"), ["released", 0, 60, 100],
        After(100, 0, {1: 100}), before=HELD, replays=True),
    Row("a release again is a replay whatever has happened since", do.release("h"),
        ["released", 1, 60, 100],
        before=[*HELD, do.release("h"), do.debit("d", 60), do.status("closed")]),
    Row("a hold that was settled is refused", do.release("h"), ["hold_settled"],
        before=[*HELD, do.settle("h", 40)]),
    Row("a hold that expired is refused", do.release("h"), ["hold_expired"],
        before=[*HELD, do.pass_time(4_000_000), do.expire()]),
    Row("a hold that was settled late is refused as settled", do.release("h"), ["hold_settled"],
        before=[*HELD, do.pass_time(4_000_000), do.settle("h", 1)]),
    Row("a hold of nothing frees nothing", do.release("h"), ["released", 0, 0, 100],
        After(100, 0, {1: 100}), before=[*funded(), do.hold("h", 0)], replays=True),
    Row("1 is free again", do.release("h"), ["released", 0, 1, 1],
        After(1, 0, {1: 1}), before=[*funded(1), do.hold("h", 1)], replays=True),
    Row("2^53-1 is free again", do.release("h"), ["released", 0, MAX_AMOUNT, MAX_AMOUNT],
        After(MAX_AMOUNT, 0, {1: MAX_AMOUNT}),
        before=[*funded(MAX_AMOUNT), do.hold("h", MAX_AMOUNT)], replays=True),
    Row("what was charged stays charged", do.release("h"), ["released", 0, 20, 60],
        After(60, 0, {1: 60}), before=[*HELD, do.settle("h", 40, final=0)], replays=True),
    Row("charged above its amount, it frees nothing", do.release("h"), ["released", 0, 0, 20],
        After(20, 0, {1: 20}), before=[*HELD, do.settle("h", 80, final=0)], replays=True),
    Row("a suspended account's hold is released", do.release("h"), ["released", 0, 60, 100],
        After(100, 0, {1: 100}), before=[*HELD, do.status("suspended")]),
    Row("what came from several goes back to each", do.release("h"), ["released", 0, 170, 150],
        After(150, 0, {1: 100, 2: 50}),
        before=[*funded(overdraft=50), do.grant(2, 50, category="promo"), do.hold("h", 170)],
        replays=True),
    Row("another's hold stays held", do.release("h"), ["released", 0, 60, 80],
        After(80, 20, {1: 80}), before=[*HELD, do.hold("i", 20)]),
    Row("what comes back covers what others charged", do.release("h"), ["released", 0, 60, 30],
        After(30, 0, {1: 30}, [("cover", "", 0, 0, 0, {1: 30, 0: -30})]),
        before=[*HELD, do.hold("i", 0), do.settle("i", 70)], replays=True),
    Row("what comes back of the overdraft covers nothing", do.release("h"),
        ["released", 0, 10, -30],
        After(-30, 0, {1: 0}),
        before=[*funded(overdraft=50), do.hold("i", 130), do.settle("i", 130), do.hold("h", 10)],
        replays=True),
    Row("what came from an expired grant expires too", do.release("h"), ["released", 0, 10, 100],
        After(100, 0, {2: 100}, [("expire", "grant:1", 10, 0, 0, {1: 10})]),
        before=[do.open(), do.grant(1, 10, expires_at_ms=FAR_MS), do.hold("h", 10),
                do.grant(2, 100), do.expire_grant(1)], replays=True),
    Row("it goes back to a grant that was exhausted and is not the head", do.release("h"),
        ["released", 0, 100, 110],
        After(110, 0, {1: 100, 2: 10}), before=[*funded(), do.grant(2, 20), do.hold("h", 100),
                                                do.debit("d", 10)], replays=True),
    Row("it goes back to a grant behind the head", do.release("h"), ["released", 0, 20, 110],
        After(110, 0, {1: 100, 2: 10}),
        before=[*funded(), do.hold("h", 20), do.grant(2, 20, category="promo"), do.debit("d", 10)],
        replays=True),
]  # fmt: skip


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.name)
def test_release(account: Account, row: Row) -> None:
    row.check(account)


def test_a_released_hold_waits_for_nothing(account: Account) -> None:
    account.open()
    account.grant(1, 100)
    account.hold("h", 60)
    account.release("h")
    assert account.redis.zcard(account.keys[4]) == 0


def test_credits_that_came_back_burn_again_in_order(account: Account) -> None:
    account.open()
    account.grant(1, 10)
    account.grant(2, 10)
    account.hold("h", 15)
    account.debit("a", 2)
    account.release("h")
    account.debit("b", 12)
    assert [event.parts() for event in account.events()] == [{2: 2}, {1: 10, 2: 2}]
