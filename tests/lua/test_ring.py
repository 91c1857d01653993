"""The ring, which every script that changes what is available may write:

1. It rings when less than the mark is left, and once more when nothing is left.
2. It rings once, until what is available is at the mark or above it; without a mark, above nothing.
3. A refusal does not ring, nor what leaves as much available as before, nor what gives more.
4. A refill to an account with nothing does not ring: others may follow.
5. Another mark, or another generation, begins anew.
"""

from __future__ import annotations

from unittest.mock import ANY

import pytest

from sidecar.domain import MAX_AMOUNT
from tests.lua.support import HOUR_MS, Account
from tests.lua.table import After, Row, Step, do

FAR_MS = 4_000_000_000_000


def marked(mark: int = 50, amount: int = 100, overdraft: int = 0) -> list[Step]:
    """Return the steps to an account with a mark and one grant, that never expires."""
    return [do.open(mark=mark, overdraft=overdraft), do.grant(1, amount)]


LOW = [*marked(), do.debit("low", 60)]
EMPTY = [*marked(), do.debit("empty", 100)]

ROWS = [
    # Charges and holds.
    Row("a debit that leaves the mark does not ring", do.debit("d", 50), ["debited", 0, 50, 50],
        After(50, events=[("debit", "d", 50, 50, 4, {1: 50})], rings=0), before=marked()),
    Row("a debit that leaves less rings", do.debit("d", 51), ["debited", 0, 51, 49],
        After(49, events=[("debit", "d", 51, 51, 4, {1: 51})], rings=1), before=marked(),
        replays=True),
    Row("the next one does not", do.debit("d", 1), ["debited", 0, 1, 39],
        After(39, events=[("debit", "d", 1, 1, 4, {1: 1})], rings=0), before=LOW),
    Row("one that leaves nothing rings again", do.debit("d", 40), ["debited", 0, 40, 0],
        After(0, events=[("debit", "d", 40, 40, 4, {1: 40})], rings=1), before=LOW),
    Row("one that leaves 1 does not", do.debit("d", 39), ["debited", 0, 39, 1],
        After(1, events=[("debit", "d", 39, 39, 4, {1: 39})], rings=0), before=LOW),
    Row("from above the mark to nothing it rings once", do.debit("d", 100),
        ["debited", 0, 100, 0],
        After(0, events=[("debit", "d", 100, 100, 4, {1: 100})], rings=1), before=marked()),
    Row("below nothing it does not ring any more", do.debit("d", 5), ["debited", 0, 5, -5],
        After(-5, events=[("debit", "d", 5, 5, 4, {0: 5})], rings=0),
        before=[*marked(overdraft=9), do.debit("empty", 100)]),
    Row("a hold that leaves less rings", do.hold("h", 51, ttl_ms=0, partial=1),
        ["held", 0, 51, 49, ANY, 0, ""], After(49, 51, rings=1),
        before=marked()),
    Row("a partial hold that takes all rings", do.hold("h", 500, ttl_ms=0, partial=1),
        ["held", 0, 100, 0, ANY, 1, ""], After(0, 100, rings=1),
        before=marked()),
    Row("an extend that leaves less rings", do.extend("h", 51),
        ["held", 0, 51, 49, ANY, 0, ""], After(49, 51, rings=1),
        before=[*marked(), do.hold("h", 10)]),
    Row("a settle above its hold rings", do.settle("h", 60), ["settled", 0, 60, 0, 40, 0],
        After(40, events=[("settle", "h", 60, 60, 4, {1: 60})], rings=1),
        before=[*marked(), do.hold("h", 40)]),
    Row("a settle of what it held does not", do.settle("h", 60), ["settled", 0, 60, 0, 40, 0],
        After(40, events=[("settle", "h", 60, 60, 4, {1: 60})], rings=0),
        before=[*marked(), do.hold("h", 60)]),
    # Refusals.
    Row("what is refused does not ring", do.debit("d", 101), ["insufficient", 100, 0],
        before=marked()),
    Row("nor does it when it has run low", do.hold("h", 101), ["insufficient", 40, 0],
        before=LOW),
    Row("nor under another mark of which nothing was told yet", do.debit("d", 101),
        ["insufficient", 100, 0], before=[*marked(), do.status("active", mark=200)]),
    Row("a suspended account's call does not ring", do.debit("d", 60), ["suspended", ""],
        before=[*marked(), do.status("suspended", mark=50)]),
    # Up again.
    Row("a refund does not ring", do.refund("r", "low", 5), ["refunded", 0, 5, 45],
        After(45, events=[("refund", "r", -5, 5, 4, {1: -5})], rings=0), before=LOW),
    Row("a fall after a refund to below the mark does not ring", do.debit("d", 5),
        ["debited", 0, 5, 40],
        After(40, events=[("debit", "d", 5, 5, 4, {1: 5})], rings=0),
        before=[*LOW, do.refund("r", "low", 5)]),
    Row("a fall after a refund to the mark rings", do.debit("d", 1), ["debited", 0, 1, 49],
        After(49, events=[("debit", "d", 1, 1, 4, {1: 1})], rings=1),
        before=[*LOW, do.refund("r", "low", 10)]),
    Row("a fall after a release to the mark rings", do.debit("d", 1), ["debited", 0, 1, 49],
        After(49, events=[("debit", "d", 1, 1, 4, {1: 1})], rings=1),
        before=[do.open(mark=50), do.grant(1, 50), do.hold("h", 30), do.release("h")]),
    Row("from nothing to below the mark and back it does not ring", do.debit("d", 9),
        ["debited", 0, 9, 0], After(0, events=[("debit", "d", 9, 9, 4, {2: 9})], rings=0),
        before=[*EMPTY, do.grant(2, 9)]),
    Row("from nothing to the mark and back it rings", do.debit("d", 50), ["debited", 0, 50, 0],
        After(0, events=[("debit", "d", 50, 50, 4, {2: 50})], rings=1),
        before=[*EMPTY, do.grant(2, 50)]),
    Row("from nothing to the mark and below it rings", do.debit("d", 1), ["debited", 0, 1, 49],
        After(49, events=[("debit", "d", 1, 1, 4, {2: 1})], rings=1),
        before=[*EMPTY, do.grant(2, 50)]),
    # What ends by itself.
    Row("a grant that ends rings", do.balance(0),
        ["ok", "active", 10, 0, 0, 1, 1, 3, ANY, []],
        After(10, events=[("expire", "grant:2", 90, 0, 0, {2: 90})], rings=1),
        before=[*marked(amount=10), do.grant(2, 90, expires_at_ms=FAR_MS), do.due("g:2", 1)]),
    Row("a hold that ends does not", do.expire(), ["done", 0, 999_999_999_999_999],
        After(100, rings=0), before=[*marked(), do.hold("h", 60), do.pass_time(HOUR_MS)]),
    # Refills.
    Row("what is taken rings", do.take(60), ["applied"],
        After(40, events=[("take", "refill:3", 60, 0, 0, {1: 60})], rings=1), before=marked()),
    Row("what is taken to below nothing rings", do.take(160), ["applied"],
        After(-60, events=[("take", "refill:3", 160, 0, 0, {1: 100, 0: 60})], rings=1),
        before=marked()),
    Row("what is rolled rings", do.roll(40, [(1, FAR_MS)]), ["applied"],
        After(40, events=[("expire", "grant:1", 60, 0, 0, {1: 60})], rings=1), before=marked()),
    Row("what is taken of a new account does not ring", do.take(60), ["applied"],
        After(-60, events=[("take", "refill:2", 60, 0, 0, {0: 60})], rings=0),
        before=[do.open(mark=50)]),
    Row("a first grant below the mark does not ring", do.grant(1, 10), ["applied"],
        After(10, rings=0), before=[do.open(mark=50)]),
    Row("a first grant that leaves a debt does not ring", do.grant(1, 10), ["applied"],
        After(-50, events=[("cover", "", 0, 0, 0, {1: 10, 0: -10})], rings=0),
        before=[do.open(mark=50), do.take(60)]),
    Row("the first charge below the mark does", do.debit("d", 1), ["debited", 0, 1, 9],
        After(9, events=[("debit", "d", 1, 1, 4, {1: 1})], rings=1),
        before=[do.open(mark=50), do.grant(1, 10)]),
    Row("the first charge of an account with nothing does", do.debit("d", 1),
        ["debited", 0, 1, -1],
        After(-1, events=[("debit", "d", 1, 1, 4, {0: 1})], rings=1),
        before=[do.open(mark=50, overdraft=9)]),
    Row("a refill that was had does not ring", do.take(60, refill_no=3), ["replayed", 3],
        before=[*marked(), do.take(60)]),
    # Another mark.
    Row("a higher mark does not ring by itself", do.status("active", mark=200), ["applied"],
        After(100, rings=0), before=marked()),
    Row("with a higher mark the next charge rings", do.debit("d", 1), ["debited", 0, 1, 99],
        After(99, events=[("debit", "d", 1, 1, 4, {1: 1})], rings=1),
        before=[*marked(), do.status("active", mark=200)]),
    Row("with a lower mark a fall below it rings", do.debit("d", 31), ["debited", 0, 31, 9],
        After(9, events=[("debit", "d", 31, 31, 4, {1: 31})], rings=1),
        before=[*LOW, do.status("active", mark=10)]),
    Row("with the same mark it does not ring again", do.debit("d", 1), ["debited", 0, 1, 39],
        After(39, events=[("debit", "d", 1, 1, 4, {1: 1})], rings=0),
        before=[*LOW, do.status("grace", mark=50)]),
    # No mark.
    Row("without a mark 1 is enough", do.debit("d", 99), ["debited", 0, 99, 1],
        After(1, events=[("debit", "d", 99, 99, 4, {1: 99})], rings=0), before=marked(0)),
    Row("without a mark it rings when nothing is left", do.debit("d", 100),
        ["debited", 0, 100, 0],
        After(0, events=[("debit", "d", 100, 100, 4, {1: 100})], rings=1), before=marked(0)),
    Row("without a mark it rings again after it had 1", do.debit("d", 1), ["debited", 0, 1, 0],
        After(0, events=[("debit", "d", 1, 1, 4, {2: 1})], rings=1),
        before=[*marked(0), do.debit("empty", 100), do.grant(2, 1)]),
    # The bounds.
    Row("a mark of 1 is nothing", do.debit("d", 99), ["debited", 0, 99, 1],
        After(1, events=[("debit", "d", 99, 99, 4, {1: 99})], rings=0), before=marked(1)),
    Row("a mark of 2^53-1", do.debit("d", 1), ["debited", 0, 1, MAX_AMOUNT - 1],
        After(MAX_AMOUNT - 1, events=[("debit", "d", 1, 1, 4, {1: 1})], rings=1),
        before=marked(MAX_AMOUNT, MAX_AMOUNT)),
]  # fmt: skip


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.name)
def test_ring(account: Account, row: Row) -> None:
    row.check(account)


