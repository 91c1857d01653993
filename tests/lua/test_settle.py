"""settle, by its header:

1. What every script refuses first: an unknown account, another epoch, too much due to expire.
2. No hold of the id: not found; the id of a debit or refund: a conflict.
3. The hold's latest settle again gets its answer again, final or not, also after the end.
4. A hold that was settled or released stays so (I3).
5. Another price book than the hold's: reprice; the caller prices again with that one.
6. A total below what was charged is refused, and one that leaves exact numbers too.
7. The total is charged whatever it is (I2), bounds 0, 1 and 2^53-1: from what was held, then in
   burn order, then from the overdraft, with no limit. The rest goes back where it came from.
8. Not final, the rest stays held, and the next total charges the difference.
9. After expiry it is charged all the same, marked late, and final whatever it says.
10. What a hold took from the overdraft is charged to grants that came meanwhile.
11. Each settle is one event, also one that moves nothing.
12. A hold of a lost generation, whose record comes along, is charged late, and lives on for as
    long as it would have; if Redis knows the hold, what comes along does not count.
13. What was accepted while Redis was away says so in its event.
"""

from __future__ import annotations

import msgspec
import pytest

from sidecar.domain import MAX_AMOUNT
from tests.lua.consistent import check_consistent
from tests.lua.support import Account
from tests.lua.table import After, Row, again_first, do, funded, refused_first

HELD = [*funded(), do.hold("h", 60)]
EXPIRED = [*funded(), do.hold("h", 60, ttl_ms=1_000), do.pass_time(2_000), do.expire()]
TWO = [do.open(), do.grant(1, 50), do.grant(2, 50), do.hold("h", 80)]
PRICED = [*funded(), do.hold("h", 60, price_version="v1")]
FAR_MS = 4_000_000_000_000


def lost_record(
    charged: int = 0, charges: tuple[int, ...] = (), expires_at_ms: int = FAR_MS
) -> bytes:
    """Return the record of a hold of 60 whose generation was lost."""
    answer = [60, 40, expires_at_ms, 0]
    return bytes(
        msgspec.msgpack.encode(
            ["hold", "lost", "hold 60", answer, charged, 0, list(charges), "", 60, [],
             expires_at_ms, "v1", "", [], 1]
        )
    )  # fmt: skip


