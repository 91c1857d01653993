"""What must hold of an account in Redis after every call, whatever the call was."""

from __future__ import annotations

from collections.abc import Iterable

from sidecar.domain import NEVER_EXPIRES
from tests.lua.support import (
    AMOUNT,
    CHARGED,
    CHARGES,
    DAY_MS,
    HELD,
    KIND,
    REFUNDED,
    STATE,
    Account,
    as_text,
    pairs,
)


def check_consistent(account: Account, *, is_covered: bool = True) -> None:
    """Assert what holds after every call, whatever it was.

    `is_covered` is false where a call has emptied more grants than it may, so that an overdraft
    stays beside grants until the next call that covers.
    """
    if not account.fields():
        return
    _check_keys(account)
    _check_numbers(account, is_covered=is_covered)
    _check_head(account)
    _check_records(account)
    _check_expiry(account)
    _check_events(account)
    _check_rung(account)
    _check_conservation(account)


def _check_keys(account: Account) -> None:
    if account.is_alone:
        found = {as_text(name) for name in account.redis.keys("*")}
        assert found <= set(account.keys), "a key that keys.py does not make"
    for key in account.keys[6:8]:
        if account.redis.exists(key):
            ttl_ms = int(account.redis.pttl(key))
            assert 0 < ttl_ms <= 2 * DAY_MS, f"{key} lives for {ttl_ms} ms"
    for key in (*account.keys[:6], account.keys[8]):
        assert account.redis.pttl(key) in (-1, -2), f"{key} must not expire"


def _check_numbers(account: Account, *, is_covered: bool) -> None:
    left, holds = account.left(), account.holds().values()
    pool, pool_held = account.number("pool"), account.number("pool_held")
    assert all(amount >= 0 for amount in left.values()), f"less than nothing is left: {left}"
    assert account.number("available") == sum(left.values()) + pool
    assert account.number("held") == sum(sum(pairs(hold[HELD]).values()) for hold in holds)
    assert pool_held == sum(pairs(hold[HELD]).get(0, 0) for hold in holds)
    if is_covered and pool + pool_held < 0:
        assert sum(left.values()) == 0, "an overdraft is not covered although grants are there"


def _check_head(account: Account) -> None:
    head, left, orders = account.fields()["head"], account.left(), account.orders()
    waiting = [as_text(order) for order in account.redis.zrange(account.keys[2], 0, -1)]
    with_left = sorted(orders[no] for no, amount in left.items() if amount and orders[no] != head)
    assert waiting == with_left
    if head:
        assert orders[int(head[19:])] == head
        assert all(head < order for order in waiting), "the head is not the first in burn order"
    else:
        assert not waiting
        assert account.number("head_left") == 0


def _check_records(account: Account) -> None:
    holds, answers = account.holds(), account.answers()
    assert not holds.keys() & answers.keys(), "a hold is both open and ended"
    for hold in holds.values():
        assert (hold[KIND], hold[STATE]) == ("hold", "held")
        parts = pairs(hold[HELD])
        assert all(amount > 0 for amount in parts.values())
        assert sum(parts.values()) == max(0, hold[AMOUNT] - hold[CHARGED])
    for record in answers.values():
        assert record[STATE] != "held"
        assert record[KIND] != "hold" or record[HELD] == []
    for record in (*holds.values(), *answers.values()):
        charges = pairs(record[CHARGES])
        assert all(amount > 0 for amount in charges.values())
        assert sum(charges.values()) == record[CHARGED] - record[REFUNDED]


def _check_expiry(account: Account) -> None:
    scores = account.redis.zrange(account.keys[4], 0, -1, withscores=True)
    members = {as_text(member): int(score) for member, score in scores}
    grants = {
        f"g:{no}" for no, order in account.orders().items() if int(order[3:18]) < NEVER_EXPIRES
    }
    assert members.keys() == {f"h:{id}" for id in account.holds()} | grants
    next_expiry = account.number("next_expiry")
    assert next_expiry <= min(members.values(), default=NEVER_EXPIRES)
    swept = account.redis.zscore(account.keys[5], account.name)
    assert swept == (None if next_expiry == NEVER_EXPIRES else next_expiry)


def _check_events(account: Account) -> None:
    events = account.events()
    assert [event.seq for event in events] == list(range(1, account.number("seq") + 1))
    assert [event.at_ms for event in events] == sorted(event.at_ms for event in events)
    for event in events:
        assert (event.version, event.gen) == (1, account.number("gen"))
        assert sum(event.parts().values()) == event.amount, f"allocations do not sum up: {event}"
        assert 0 not in event.parts().values(), f"an empty allocation: {event}"


def _check_rung(account: Account) -> None:
    rung, available = account.number("rung"), account.number("available")
    assert rung in (0, 1, 2)
    if available >= max(account.number("mark"), 1):
        assert rung == 0, "it has not run low, but would not tell when it does"
    if rung == 0:
        return
    assert account.rings() > 0, "it has told nothing"


def _check_conservation(account: Account) -> None:
    """I1, per grant and for the pool: lent = left + held + what events say was spent of it."""
    left, used, held = account.left(), _sums(e.parts() for e in account.events()), _held(account)
    for grant_no, amount in account.lent.items():
        there = left.get(grant_no, 0) + held.get(grant_no, 0) + used.get(grant_no, 0)
        assert there == amount + account.restored.get(grant_no, 0), f"grant {grant_no}"
    pool = account.number("pool") + held.get(0, 0) + used.get(0, 0)
    assert pool == account.restored.get(0, 0), "the pool"


def _held(account: Account) -> dict[int, int]:
    return _sums(pairs(hold[HELD]) for hold in account.holds().values())


def _sums(parts: Iterable[dict[int, int]]) -> dict[int, int]:
    sums: dict[int, int] = {}
    for part in parts:
        for grant_no, amount in part.items():
            sums[grant_no] = sums.get(grant_no, 0) + amount
    return sums