def test_each_row_has_its_name() -> None:
    assert len({row.name for row in ROWS}) == len(ROWS)


def test_a_ring_says_whose_it_is_and_comes_after_the_event(account: Account) -> None:
    account.open(mark=50)
    account.grant(1, 100)
    account.debit("d", 60)
    event, ring = (fields for _, fields in account.redis.xrange(account.keys[8]))
    assert list(event) == [b"e"]
    assert ring == {b"r": b"acme"}
    assert account.number("seq") == 1


def test_a_ring_is_no_business_of_the_journal(account: Account) -> None:
    account.open(mark=50)
    account.grant(1, 100)
    account.hold("h", 60)
    assert (account.rings(), account.trail) == (1, [0])


def test_a_new_generation_tells_again_that_it_has_run_low(account: Account) -> None:
    account.open(mark=50)
    account.grant(1, 100)
    account.debit("d", 60)
    again = Account(account.client, epoch=2, gen=2, is_alone=False)
    again.open(mark=50)
    again.grant(1, 30)
    again.grant(2, 10)
    assert again.rings() == 0
    again.debit("d", 1)
    assert again.rings() == 1


def test_an_account_from_before_there_were_marks_rings_when_nothing_is_left(
    account: Account,
) -> None:
    account.open()
    account.grant(1, 100)
    account.redis.hdel(account.keys[0], "mark", "rung")
    account.debit("d", 99)
    assert account.rings() == 0
    account.debit("e", 1)
    assert (account.rings(), account.number("rung")) == (1, 2)
