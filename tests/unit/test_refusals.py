"""The table of refusals is total over what the scripts say they answer."""

from __future__ import annotations

import re
from typing import Any

import pytest

from sidecar.errors import HTTP_STATUS, ErrorCode, Refusal, error_type
from sidecar.meter.operations import OPERATIONS, Plan
from sidecar.meter.refusals import REFUSALS
from sidecar.pricing.book import load_book
from sidecar.scripts import source
from sidecar.web import refusal_answer

# What the store deals with before a reply becomes an answer.
OF_THE_STORE = {"unknown", "fenced", "again"}
# What `sidecar.meter.decide` does itself.
OF_THE_DECIDER = {"reprice"}
ANSWERED = {
    "hold": {"held"},
    "settle": {"settled", "held"},
    "release": {"released"},
    "extend": {"held"},
    "debit": {"debited"},
    "refund": {"refunded"},
    "balance": {"ok"},
}
# The element after the status, of the refusals that have one.
DETAIL: dict[str, list[Any]] = {
    "lowered": [5],
    "suspended": [b"unpaid"],
    "closed": [b""],
    "insufficient": [5, 6],
    "refund_exceeds": [5],
}


def documented(script: str) -> set[str]:
    """Return the statuses that a script's header lists."""
    _, _, listed = source(script).partition("-- Returns {status, ...}")
    lines = listed.split("\n\n")[0].splitlines()[1:]
    matches = [re.match(r"--   ([a-z_]+)(?:  |$)", line) for line in lines]
    return {match.group(1) for match in matches if match}


def used_scripts() -> set[str]:
    return {operation.script for operation in OPERATIONS.values()}


def test_headers_are_read_as_they_are_written() -> None:
    refused = {"conflict", "suspended", "closed", "insufficient", "out_of_range"}
    assert documented("debit") == {"debited"} | refused
    assert used_scripts() == ANSWERED.keys()


@pytest.mark.parametrize("script", sorted(ANSWERED))
def test_every_documented_status_is_answered_or_refused(script: str) -> None:
    refused = documented(script) - ANSWERED[script] - OF_THE_STORE - OF_THE_DECIDER
    assert refused <= {status.decode() for status in REFUSALS}
    assert ANSWERED[script] <= documented(script)
    assert not ANSWERED[script] & {status.decode() for status in REFUSALS}


def test_no_refusal_is_for_a_status_that_no_script_has() -> None:
    known = set().union(*(documented(script) for script in used_scripts()))
    assert {status.decode() for status in REFUSALS} <= known


@pytest.mark.parametrize("status", sorted(status.decode() for status in REFUSALS))
def test_every_refusal_can_be_made(status: str) -> None:
    reply = [status.encode(), *DETAIL.get(status, [])]
    refusal = REFUSALS[status.encode()](Plan(amount=7), reply, None)
    assert isinstance(refusal, Refusal)
    assert refusal.body()["error"]["message"].endswith(".")
    assert 400 <= refusal.http < 500
    assert refusal_answer(refusal).status_code == refusal.http


def test_insufficient_says_everything_that_helps() -> None:
    price = load_book().price("openai/gpt-4o-mini")
    plan = Plan(amount=600, usage={"output_tokens": 1_000}, price=price)
    refusal = REFUSALS[b"insufficient"](plan, [b"insufficient", 100, 20], "https://example.com")
    assert refusal.details == {
        "available": 100,
        "required": 600,
        "affordable_output_tokens": 200,
        "top_up_url": "https://example.com",
    }
    refusal = REFUSALS[b"insufficient"](Plan(amount=600), [b"insufficient", 1, 0, 42], None)
    assert refusal.details == {"available": 1, "required": 42}


@pytest.mark.parametrize("code", ErrorCode)
def test_every_code_has_a_status_and_a_type(code: ErrorCode) -> None:
    assert 400 <= HTTP_STATUS[code] < 600
    types = {"billing_error", "authentication_error", "server_error", "invalid_request_error"}
    assert error_type(code) in types
    assert (error_type(code) == "server_error") == (HTTP_STATUS[code] >= 500)


def test_retry_after_is_in_whole_seconds_rounded_up() -> None:
    details: dict[str, Any] = {
        "scope": "user",
        "limit": 5,
        "used": 5,
        "window": "minute",
        "retry_after_ms": 1_001,
    }
    answer = refusal_answer(Refusal(ErrorCode.LIMIT_EXCEEDED, "Too much.", **details))
    assert (answer.status_code, answer.headers["retry-after"]) == (429, "2")
    answer = refusal_answer(Refusal(ErrorCode.STORE_UNAVAILABLE, "Not now."))
    assert (answer.status_code, answer.headers["retry-after"]) == (503, "1")
