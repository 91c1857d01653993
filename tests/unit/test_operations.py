"""Fingerprints, and what goes into the arguments of a script."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sidecar.errors import Refusal
from sidecar.meter.operations import OPERATIONS, fingerprint
from sidecar.meter.requests import convert
from sidecar.pricing.book import load_book

BOOK = load_book()
MINI = "openai/gpt-4o-mini"
USAGE = {"model": MINI, "input_tokens": 1_000, "output_tokens": 10}

parts = st.lists(
    st.text(st.characters(exclude_characters="\0", codec="utf-8")), min_size=1, max_size=4
)


def arguments(verb: str, **fields: Any) -> tuple[Any, ...]:
    operation = OPERATIONS[verb]
    request = convert({"account": "acme", "id": "x1", **fields}, operation.request)
    return operation.plan(request, BOOK, "").args


@given(first=parts, second=parts)
def test_fingerprints_are_equal_only_for_equal_parts(first: list[str], second: list[str]) -> None:
    assert (fingerprint(*first) == fingerprint(*second)) == (first == second)


@given(of=parts)
def test_fingerprint_is_short_and_plain(of: list[str]) -> None:
    assert len(fingerprint(*of)) == 16
    assert fingerprint(*of).isascii()


@pytest.mark.parametrize("verb", ["hold", "debit", "settle"])
def test_fingerprints_tell_all_that_counts_apart(verb: str) -> None:
    requests: list[dict[str, Any]] = [
        {"amount": 100},
        {"amount": 101},
        {"usage": USAGE},
        {"usage": USAGE | {"output_tokens": 11}},
        {"usage": USAGE | {"reasoning_tokens": 10}},
        {"usage": {"model": MINI, "input_tokens": 10, "output_tokens": 1_000}},
        {"usage": USAGE | {"model": "openai/gpt-4o"}},
    ]
    if verb == "settle":
        requests += [{"amount": 100, "final": False}, {"usage": USAGE, "final": False}]
    else:
        requests += [
            {"amount": 100, "scopes": {"user": "a"}},
            {"amount": 100, "scopes": {"key": "a"}},
            {"amount": 100, "scopes": {"user": "a", "key": "a"}},
        ]
    if verb == "hold":
        requests += [{"amount": 100, "ttl_ms": 5_000}, {"amount": 100, "partial": True}]
    found = {arguments(verb, **request)[1] for request in requests}
    assert len(found) == len(requests)


def test_fingerprints_of_verbs_differ() -> None:
    found = {arguments(verb, amount=5)[1] for verb in ("hold", "debit", "settle")}
    assert len(found | {arguments("refund", of="amount")[1]}) == 4


@pytest.mark.parametrize(
    ("verb", "fields", "again"),
    [
        ("hold", {"amount": 5}, {"amount": 5, "ttl_ms": 600_000, "partial": False, "scopes": {}}),
        ("hold", {"amount": 5}, {"amount": 5, "metadata": {"a": "b"}}),
        ("hold", {"usage": USAGE}, {"usage": USAGE | {"images": 0, "seconds": None}}),
        ("settle", {"amount": 5}, {"amount": 5, "final": True, "metadata": {"a": "b"}}),
        ("debit", {"amount": 5}, {"amount": 5, "metadata": {"a": "b"}, "scopes": {"user": None}}),
        ("refund", {"of": "d"}, {"of": "d", "reason": "sorry"}),
    ],
)
def test_defaults_and_remarks_do_not_count(
    verb: str, fields: dict[str, Any], again: dict[str, Any]
) -> None:
    assert arguments(verb, **fields)[1] == arguments(verb, **again)[1]


def test_hold_carries_what_its_events_will_say() -> None:
    given = {"usage": USAGE, "scopes": {"user": "u1"}, "metadata": {"k": "v"}, "partial": True}
    id, _, amount, ttl_ms, partial, price_version, context = arguments("hold", **given)
    assert (id, amount, ttl_ms, partial, price_version) == ("x1", 156, 600_000, 1, BOOK.version)
    assert json.loads(context) == {
        "model": MINI,
        "price_version": BOOK.version,
        "scopes": {"user": "u1"},
        "metadata": {"k": "v"},
    }


def test_what_has_nothing_to_say_says_nothing() -> None:
    assert arguments("hold", amount=5)[-1] == b""
    assert arguments("settle", amount=5)[-3:] == (b"", b"", 0)
    assert json.loads(arguments("refund", of="d")[-1]) == {"of": "d"}


def test_no_amount_means_all_that_is_left_or_as_it_is() -> None:
    assert arguments("refund", of="d")[3] == 0
    assert arguments("extend", ttl_ms=5_000)[1:] == (0, 5_000)
    assert arguments("extend", amount=5)[1:] == (5, 0)
    with pytest.raises(Refusal):
        arguments("extend")
