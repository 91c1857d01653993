"""Many clients at once on one account: the scripts decide one after another (I2, I3)."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from threading import Barrier

import pytest
import redis

from tests.lua.consistent import check_consistent
from tests.lua.support import HOUR_MS, Account, Reply

CLIENTS = 64
CALLS = 8

ClientCall = Callable[[Account, int], list[Reply]]
AtOnce = Callable[[ClientCall], list[Reply]]


@pytest.fixture
def account(redis_client: redis.Redis) -> Account:
    account = Account(redis_client)
    account.open()
    return account


@pytest.fixture
def at_once(redis_url: str) -> AtOnce:
    """Let 64 clients, each with a connection of its own, begin together; get all replies."""

    def run_all(call: ClientCall) -> list[Reply]:
        barrier = Barrier(CLIENTS)

        def run(number: int) -> list[Reply]:
            with redis.Redis.from_url(redis_url) as client:
                client.ping()
                mine = Account(client)
                barrier.wait(timeout=60)
                return call(mine, number)

        with ThreadPoolExecutor(CLIENTS) as pool:
            return [reply for replies in pool.map(run, range(CLIENTS)) for reply in replies]

    return run_all


def test_64_clients_exhaust_an_account_exactly_by_debits(account: Account, at_once: AtOnce) -> None:
    account.grant(1, 1_000)
    replies = at_once(lambda mine, n: [mine.debit(f"d{n}-{k}", 7) for k in range(CALLS)])
    assert Counter(reply[0] for reply in replies) == {"debited": 142, "insufficient": 370}
    assert account.number("available") == 1_000 - 142 * 7
    assert sorted(reply[3] for reply in replies if reply[0] == "debited") == list(
        range(1_000 - 142 * 7, 1_000, 7)
    )
    check_consistent(account)


def test_64_clients_exhaust_available_and_overdraft_exactly_by_holds(
    account: Account, at_once: AtOnce
) -> None:
    account.status("active", 500)
    for grant_no in range(1, 11):
        account.grant(grant_no, 50)
    replies = at_once(lambda mine, n: [mine.hold(f"h{n}-{k}", 9) for k in range(CALLS)])
    assert sum(reply[0] == "held" for reply in replies) == 1_000 // 9
    assert account.number("available") == 500 - 1_000 // 9 * 9
    check_consistent(account)


def test_partial_holds_take_the_last_credit_and_no_more(account: Account, at_once: AtOnce) -> None:
    account.grant(1, 100)
    replies = at_once(lambda mine, n: [mine.hold(f"h{n}", 7, partial=1)])
    amounts = Counter(reply[2] for reply in replies if reply[0] == "held")
    assert amounts == {7: 14, 2: 1}
    check_consistent(account)


def test_of_64_equal_requests_one_is_carried_out(account: Account, at_once: AtOnce) -> None:
    account.grant(1, 1_000)
    replies = at_once(lambda mine, n: [mine.debit("d", 7)])
    assert Counter(reply[1] for reply in replies) == {0: 1, 1: 63}
    assert {tuple(reply[2:]) for reply in replies} == {(7, 993)}
    check_consistent(account)


def test_of_64_different_requests_with_one_id_one_is_carried_out(
    account: Account, at_once: AtOnce
) -> None:
    account.grant(1, 10_000)
    replies = at_once(lambda mine, n: [mine.debit("d", n + 1)])
    assert Counter(reply[0] for reply in replies) == {"debited": 1, "conflict": 63}
    check_consistent(account)


def test_a_hold_that_is_settled_and_released_at_once_ends_once(
    account: Account, at_once: AtOnce
) -> None:
    account.grant(1, 1_000)
    account.hold("h", 100)

    def end(mine: Account, number: int) -> list[Reply]:
        return [mine.settle("h", 40) if number % 2 else mine.release("h")]

    replies = at_once(end)
    assert sum(reply[0] in ("settled", "released") and reply[1] == 0 for reply in replies) == 1
    assert account.number("available") in (1_000, 960)
    check_consistent(account)


def test_refunds_at_once_never_exceed_the_charge(account: Account, at_once: AtOnce) -> None:
    account.grant(1, 1_000)
    account.debit("d", 100)
    replies = at_once(lambda mine, n: [mine.refund(f"r{n}", "d", 7)])
    assert Counter(reply[0] for reply in replies) == {"refunded": 14, "refund_exceeds": 50}
    assert account.number("available") == 998
    check_consistent(account)


def test_64_clients_that_do_everything_leave_nothing_inconsistent(
    account: Account, at_once: AtOnce
) -> None:
    account.status("active", 50)
    for grant_no in range(1, 21):
        account.grant(grant_no, 100, priority=grant_no % 3)

    def live(mine: Account, number: int) -> list[Reply]:
        chance = random.Random(number)
        replies = []
        for k in range(CALLS):
            id = f"{number}-{k}"
            replies.append(mine.hold(f"h{id}", chance.randrange(60), ttl_ms=HOUR_MS))
            replies.append(mine.settle(f"h{id}", chance.randrange(20), final=0))
            replies.append(mine.extend(f"h{id}", chance.randrange(1, 90)))
            if chance.random() < 0.7:
                replies.append(mine.settle(f"h{id}", chance.randrange(20, 90)))
            else:
                replies.append(mine.release(f"h{id}"))
            replies.append(mine.debit(f"d{id}", chance.randrange(20)))
            replies.append(mine.refund(f"r{id}", f"{chance.choice('hd')}{id}", 3))
        return replies

    replies = at_once(live)
    charged = sum(event.amount for event in account.events() if event.operation != "cover")
    assert account.number("available") + account.number("held") == 2_000 - charged
    assert len(replies) == CLIENTS * CALLS * 6
    check_consistent(account)