ROWS = [
    *refused_first(do.settle("h", 40)),
    Row("a lost hold is charged late", do.settle("h", 40, lost=lost_record()),
        ["settled", 0, 40, 0, 60, 1],
        After(60, 0, {1: 60}, [("settle", "h", 40, 40, 5, {1: 40})]), before=funded(),
        replays=True),
    Row("a lost hold is charged below zero", do.settle("h", 140, lost=lost_record()),
        ["settled", 0, 140, 0, -40, 1],
        After(-40, 0, {1: 0}, [("settle", "h", 140, 140, 5, {1: 100, 0: 40})]), before=funded(),
        replays=True),
    Row("a lost hold is charged what its total lacks",
        do.settle("h", 40, lost=lost_record(30, (1, 30))), ["settled", 0, 40, 0, 90, 1],
        After(90, 0, {1: 90}, [("settle", "h", 10, 40, 5, {1: 10})]), before=funded(),
        replays=True),
    Row("a total below what a lost hold was charged is refused",
        do.settle("h", 29, lost=lost_record(30, (1, 30))), ["lowered", 30], before=funded()),
    Row("a lost hold is told its own price book", do.settle("h", 40, price_version="v2",
        lost=lost_record()), ["reprice", "v1"], before=funded()),
    Row("a lost hold lives on, with nothing held", do.settle("h", 40, final=0, lost=lost_record()),
        ["held", 0, 40, 0, 60, 1],
        After(60, 0, {1: 60}, [("settle", "h", 40, 40, 1, {1: 40})]), before=funded(),
        replays=True),
    Row("a lost hold that has expired ends", do.settle("h", 40, final=0,
        lost=lost_record(expires_at_ms=1)), ["settled", 0, 40, 0, 60, 1],
        After(60, 0, {1: 60}, [("settle", "h", 40, 40, 5, {1: 40})]), before=funded()),
    Row("what comes along does not count when the hold is there",
        do.settle("h", 40, lost=lost_record(30, (1, 30))), ["settled", 0, 40, 20, 60, 0],
        After(60, 0, {1: 60}, [("settle", "h", 40, 40, 4, {1: 40})]), before=HELD),
    Row("what comes along does not count when the hold has ended",
        do.settle("h", 40, lost=lost_record()), ["hold_released"],
        before=[*HELD, do.release("h")]),
    Row("what was accepted while Redis was away says so", do.settle("h", 40, is_degraded=True),
        ["settled", 0, 40, 20, 60, 0],
        After(60, 0, {1: 60}, [("settle", "h", 40, 40, 6, {1: 40})]), before=HELD),
    Row("a lost hold that was settled while Redis was away says both",
        do.settle("h", 40, lost=lost_record(), is_degraded=True), ["settled", 0, 40, 0, 60, 1],
        After(60, 0, {1: 60}, [("settle", "h", 40, 40, 7, {1: 40})]), before=funded()),
    again_first(do.settle("h", 40)),
    Row("no hold of the id is not found", do.settle("h", 40), ["hold_not_found"], before=funded()),
    Row("a debit is a conflict", do.settle("d", 40), ["conflict"],
        before=[*funded(), do.debit("d", 40)]),
    Row("a refund is a conflict", do.settle("r", 40), ["conflict"],
        before=[*funded(), do.debit("d", 40), do.refund("r", "d")]),
    Row("less than was held frees the rest", do.settle("h", 40), ["settled", 0, 40, 20, 60, 0],
        After(60, 0, {1: 60}, [("settle", "h", 40, 40, 4, {1: 40})]), before=HELD, replays=True),
    Row("all that was held frees nothing", do.settle("h", 60), ["settled", 0, 60, 0, 40, 0],
        After(40, 0, {1: 40}, [("settle", "h", 60, 60, 4, {1: 60})]), before=HELD, replays=True),
    Row("0 frees everything and leaves its event", do.settle("h", 0),
        ["settled", 0, 0, 60, 100, 0],
        After(100, 0, {1: 100}, [("settle", "h", 0, 0, 4, {})]), before=HELD, replays=True),
    Row("1 is charged", do.settle("h", 1), ["settled", 0, 1, 59, 99, 0],
        After(99, 0, {1: 99}, [("settle", "h", 1, 1, 4, {1: 1})]), before=HELD, replays=True),
    Row("the latest settle again is a replay whatever has happened since", do.settle("h", 40),
        ["settled", 1, 40, 20, 60, 0],
        before=[*HELD, do.settle("h", 40), do.debit("d", 60), do.status("closed")]),
    Row("another settle after the final one is refused", do.settle("h", 41), ["hold_settled"],
        before=[*HELD, do.settle("h", 40)]),
    Row("an earlier settle after the final one is refused", do.settle("h", 30, final=0),
        ["hold_settled"], before=[*HELD, do.settle("h", 30, final=0), do.settle("h", 40)]),
    Row("a hold that was released is refused", do.settle("h", 40), ["hold_released"],
        before=[*HELD, do.release("h")]),
    Row("released after a partial settle, even that settle is refused",
        do.settle("h", 40, final=0), ["hold_released"],
        before=[*HELD, do.settle("h", 40, final=0), do.release("h")]),
    Row("another price book is told the hold's", do.settle("h", 40, price_version="v2"),
        ["reprice", "v1"], before=PRICED),
    Row("the hold's own price book charges", do.settle("h", 40, price_version="v1"),
        ["settled", 0, 40, 20, 60, 0],
        After(60, 0, {1: 60}, [("settle", "h", 40, 40, 4, {1: 40})]), before=PRICED),
    Row("an amount settles a priced hold", do.settle("h", 40), ["settled", 0, 40, 20, 60, 0],
        After(60, 0, {1: 60}, [("settle", "h", 40, 40, 4, {1: 40})]), before=PRICED),
    Row("a price settles a hold of an amount", do.settle("h", 40, price_version="v2"),
        ["settled", 0, 40, 20, 60, 0],
        After(60, 0, {1: 60}, [("settle", "h", 40, 40, 4, {1: 40})]), before=HELD),
    Row("reprice comes before lowered", do.settle("h", 39, price_version="v2"),
        ["reprice", "v1"], before=[*PRICED, do.settle("h", 40, final=0)]),
    Row("a total below what was charged is refused", do.settle("h", 39), ["lowered", 40],
        before=[*HELD, do.settle("h", 40, final=0)]),
    Row("a total below is refused although it is late", do.settle("h", 39), ["lowered", 40],
        before=[*HELD, do.settle("h", 40, final=0), do.pass_time(4_000_000), do.expire()]),
    Row("the same total may end the hold", do.settle("h", 40), ["settled", 0, 40, 20, 60, 0],
        After(60, 0, {1: 60}, [("settle", "h", 0, 40, 4, {})]),
        before=[*HELD, do.settle("h", 40, final=0)], replays=True),
    Row("one more than exact numbers allow is out of range", do.settle("h", MAX_AMOUNT),
        ["out_of_range"], before=[do.open(overdraft=1), do.hold("h", 0), do.hold("i", 1)]),
    Row("2^53-1 is charged", do.settle("h", MAX_AMOUNT),
        ["settled", 0, MAX_AMOUNT, 0, 0, 0],
        After(0, 0, {1: 0}, [("settle", "h", MAX_AMOUNT, MAX_AMOUNT, 4, {1: MAX_AMOUNT})]),
        before=[*funded(MAX_AMOUNT), do.hold("h", MAX_AMOUNT)], replays=True),
    Row("2^53-1 is charged to nothing at all", do.settle("h", MAX_AMOUNT),
        ["settled", 0, MAX_AMOUNT, 0, -MAX_AMOUNT, 0],
        After(-MAX_AMOUNT, 0, {}, [("settle", "h", MAX_AMOUNT, MAX_AMOUNT, 4, {0: MAX_AMOUNT})]),
        before=[do.open(), do.hold("h", 0)], replays=True),
    Row("above the hold the rest comes from what is available", do.settle("h", 75),
        ["settled", 0, 75, 0, 25, 0],
        After(25, 0, {1: 25}, [("settle", "h", 75, 75, 4, {1: 75})]), before=HELD, replays=True),
    Row("above all that there is it goes below zero, overdraft or not", do.settle("h", 130),
        ["settled", 0, 130, 0, -30, 0],
        After(-30, 0, {1: 0}, [("settle", "h", 130, 130, 4, {1: 100, 0: 30})]),
        before=HELD, replays=True),
    Row("above the overdraft it goes below that", do.settle("h", 130),
        ["settled", 0, 130, 0, -30, 0],
        After(-30, 0, {1: 0}, [("settle", "h", 130, 130, 4, {1: 100, 0: 30})]),
        before=[*funded(overdraft=20), do.hold("h", 110)], replays=True),
    Row("a settle may leave another hold's overdraft held", do.settle("h", 110),
        ["settled", 0, 110, 0, -15, 0],
        After(-15, 5, {1: 0}, [("settle", "h", 110, 110, 4, {1: 100, 0: 10})]),
        before=[*funded(overdraft=20), do.hold("h", 110), do.hold("i", 5)], replays=True),
    Row("what was held first is charged first, and the rest goes back to the last",
        do.settle("h", 60), ["settled", 0, 60, 20, 40, 0],
        After(40, 0, {1: 0, 2: 40}, [("settle", "h", 60, 60, 4, {1: 50, 2: 10})]), before=TWO,
        replays=True),
    Row("less than the first grant's part leaves the second whole", do.settle("h", 30),
        ["settled", 0, 30, 50, 70, 0],
        After(70, 0, {1: 20, 2: 50}, [("settle", "h", 30, 30, 4, {1: 30})]), before=TWO,
        replays=True),
    Row("a suspended account's hold is settled", do.settle("h", 40), ["settled", 0, 40, 20, 60, 0],
        After(60, 0, {1: 60}, [("settle", "h", 40, 40, 4, {1: 40})]),
        before=[*HELD, do.status("suspended")]),
    Row("not final, the rest stays held", do.settle("h", 40, final=0), ["held", 0, 40, 0, 40, 0],
        After(40, 20, {1: 40}, [("settle", "h", 40, 40, 0, {1: 40})]), before=HELD, replays=True),
    Row("not final, all that was held may be charged", do.settle("h", 60, final=0),
        ["held", 0, 60, 0, 40, 0],
        After(40, 0, {1: 40}, [("settle", "h", 60, 60, 0, {1: 60})]), before=HELD, replays=True),
    Row("not final, a grant of which nothing is held any more is no part of the hold",
        do.settle("h", 50, final=0), ["held", 0, 50, 0, 20, 0],
        After(20, 30, {1: 0, 2: 20}, [("settle", "h", 50, 50, 0, {1: 50})]), before=TWO,
        replays=True),
    Row("not final, 0 moves nothing and leaves its event", do.settle("h", 0, final=0),
        ["held", 0, 0, 0, 40, 0],
        After(40, 60, {1: 40}, [("settle", "h", 0, 0, 0, {})]), before=HELD, replays=True),
    Row("the next total charges the difference", do.settle("h", 45, final=0),
        ["held", 0, 45, 0, 40, 0],
        After(40, 15, {1: 40}, [("settle", "h", 5, 45, 0, {1: 5})]),
        before=[*HELD, do.settle("h", 40, final=0)], replays=True),
    Row("not final above the hold, it charges what is available", do.settle("h", 75, final=0),
        ["held", 0, 75, 0, 25, 0],
        After(25, 0, {1: 25}, [("settle", "h", 35, 75, 0, {1: 35})]),
        before=[*HELD, do.settle("h", 40, final=0)], replays=True),
    Row("a stream that ends frees what is left", do.settle("h", 50),
        ["settled", 0, 50, 10, 50, 0],
        After(50, 0, {1: 50}, [("settle", "h", 5, 50, 4, {1: 5})]),
        before=[*HELD, do.settle("h", 40, final=0), do.settle("h", 45, final=0)], replays=True),
    Row("a step that is not the latest is not a replay", do.settle("h", 40, final=0),
        ["lowered", 45],
        before=[*HELD, do.settle("h", 40, final=0), do.settle("h", 45, final=0)]),
    Row("after expiry it is charged and late", do.settle("h", 40), ["settled", 0, 40, 0, 60, 1],
        After(60, 0, {1: 60}, [("settle", "h", 40, 40, 5, {1: 40})]), before=EXPIRED,
        replays=True),
    Row("after expiry it is final whatever it says", do.settle("h", 40, final=0),
        ["settled", 0, 40, 0, 60, 1],
        After(60, 0, {1: 60}, [("settle", "h", 40, 40, 5, {1: 40})]), before=EXPIRED,
        replays=True),
    Row("a hold that is due is ended before it is settled", do.settle("h", 40),
        ["settled", 0, 40, 0, 60, 1],
        After(60, 0, {1: 60}, [("settle", "h", 40, 40, 5, {1: 40})]), before=EXPIRED[:-1],
        replays=True),
    Row("a late settle may go below zero", do.settle("h", 110), ["settled", 0, 110, 0, -10, 1],
        After(-10, 0, {1: 0}, [("settle", "h", 110, 110, 5, {1: 100, 0: 10})]), before=EXPIRED),
    Row("a late settle charges only what was not charged before", do.settle("h", 50),
        ["settled", 0, 50, 0, 50, 1],
        After(50, 0, {1: 50}, [("settle", "h", 10, 50, 5, {1: 10})]),
        before=[*HELD, do.settle("h", 40, final=0), do.pass_time(4_000_000)]),
    Row("the latest settle of a stream is a replay after expiry too", do.settle("h", 40, final=0),
        ["held", 1, 40, 0, 40, 0],
        before=[*HELD, do.settle("h", 40, final=0), do.pass_time(4_000_000), do.expire()]),
    Row("a second late settle is refused", do.settle("h", 50), ["hold_settled"],
        before=[*EXPIRED, do.settle("h", 40)]),
    Row("what was held of the overdraft is charged to a grant that came", do.settle("h", 120),
        ["settled", 0, 120, 0, 30, 0],
        After(30, 0, {1: 0, 2: 30}, [("settle", "h", 120, 120, 4, {1: 100, 2: 20})]),
        before=[*funded(overdraft=50), do.hold("h", 120), do.grant(2, 50)], replays=True),
    Row("the rest of the overdraft that was held is free again", do.settle("h", 110),
        ["settled", 0, 110, 10, -10, 0],
        After(-10, 0, {1: 0}, [("settle", "h", 110, 110, 4, {1: 100, 0: 10})]),
        before=[*funded(overdraft=50), do.hold("h", 120)], replays=True),
    Row("a stream through the overdraft keeps the rest of it held", do.settle("h", 110, final=0),
        ["held", 0, 110, 0, -20, 0],
        After(-20, 10, {1: 0}, [("settle", "h", 110, 110, 0, {1: 100, 0: 10})]),
        before=[*funded(overdraft=50), do.hold("h", 120)], replays=True),
    Row("what a settle frees covers the overdraft that others charged", do.settle("h", 20),
        ["settled", 0, 20, 40, 10, 0],
        After(10, 0, {1: 10}, [("settle", "h", 20, 20, 4, {1: 20}),
                               ("cover", "", 0, 0, 0, {1: 30, 0: -30})]),
        before=[*HELD, do.hold("i", 0), do.settle("i", 70)]),
    Row("what was held of an expired grant is charged to it, the rest has expired",
        do.settle("h", 4), ["settled", 0, 4, 6, 0, 0],
        After(0, 0, {}, [("settle", "h", 4, 4, 4, {1: 4}), ("expire", "grant:1", 6, 0, 0, {1: 6})]),
        before=[do.open(), do.grant(1, 10, expires_at_ms=FAR_MS), do.hold("h", 10),
                do.pass_time(1_000), do.expire_grant(1)]),
    Row("the rest goes back to a grant that was displaced as head", do.settle("h", 10),
        ["settled", 0, 10, 50, 190, 0],
        After(190, 0, {1: 90, 2: 100}, [("settle", "h", 10, 10, 4, {1: 10})]),
        before=[*HELD, do.grant(2, 100, category="promo")]),
]  # fmt: skip


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.name)
def test_settle(account: Account, row: Row) -> None:
    row.check(account)


