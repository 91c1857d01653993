"""debit, by its header:

1. What every script refuses first: an unknown account, another epoch, too much due to expire.
2. The same debit again gets the first answer again; another request under its id is a conflict,
   and so is the id of a hold or refund. This comes before all that the account may refuse.
3. A suspended or closed account may not debit, and says why; one in grace may.
4. Never more than available + overdraft (I2), at the bounds 0, 1 and 2^53-1.
5. It charges in burn order, then the overdraft, and is one event.
6. What was granted while Redis was away is charged whatever the account may do now, as far as
   numbers are exact, and its event says so. The same debit again is a replay as ever.
"""

from __future__ import annotations

import pytest

from sidecar.domain import MAX_AMOUNT
from tests.lua.consistent import check_consistent
from tests.lua.support import Account
from tests.lua.table import After, Row, again_first, do, funded, refused_first


def debited(
    amount: int, parts: dict[int, int]
) -> list[tuple[str, str, int, int, int, dict[int, int]]]:
    return [("debit", "d", amount, amount, 4, parts)]


ROWS = [
    *refused_first(do.debit("d", 60)),
    again_first(do.debit("d", 60)),
    Row("credits are charged", do.debit("d", 60), ["debited", 0, 60, 40],
        After(40, 0, {1: 40}, debited(60, {1: 60})), before=funded(), replays=True),
    Row("a replay has the first figures", do.debit("d", 60), ["debited", 1, 60, 40],
        before=[*funded(), do.debit("d", 60), do.debit("e", 1), do.grant(2, 9)]),
    Row("a debit that was refunded is still answered as the first time", do.debit("d", 60),
        ["debited", 1, 60, 40], before=[*funded(), do.debit("d", 60), do.refund("r", "d", 5)]),
    Row("another amount under the id is a conflict", do.debit("d", 61), ["conflict"],
        before=[*funded(), do.debit("d", 60)]),
    Row("the id of a hold is a conflict", do.debit("h", 60, fingerprint="same"), ["conflict"],
        before=[*funded(), do.hold("h", 60, fingerprint="same")]),
    Row("the id of a hold that has ended is a conflict", do.debit("h", 60, fingerprint="same"),
        ["conflict"], before=[*funded(), do.hold("h", 60, fingerprint="same"), do.release("h")]),
    Row("the id of a refund is a conflict", do.debit("r", 60, fingerprint="same"), ["conflict"],
        before=[*funded(), do.debit("d", 60), do.refund("r", "d", fingerprint="same")]),
    Row("a replay comes before suspended", do.debit("d", 60), ["debited", 1, 60, 40],
        before=[*funded(), do.debit("d", 60), do.status("suspended")]),
    Row("a suspended account may not debit", do.debit("d", 1), ["suspended", "late"],
        before=[*funded(), do.status("suspended", 0, "late")]),
    Row("suspended comes before insufficient", do.debit("d", 101), ["suspended", ""],
        before=[*funded(), do.status("suspended")]),
    Row("a closed account may not debit", do.debit("d", 1), ["closed", "left"],
        before=[*funded(), do.status("closed", 0, "left")]),
    Row("an account in grace may debit", do.debit("d", 1), ["debited", 0, 1, 99],
        After(99, 0, {1: 99}, debited(1, {1: 1})), before=[*funded(), do.status("grace")]),
    Row("one more than there is is insufficient", do.debit("d", 101), ["insufficient", 100, 0],
        before=funded()),
    Row("what is held is not available", do.debit("d", 41), ["insufficient", 40, 0],
        before=[*funded(), do.hold("h", 60)]),
    Row("one more than with the overdraft is insufficient", do.debit("d", 151),
        ["insufficient", 100, 50], before=funded(overdraft=50)),
    Row("2^53-1 is insufficient by one", do.debit("d", MAX_AMOUNT),
        ["insufficient", MAX_AMOUNT - 1, 0], before=funded(MAX_AMOUNT - 1)),
    Row("2^53-1 is insufficient by one with the overdraft", do.debit("d", MAX_AMOUNT),
        ["insufficient", 1, MAX_AMOUNT - 2], before=funded(1, overdraft=MAX_AMOUNT - 2)),
    Row("below zero even nothing is insufficient", do.debit("d", 0), ["insufficient", -1, 0],
        before=[*funded(), do.hold("a", 100), do.settle("a", 101)]),
    Row("all that there is can be charged", do.debit("d", 100), ["debited", 0, 100, 0],
        After(0, 0, {1: 0}, debited(100, {1: 100})), before=funded(), replays=True),
    Row("nothing can be charged, and leaves its event", do.debit("d", 0), ["debited", 0, 0, 0],
        After(0, 0, {}, debited(0, {})), before=[do.open()], replays=True),
    Row("1 can be charged", do.debit("d", 1), ["debited", 0, 1, 0],
        After(0, 0, {1: 0}, debited(1, {1: 1})), before=funded(1), replays=True),
    Row("2^53-1 can be charged", do.debit("d", MAX_AMOUNT), ["debited", 0, MAX_AMOUNT, 0],
        After(0, 0, {1: 0}, debited(MAX_AMOUNT, {1: MAX_AMOUNT})), before=funded(MAX_AMOUNT),
        replays=True),
    Row("an overdraft of 2^53-1 can be charged", do.debit("d", MAX_AMOUNT),
        ["debited", 0, MAX_AMOUNT, -MAX_AMOUNT],
        After(-MAX_AMOUNT, 0, {}, debited(MAX_AMOUNT, {0: MAX_AMOUNT})),
        before=[do.open(overdraft=MAX_AMOUNT)], replays=True),
    Row("what grants lack comes from the overdraft", do.debit("d", 150), ["debited", 0, 150, -50],
        After(-50, 0, {1: 0}, debited(150, {1: 100, 0: 50})), before=funded(overdraft=50),
        replays=True),
    Row("it takes from the grants in burn order", do.debit("d", 125), ["debited", 0, 125, 25],
        After(25, 0, {1: 25, 2: 0, 3: 0}, debited(125, {3: 20, 2: 30, 1: 75})),
        before=[*funded(), do.grant(2, 30, category="allowance"), do.grant(3, 20, priority=0)],
        replays=True),
    Row("it stays within 1,000 grants and leaves the rest to the next cover", do.debit("d", 1002),
        ["debited", 0, 1002, 0],
        After(0, 0, {no: int(no > 1000) for no in range(1, 1003)},
              debited(1002, {no: 1 for no in range(1, 1001)} | {0: 2})),
        before=[do.open(), *(do.grant(no, 1) for no in range(1, 1003))], is_covered=False),
    Row("a degraded debit is charged below zero", do.debit("d", 150, is_degraded=True),
        ["debited", 0, 150, -50],
        After(-50, 0, {1: 0}, [("debit", "d", 150, 150, 6, {1: 100, 0: 50})]), before=funded(),
        replays=True),
    Row("a degraded debit is charged although the account is closed",
        do.debit("d", 1, is_degraded=True), ["debited", 0, 1, 99],
        After(99, 0, {1: 99}, [("debit", "d", 1, 1, 6, {1: 1})]),
        before=[*funded(), do.status("closed")]),
    Row("a degraded debit that was made before is a replay", do.debit("d", 60, is_degraded=True),
        ["debited", 1, 60, 40], before=[*funded(), do.debit("d", 60)]),
    Row("a degraded debit of 2^53-1 is charged", do.debit("d", MAX_AMOUNT, is_degraded=True),
        ["debited", 0, MAX_AMOUNT, -MAX_AMOUNT],
        After(-MAX_AMOUNT, 0, {}, [("debit", "d", MAX_AMOUNT, MAX_AMOUNT, 6, {0: MAX_AMOUNT})]),
        before=[do.open()], replays=True),
    Row("a degraded debit beyond exact numbers is out of range",
        do.debit("d", MAX_AMOUNT, is_degraded=True), ["out_of_range"],
        before=[do.open(), do.debit("e", 1, is_degraded=True)]),
    Row("it empties exactly 1,000 grants", do.debit("d", 1000), ["debited", 0, 1000, 2],
        After(2, 0, {no: int(no > 1000) for no in range(1, 1003)},
              debited(1000, {no: 1 for no in range(1, 1001)})),
        before=[do.open(), *(do.grant(no, 1) for no in range(1, 1003))]),
]  # fmt: skip


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.name)
def test_debit(account: Account, row: Row) -> None:
    row.check(account)


