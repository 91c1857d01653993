"""Accounts, grants and adjustments: double entry, idempotent, bounded, and safe in parallel."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import pytest
import redis
from sqlalchemy import Engine

from persistence.accounts import (
    AccountRow,
    get_account,
    list_accounts,
    put_account,
    set_operator_status,
    set_status,
    set_top_up_threshold,
)
from persistence.errors import AccountUnknown, GrantConflict, TotalExceeded
from persistence.grants import GrantRequest, add_adjustment, add_grant
from persistence.reads import grant_rows, transfer_rows
from sidecar.domain import MAX_AMOUNT, AccountStatus, Category
from sidecar.errors import Refusal
from tests.integration.ledger_world import World


@pytest.fixture
def world(engine: Engine, redis_client: redis.Redis) -> World:
    return World(engine, redis_client)


def account_of(world: World, account: str = "acme") -> AccountRow:
    row = world.run(lambda c: get_account(c, account))
    assert row is not None
    return row


def refills(world: World) -> list[tuple[int, str]]:
    return world.sql("SELECT refill_no, kind FROM refills ORDER BY account, refill_no")


def test_a_new_account_has_a_generation_and_its_opening_refill(world: World) -> None:
    world.put("acme", name="Acme", overdraft_limit=5)
    row = account_of(world)
    assert (row.name, row.overdraft_limit, row.generation, row.ledger) == ("Acme", 5, 1, 0)
    payload = {"status": "active", "overdraft": 5, "reason": "", "allowance": 0, "mark": 0}
    assert world.sql("SELECT kind, payload FROM refills") == [("open", payload)]


def test_absent_fields_stay_and_null_clears(world: World) -> None:
    world.put("acme", name="Acme", overdraft_limit=5, low_balance_threshold=7)
    world.put("acme", name=None, overdraft_limit=None)
    row = account_of(world)
    assert (row.name, row.overdraft_limit, row.low_balance_threshold) == (None, 0, 7)
    assert refills(world) == [(1, "open"), (2, "status")]


def test_a_change_that_redis_need_not_know_is_no_refill(world: World) -> None:
    world.put("acme")
    world.put("acme", name="Acme", stripe_customer="cus_1")
    world.run(lambda c: set_operator_status(c, "acme", AccountStatus.SUSPENDED, "chargeback"))
    assert refills(world) == [(1, "open")]


def test_what_an_operator_decided_is_written_down(world: World) -> None:
    world.put("acme")
    world.run(lambda c: set_operator_status(c, "acme", AccountStatus.CLOSED, "left"))
    row = account_of(world)
    assert (row.operator_status, row.operator_reason) == (AccountStatus.CLOSED, "left")
    assert (row.status, row.status_reason) == (AccountStatus.ACTIVE, None)


def test_the_mark_is_the_higher_threshold_and_is_sent_when_it_changes(world: World) -> None:
    account = world.funded(low_balance_threshold=40)
    assert account.number("mark") == 40
    for threshold, mark in ((30, 40), (70, 70), (70, 70), (None, 40)):
        row = world.run(lambda c, t=threshold: set_top_up_threshold(c, "acme", t))  # type: ignore[misc]
        assert (row.top_up_threshold, row.mark) == (threshold, mark)
        world.sender.run_once()
        assert account.number("mark") == mark
    assert refills(world)[2:] == [(3, "status"), (4, "status")]
    world.put("acme", low_balance_threshold=None)
    world.sender.run_once()
    assert account.number("mark") == 0
    assert refills(world)[-1] == (5, "status")


@pytest.mark.parametrize("threshold", [-1, MAX_AMOUNT + 1])
def test_a_threshold_out_of_range_is_refused(world: World, threshold: int) -> None:
    world.put("acme")
    with pytest.raises(Refusal):
        world.run(lambda c: set_top_up_threshold(c, "acme", threshold))


def test_an_account_that_does_not_exist_has_no_threshold(world: World) -> None:
    with pytest.raises(AccountUnknown):
        world.run(lambda c: set_top_up_threshold(c, "acme", 1))


def test_what_an_account_may_use_while_redis_is_away_is_sent_to_it(world: World) -> None:
    account = world.funded(outage_allowance=9)
    account.balance()
    assert account.trail == [9]
    world.put("acme", outage_allowance=70)
    assert refills(world)[-1] == (3, "status")
    world.sender.run_once()
    account.balance()
    assert account.trail == [70]


def test_a_status_is_set_once_and_sent_once(world: World) -> None:
    world.put("acme")
    for _ in range(2):
        row = world.run(lambda c: set_status(c, "acme", AccountStatus.SUSPENDED, "unpaid"))
    assert (row.status, row.status_reason) == (AccountStatus.SUSPENDED, "unpaid")
    assert refills(world) == [(1, "open"), (2, "status")]


def test_a_grant_is_a_transfer_in_and_a_transfer_lent(world: World) -> None:
    world.put("acme")
    row = world.grant("acme", 100, category=Category.PROMO, reference="spring")
    moves = world.run(lambda c: transfer_rows(c, "acme")).rows
    assert [(m["debit_account"], m["credit_account"], m["amount"], m["kind"]) for m in moves] == [
        ("available:acme", "lent:acme:1", 100, "lend"),
        ("source:promo", "available:acme", 100, "grant"),
    ]
    assert (row.remaining, account_of(world).ledger) == (100, 100)
    assert world.generation().lent == 100


def test_the_same_grant_again_moves_nothing(world: World) -> None:
    world.put("acme")
    first = world.grant("acme", 100)
    assert world.grant("acme", 100) == first
    assert world.sql("SELECT count(*) FROM transfers") == [2]
    assert account_of(world).granted_total == 100


@pytest.mark.parametrize(
    "changed",
    [
        {"amount": 101},
        {"category": Category.PROMO},
        {"priority": 1},
        {"expires_at_ms": 1},
        {"reference": "other"},
    ],
)
def test_the_id_of_a_grant_with_other_contents_is_refused(
    world: World, changed: dict[str, object]
) -> None:
    world.put("acme")
    world.grant("acme", 100)
    values = {"account": "acme", "id": "g1", "amount": 100, "category": Category.PAID} | changed
    with pytest.raises(GrantConflict):
        world.run(lambda c: add_grant(c, GrantRequest(**values)))  # type: ignore[arg-type]
    assert world.sql("SELECT count(*) FROM transfers") == [2]


@pytest.mark.parametrize("amount", [0, -1, MAX_AMOUNT + 1])
def test_an_amount_out_of_range_is_refused(world: World, amount: int) -> None:
    world.put("acme")
    with pytest.raises(Refusal):
        world.grant("acme", amount)
    assert world.sql("SELECT count(*) FROM transfers") == [0]


@pytest.mark.parametrize("values", [{"priority": 101}, {"expires_at_ms": -1}, {"id": "a b"}])
def test_a_grant_out_of_range_is_refused(world: World, values: dict[str, object]) -> None:
    world.put("acme")
    with pytest.raises(Refusal):
        world.grant("acme", 1, **values)  # type: ignore[arg-type]


def test_an_accounts_total_may_not_pass_the_largest_amount(world: World) -> None:
    world.put("acme")
    world.grant("acme", MAX_AMOUNT)
    with pytest.raises(TotalExceeded):
        world.grant("acme", 1, "g2")
    with pytest.raises(TotalExceeded):
        world.run(lambda c: add_adjustment(c, "acme", "a1", 1, "more"))
    assert account_of(world).ledger == MAX_AMOUNT


def test_the_largest_amounts_of_many_accounts_sum_exactly(world: World) -> None:
    for number in range(3):
        world.put(f"acct-{number}")
        world.grant(f"acct-{number}", MAX_AMOUNT)
    assert world.balance("source:paid") == -3 * MAX_AMOUNT


def test_an_unknown_account_is_refused(world: World) -> None:
    with pytest.raises(AccountUnknown):
        world.grant("nobody", 1)
    with pytest.raises(AccountUnknown):
        world.run(lambda c: add_adjustment(c, "nobody", "a1", 1, "x"))
    with pytest.raises(AccountUnknown):
        world.run(lambda c: set_status(c, "nobody", AccountStatus.CLOSED, None))
    assert world.run(lambda c: get_account(c, "nobody")) is None


def test_a_positive_adjustment_is_a_grant_of_its_id(world: World) -> None:
    world.put("acme")
    for _ in range(2):
        world.run(lambda c: add_adjustment(c, "acme", "a1", 30, "sorry"))
    (grant,) = world.run(lambda c: grant_rows(c, "acme")).rows
    assert (grant["id"], grant["granted"], grant["category"]) == ("a1", 30, "adjustment")
    assert world.balance("source:adjustment") == -30


def test_the_id_of_an_adjustment_with_other_contents_is_refused(world: World) -> None:
    world.put("acme")
    world.grant("acme", 5, "g1")
    world.run(lambda c: add_adjustment(c, "acme", "a1", -30, "x"))
    for id, amount, reason in (("a1", -31, "x"), ("a1", -30, "y"), ("a1", 30, "x"), ("g1", 5, "x")):
        with pytest.raises(GrantConflict):
            world.run(lambda c: add_adjustment(c, "acme", id, amount, reason))  # noqa: B023


def test_a_negative_adjustment_may_go_below_zero_but_not_beyond_all_bounds(world: World) -> None:
    world.put("acme")
    world.run(lambda c: add_adjustment(c, "acme", "a1", -MAX_AMOUNT, "x"))
    assert account_of(world).ledger == -MAX_AMOUNT
    with pytest.raises(TotalExceeded):
        world.run(lambda c: add_adjustment(c, "acme", "a2", -1, "x"))


def test_unknown_fields_and_bad_values_of_an_account_are_refused(world: World) -> None:
    for changes in ({"status": "closed"}, {"overdraft_limit": -1}, {"outage_allowance": 2**53}):
        with pytest.raises(Refusal):
            world.put("acme", **changes)
    with pytest.raises(Refusal):
        world.put("not an account")


def test_accounts_are_listed_newest_first_in_pages(world: World) -> None:
    for number in range(5):
        world.put(f"acct-{number}")
    names: list[str] = []
    cursor: str | None = None
    while True:
        page = world.run(lambda c: list_accounts(c, 2, cursor))  # noqa: B023
        names += [row.account for row in page.rows]
        cursor = page.next_cursor
        if cursor is None:
            break
    assert names == [f"acct-{number}" for number in (4, 3, 2, 1, 0)]


@pytest.mark.parametrize("cursor", ["%%%", "WzFd x", "W10", "WyJhIl0", "W" * 5000, "\u00e9"])
def test_a_cursor_of_no_list_is_refused(world: World, cursor: str) -> None:
    with pytest.raises(Refusal):
        world.run(lambda c: list_accounts(c, 2, cursor))


def test_the_same_grant_from_many_at_once_is_one_grant(world: World) -> None:
    world.put("acme")
    with ThreadPoolExecutor(8) as pool:
        rows = list(pool.map(lambda _: world.grant("acme", 100), range(16)))
    assert len(set(rows)) == 1
    assert account_of(world).ledger == 100


def test_the_same_account_made_by_many_at_once_is_one_account(world: World) -> None:
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda _: world.run(lambda c: put_account(c, "acme", {})), range(16)))
    assert world.sql("SELECT count(*) FROM generations") == [1]
    assert refills(world) == [(1, "open")]


def test_grants_to_many_accounts_while_they_are_flushed_end_without_a_deadlock(
    world: World,
) -> None:
    names = [f"acct-{number}" for number in range(6)]
    accounts = [world.funded(name, 100_000) for name in names]
    categories = list(Category)

    def give(number: int) -> None:
        # Who changes several accounts at once takes them in their order, as the flusher does.
        picked = sorted({names[number % 6], names[(number * 5 + 1) % 6]})
        requests = [
            GrantRequest(name, f"g{number}-{place}", 10, categories[number % 4])
            for place, name in enumerate(picked)
        ]
        world.run(lambda c: [add_grant(c, request) for request in requests])

    def spend(number: int) -> None:
        accounts[number % 6].debit(f"d{number}", 7)
        world.flusher.run_once()

    with ThreadPoolExecutor(4) as pool:
        futures = [pool.submit(give, number) for number in range(2, 62)]
        for number in range(60):
            spend(number)
        for future in futures:
            future.result()
    # Not even one that a repeated transaction would have hidden.
    query = "SELECT deadlocks FROM pg_stat_database WHERE datname = current_database()"
    assert world.sql(query) == [0]
    world.sender.run_once()
    world.assert_sound()
