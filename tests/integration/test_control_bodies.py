"""Bodies that are wrong: refused with the contract's status and the name of the field."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from tests.integration.control_client import refused

GRANT: dict[str, Any] = {"id": "g1", "amount": 5, "category": "paid"}
ADJUSTMENT: dict[str, Any] = {"id": "a1", "amount": 5, "reason": "r"}
MIB = 1_048_576

WRONG_GRANTS: list[tuple[dict[str, Any], str]] = [
    *(({"amount": value}, "amount") for value in (0, -1, 2**53, 2**70, 1.0, 1.5, True, "1")),
    ({"amount": [1]}, "amount"),
    *(({"id": value}, "id") for value in ("", "a b", "a\n", "ä", "x" * 129, 7, None)),
    *(({"category": value}, "category") for value in ("gift", "", 1, None)),
    *(({"priority": value}, "priority") for value in (-1, 101, 1.0, True, "50")),
    *(({"expires_at_ms": value}, "expires_at_ms") for value in (0, -1, 2**53, 1e3, "soon")),
    *(({"reference": value}, "reference") for value in ("", "a\u0000b", "x" * 501, 7)),
    ({"unknown": 1}, "unknown"),
    ({"Amount": 1}, "Amount"),
]
WRONG_ACCOUNTS: list[tuple[dict[str, Any], str]] = [
    *(({"name": value}, "name") for value in ("", "a\u0000", "a\u001b[2J", "x" * 201, 1)),
    *(({"overdraft_limit": value}, "overdraft_limit") for value in (-1, 2**53, 0.5, True, "0")),
    *(({"outage_allowance": value}, "outage_allowance") for value in (-1, 2**53, False)),
    *(({"low_balance_threshold": v}, "low_balance_threshold") for v in (-1, 2**53, 1.0)),
    *(({"stripe_customer": value}, "stripe_customer") for value in ("", "a b", "x" * 256, 1)),
    ({"status": "active"}, "status"),
    ({"account": "other"}, "account"),
]
WRONG_ADJUSTMENTS: list[tuple[dict[str, Any], str]] = [
    *(({"amount": value}, "amount") for value in (0, 2**53, -(2**53), 1.0, True, None)),
    *(({"reason": value}, "reason") for value in ("", None, 1, "\u0007", "x" * 501)),
]


@pytest.mark.usefixtures("nothing_changes")
def test_wrong_fields_are_refused_by_their_name(control: httpx.Client) -> None:
    path = "/v1/accounts/acme"
    for change, param in WRONG_GRANTS:
        response = control.post(f"{path}/grants", content=json.dumps(GRANT | change))
        refused(response, 422, "invalid_request", param)
    for change, param in WRONG_ADJUSTMENTS:
        response = control.post(f"{path}/adjustments", content=json.dumps(ADJUSTMENT | change))
        refused(response, 422, "invalid_request", param)
    for change, param in WRONG_ACCOUNTS:
        refused(control.put(path, content=json.dumps(change)), 422, "invalid_request", param)
    for verb in ("suspend", "resume", "close"):
        for body in ({}, {"reason": None}, {"reason": ""}, {"reason": 1}):
            response = control.post(f"{path}/{verb}", json=body)
            refused(response, 422, "invalid_request", "reason")


@pytest.mark.usefixtures("nothing_changes")
def test_missing_fields_are_refused_by_their_name(control: httpx.Client) -> None:
    for field in GRANT:
        body = {name: value for name, value in GRANT.items() if name != field}
        response = control.post("/v1/accounts/acme/grants", json=body)
        refused(response, 422, "invalid_request", field)


@pytest.mark.usefixtures("nothing_changes")
@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b"nope",
        b'{"amount": NaN}',
        b'{"amount": Infinity}',
        b'{"id": "\xff"}',
        b'{"id": "\\ud800"}',
        b"\xef\xbb\xbf{}",
        b"{} {}",
        b'{"id": "a\x00"}',
        pytest.param(b"[" * 500_000, id="deep list"),
        pytest.param(b'{"a":' * 100_000, id="deep object"),
    ],
)
def test_a_body_that_is_not_json_is_a_400(control: httpx.Client, body: bytes) -> None:
    refused(control.post("/v1/accounts/acme/grants", content=body), 400, "invalid_json")
    refused(control.put("/v1/accounts/acme", content=body), 400, "invalid_json")


@pytest.mark.usefixtures("nothing_changes")
@pytest.mark.parametrize("body", [b"[]", b"null", b"1", b'"x"', b"1e999", b'{"amount": 1e999}'])
def test_json_that_is_no_request_is_a_422(control: httpx.Client, body: bytes) -> None:
    refused(control.post("/v1/accounts/acme/grants", content=body), 422, "invalid_request")


def test_of_duplicate_keys_the_last_counts(control: httpx.Client) -> None:
    body = b'{"id": "g1", "amount": -1, "category": "paid", "amount": 7}'
    response = control.post("/v1/accounts/acme/grants", content=body)
    assert (response.status_code, response.json()["granted"]) == (200, 7)


@pytest.mark.usefixtures("nothing_changes")
def test_a_body_above_one_mebibyte_is_refused(control: httpx.Client) -> None:
    def chunks() -> Iterator[bytes]:
        for _ in range(17):
            yield b" " * 65_536

    path = "/v1/accounts/acme/grants"
    refused(control.post(path, content=b" " * (MIB + 1)), 413, "body_too_large")
    refused(control.post(path, content=chunks()), 413, "body_too_large")
    refused(control.post(path, content=b" " * MIB), 400, "invalid_json")


@pytest.mark.usefixtures("nothing_changes")
def test_other_content_types_are_refused(control: httpx.Client) -> None:
    path = "/v1/accounts/acme/grants"
    for kind in ("text/plain", "application/x-www-form-urlencoded", "application/json; charset=x"):
        response = control.post(path, content=b"{}", headers={"Content-Type": kind})
        refused(response, 415, "unsupported_media_type")
    for kind in ("application/json", "APPLICATION/JSON; charset=UTF-8"):
        response = control.post(path, content=b"{}", headers={"Content-Type": kind})
        refused(response, 422, "invalid_request")
