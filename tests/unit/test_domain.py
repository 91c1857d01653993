"""The forms of names, and the order in which grants burn."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sidecar.domain import (
    BURN_RANK,
    MAX_AMOUNT,
    NEVER_EXPIRES,
    Category,
    burn_order,
    is_account,
    is_id,
)

grants = st.tuples(
    st.integers(0, 100),
    st.none() | st.integers(0, 4_102_444_800_000),
    st.sampled_from(Category),
    st.integers(1, MAX_AMOUNT // 10),
)
Grant = tuple[int, int | None, Category, int]
BY_CATEGORY = [Category.PROMO, Category.ALLOWANCE, Category.ADJUSTMENT, Category.PAID]


def place(grant: Grant) -> tuple[int, float, int, int]:
    """The contract's order, as Python sorts it."""
    priority, expires_at_ms, category, grant_no = grant
    expiry = float("inf") if expires_at_ms is None else expires_at_ms
    return priority, expiry, BY_CATEGORY.index(category), grant_no


@given(st.lists(grants, max_size=30, unique_by=lambda grant: grant[3]))
def test_order_of_texts_is_the_burn_order(listed: list[Grant]) -> None:
    by_text = sorted(listed, key=lambda grant: burn_order(*grant))
    assert by_text == sorted(listed, key=place)


@given(grants)
def test_order_has_a_fixed_width_and_can_be_read_back(grant: Grant) -> None:
    priority, expires_at_ms, category, grant_no = grant
    order = burn_order(*grant)
    assert len(order) == 34
    assert int(order[:3]) == priority
    assert int(order[3:18]) == (NEVER_EXPIRES if expires_at_ms is None else expires_at_ms)
    assert int(order[18]) == BURN_RANK[category]
    assert int(order[19:]) == grant_no


@pytest.mark.parametrize(
    ("sooner", "later"),
    [
        ((0, None, "paid", 9), (1, 5, "promo", 1)),
        ((50, 5, "paid", 9), (50, 6, "promo", 1)),
        ((50, 5, "paid", 9), (50, None, "promo", 1)),
        ((50, None, "promo", 9), (50, None, "allowance", 1)),
        ((50, None, "allowance", 9), (50, None, "adjustment", 1)),
        ((50, None, "adjustment", 9), (50, None, "paid", 1)),
        ((50, None, "paid", 9), (50, None, "paid", 10)),
    ],
)
def test_what_comes_first_burns_first(
    sooner: tuple[int, int | None, str, int], later: tuple[int, int | None, str, int]
) -> None:
    assert burn_order(*sooner) < burn_order(*later)


def test_unknown_category_is_an_error() -> None:
    with pytest.raises(ValueError, match="gift"):
        burn_order(50, None, "gift", 1)


@pytest.mark.parametrize("name", ["a", "x" * 128, "A-Z.a_z:0@9", "-", "::"])
def test_accounts_are_plain_names(name: str) -> None:
    assert is_account(name)


@pytest.mark.parametrize("name", ["", "x" * 129, "a b", "a\n", "\n", "é", "a/b", "a{b", "*", "\0"])
def test_other_names_are_no_accounts(name: str) -> None:
    assert not is_account(name)


@pytest.mark.parametrize(
    "id", ["a", "~" * 128, "!", '"\\{}*', "0190f7c1-7e4a-7bb3-8d0a-1f2e3d4c5b6a"]
)
def test_ids_are_printable(id: str) -> None:
    assert is_id(id)


@pytest.mark.parametrize("id", ["", "x" * 129, " ", "a b", "a\n", "\x7f", "\0", "é", "\u2028"])
def test_other_texts_are_no_ids(id: str) -> None:
    assert not is_id(id)