def test_a_settle_writes_its_event_to_the_last_field(account: Account) -> None:
    account.open(overdraft=5)
    account.grant(1, 100)
    account.hold("h", 60, context='{"scopes":{"user":"u"}}', price_version="v1")
    before_ms = account.now_ms()
    account.settle("h", 103, price_version="v1", detail='{"usage":{"seconds":3}}')
    (event,) = account.events()
    assert before_ms <= event.at_ms <= account.now_ms()
    assert event == (
        1, "acme", 1, 1, "settle", "h", event.at_ms, 103, 103, 4, [1, 100, 0, 3],
        '{"scopes":{"user":"u"}}', '{"usage":{"seconds":3}}',
    )  # fmt: skip


def test_a_settle_that_empties_more_than_1000_grants_is_covered_at_once(account: Account) -> None:
    account.open()
    for grant_no in range(1, 1037):
        account.grant(grant_no, 1)
    account.hold("h", 0)
    assert account.settle("h", 1036) == ["settled", 0, 1036, 0, 0, 0]
    check_consistent(account)
    settled, cover = account.events()
    assert settled.allocations == [n for no in range(1, 1001) for n in (no, 1)] + [0, 36]
    assert cover.allocations == [n for no in range(1001, 1037) for n in (no, 1)] + [0, -36]


def test_a_settled_hold_waits_for_nothing(account: Account) -> None:
    account.open()
    account.grant(1, 100)
    account.hold("h", 60)
    account.settle("h", 40)
    assert account.redis.zcard(account.keys[4]) == 0
    account.pass_time(4_000_000)
    assert account.expire() == ["done", 0, 999_999_999_999_999]
    check_consistent(account)


def test_a_lost_hold_that_lives_on_is_settled_and_expires_like_any_other(account: Account) -> None:
    account.open()
    account.grant(1, 100)
    account.settle("h", 40, final=0, lost=lost_record())
    assert account.settle("h", 50, final=0) == ["held", 0, 50, 0, 50, 0]
    account.pass_time(FAR_MS)
    assert account.expire() == ["done", 0, 999_999_999_999_999]
    assert account.settle("h", 70, final=0) == ["settled", 0, 70, 0, 30, 1]
    check_consistent(account)


def test_what_a_lost_hold_was_charged_before_can_be_refunded(account: Account) -> None:
    account.open()
    account.grant(1, 100)
    account.settle("h", 40, lost=lost_record(30, (1, 30)))
    assert account.refund("r", "h") == ["refunded", 0, 40, 130]
    assert account.events()[-1].parts() == {1: -40}