def test_a_debit_writes_its_event_to_the_last_field(account: Account) -> None:
    account.open(overdraft=5)
    account.grant(1, 100)
    before_ms = account.now_ms()
    account.debit("d", 103, detail='{"model":"m"}')
    (event,) = account.events()
    assert before_ms <= event.at_ms <= account.now_ms()
    assert event == (
        1, "acme", 1, 1, "debit", "d", event.at_ms, 103, 103, 4, [1, 100, 0, 3],
        "", '{"model":"m"}',
    )  # fmt: skip


def test_events_are_numbered_from_one_without_a_gap(account: Account) -> None:
    account.open()
    account.grant(1, 100)
    for n in range(5):
        account.debit(f"d{n}", n)
    assert [event.seq for event in account.events()] == [1, 2, 3, 4, 5]


def test_accounts_of_a_shard_share_the_stream_and_nothing_else(account: Account) -> None:
    other = Account(account.client, name="other", lent=account.lent.copy())
    other.keys = tuple(key.replace(":acme", ":other") for key in account.keys)
    for each in (account, other):
        each.open()
        each.grant(1, 100)
        each.debit("d", 60)
    assert account.debit("d", 60) == ["debited", 1, 60, 40]
    assert [(event.account, event.seq) for event in account.events() + other.events()] == [
        ("acme", 1),
        ("other", 1),
    ]


def test_answers_are_kept_for_at_least_a_day(account: Account) -> None:
    account.open()
    account.grant(1, 100)
    account.debit("d", 60)
    day = account.today()
    assert account.redis.pexpiretime(account.keys[6 + day % 2]) == (day + 2) * 86_400_000
    assert account.redis.exists(account.keys[6 + (day + 1) % 2]) == 0


def test_an_answer_of_yesterday_is_found_and_of_the_day_before_gone(account: Account) -> None:
    account.open()
    account.grant(1, 100)
    account.debit("d", 60)
    account.pass_midnight()
    assert account.debit("d", 60) == ["debited", 1, 60, 40]
    assert account.debit("e", 10) == ["debited", 0, 10, 30]
    check_consistent(account)
    account.pass_midnight()
    assert account.debit("e", 10) == ["debited", 1, 10, 30]
    assert account.debit("d", 61) == ["insufficient", 30, 0]
