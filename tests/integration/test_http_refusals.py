"""Every error of the contract, and which comes first when a request violates two rules."""

from __future__ import annotations

from typing import Any

import httpx
import pytest

from sidecar.domain import MAX_AMOUNT
from tests.integration.meter_server import Meter, Sidecar, error_of

HOLD = {"account": "acme", "id": "x1", "amount": 100}


@pytest.fixture
def acme(meter: Meter) -> Meter:
    """An account with a hold, a debit or a refund in every state."""
    meter.ledger.account("acme", 10_000)
    for id in ("running", "settled", "released", "expired", "streamed"):
        meter.accept("hold", account="acme", id=id, amount=100)
    meter.accept("settle", account="acme", id="settled", amount=40)
    meter.accept("settle", account="acme", id="streamed", amount=40, final=False)
    meter.accept("release", account="acme", id="released")
    meter.ledger.expire_now("acme", "h:expired")
    meter.accept("debit", account="acme", id="debited", amount=10)
    meter.accept("refund", account="acme", id="refunded", of="debited", amount=4)
    return meter


OUTCOMES: list[tuple[str, dict[str, Any], int, str]] = [
    ("settle", {"id": "never", "amount": 1}, 404, "hold_not_found"),
    ("release", {"id": "never"}, 404, "hold_not_found"),
    ("extend", {"id": "never", "amount": 1}, 404, "hold_not_found"),
    ("refund", {"id": "x1", "of": "never"}, 404, "hold_not_found"),
    ("refund", {"id": "x1", "of": "refunded"}, 404, "hold_not_found"),
    ("refund", {"id": "x1", "of": "x1"}, 404, "hold_not_found"),
    ("settle", {"id": "settled", "amount": 41}, 409, "hold_settled"),
    ("release", {"id": "settled"}, 409, "hold_settled"),
    ("extend", {"id": "settled", "amount": 200}, 409, "hold_settled"),
    ("settle", {"id": "released", "amount": 1}, 409, "hold_released"),
    ("extend", {"id": "released", "ttl_ms": 5_000}, 409, "hold_released"),
    ("release", {"id": "expired"}, 409, "hold_expired"),
    ("extend", {"id": "expired", "amount": 200}, 409, "hold_expired"),
    ("refund", {"id": "x1", "of": "running"}, 409, "hold_open"),
    ("refund", {"id": "x1", "of": "streamed"}, 409, "hold_open"),
    ("refund", {"id": "x1", "of": "released"}, 422, "refund_exceeds_charge"),
    ("refund", {"id": "x1", "of": "expired"}, 422, "refund_exceeds_charge"),
    ("refund", {"id": "x1", "of": "settled", "amount": 41}, 422, "refund_exceeds_charge"),
    ("refund", {"id": "x1", "of": "debited", "amount": 7}, 422, "refund_exceeds_charge"),
    ("settle", {"id": "streamed", "amount": 39}, 422, "invalid_request"),
    ("extend", {"id": "running", "amount": 99}, 422, "invalid_request"),
    ("hold", {"id": "x1", "amount": 10_000}, 402, "insufficient_credits"),
    ("debit", {"id": "x1", "amount": 10_000}, 402, "insufficient_credits"),
    ("extend", {"id": "running", "amount": 11_000}, 402, "insufficient_credits"),
    ("hold", {"id": "settled", "amount": 1}, 409, "id_conflict"),
    ("debit", {"id": "running", "amount": 1}, 409, "id_conflict"),
    ("refund", {"id": "running", "of": "debited"}, 409, "id_conflict"),
    ("settle", {"id": "debited", "amount": 10}, 409, "id_conflict"),
    ("release", {"id": "refunded"}, 409, "id_conflict"),
    ("extend", {"id": "debited", "amount": 10}, 409, "id_conflict"),
]


@pytest.mark.parametrize(("verb", "fields", "http", "code"), OUTCOMES)
def test_refusal_names_its_code_and_changes_nothing(
    acme: Meter, verb: str, fields: dict[str, Any], http: int, code: str
) -> None:
    acme.balance("acme")
    status, error = acme.refuse(verb, account="acme", **fields)
    assert (status, error["code"]) == (http, code)
    kind = "billing_error" if http == 402 else "invalid_request_error"
    assert error["type"] == kind


def test_what_is_left_to_refund_is_said(acme: Meter) -> None:
    for of, refundable in (("released", 0), ("expired", 0), ("settled", 40), ("debited", 6)):
        _, error = acme.refuse("refund", account="acme", id="x1", of=of, amount=1_000)
        assert error["refundable"] == refundable


def test_settle_that_would_leave_the_range_is_refused(acme: Meter) -> None:
    acme.accept("settle", account="acme", id="running", amount=MAX_AMOUNT)
    status, error = acme.refuse("settle", account="acme", id="streamed", amount=MAX_AMOUNT)
    assert (status, error["code"], error["param"]) == (422, "invalid_request", "amount")


# The order of the table ---------------------------------------------------------------------------


@pytest.fixture
def ladder(guarded: Meter) -> Meter:
    """A suspended account with too little, whose ids `used` and `done` are taken."""
    guarded.ledger.account("acme", 1_000)
    guarded.accept("debit", account="acme", id="used", amount=100)
    guarded.accept("hold", account="acme", id="running", amount=100)
    guarded.accept("hold", account="acme", id="done", amount=100)
    guarded.accept("settle", account="acme", id="done", amount=50)
    guarded.ledger.set_status("acme", "suspended", reason="unpaid")
    return guarded


# Each step breaks one rule more than the one after it, so each must be refused by its own rule.
BODY = b'{"account":"acme","id":"x1","amount":5000}'
LADDER: list[tuple[str, dict[str, Any], int, str]] = [
    ("not_found", {"path": "/v1/hold/", "method": "PUT"}, 404, "not_found"),
    ("method", {"method": "PUT"}, 405, "method_not_allowed"),
    ("key", {"key": "wrong"}, 401, "unauthorized"),
    ("origin", {"origin": True}, 403, "origin_not_allowed"),
    ("size", {"body": b"[" * 65_537, "type": "text/plain"}, 413, "body_too_large"),
    ("type", {"body": b"[", "type": "text/plain"}, 415, "unsupported_media_type"),
    ("json", {"body": b'{"account":5,"id":'}, 400, "invalid_json"),
    ("field", {"body": b'{"account":"none","id":"x 1","amount":5000}'}, 422, "invalid_request"),
    (
        "account",
        {"body": b'{"account":"none","id":"used","amount":5000}'},
        503,
        "store_unavailable",
    ),
    ("conflict", {"body": b'{"account":"acme","id":"used","amount":5000}'}, 409, "id_conflict"),
    ("status", {"body": BODY}, 403, "account_suspended"),
]


def send(meter: Meter, faults: dict[str, Any]) -> httpx.Response:
    headers = {"Content-Type": faults.get("type", "application/json")}
    if "origin" in faults:
        headers["Origin"] = "https://example.com"
    if "key" in faults:
        headers["Authorization"] = f"Bearer {faults['key']}"
    method, path = faults.get("method", "POST"), faults.get("path", "/v1/hold")
    return meter.http.request(method, path, content=faults.get("body", BODY), headers=headers)


@pytest.mark.parametrize("first", range(len(LADDER)))
def test_the_first_rule_that_is_violated_decides(ladder: Meter, first: int) -> None:
    before = ladder.ledger.dump()
    _, _, status, code = LADDER[first]
    for _, others, _, _ in [*LADDER[first + 1 :], LADDER[-1]]:
        response = send(ladder, others | LADDER[first][1])
        assert (response.status_code, error_of(response)["code"]) == (status, code)
    ladder.ledger.assert_unchanged(before)


UNKNOWN = {"model": "none", "images": 1}
PAIRS: list[tuple[str, dict[str, Any], str]] = [
    # field before model, both before the account
    ("hold", {"account": "acme", "id": "x 1", "usage": UNKNOWN}, "invalid_request"),
    ("hold", {"account": "none", "id": "x1", "usage": UNKNOWN}, "unknown_model"),
    ("hold", {"account": "acme", "id": "used", "usage": UNKNOWN}, "unknown_model"),
    # the id before the hold's state, and the refund's target
    ("settle", {"account": "acme", "id": "used", "amount": 1}, "id_conflict"),
    ("refund", {"account": "acme", "id": "used", "of": "never"}, "id_conflict"),
    ("refund", {"account": "acme", "id": "running", "of": "running"}, "id_conflict"),
    # the hold's state before the account's status
    ("extend", {"account": "acme", "id": "never", "amount": 9_000}, "hold_not_found"),
    ("extend", {"account": "acme", "id": "done", "amount": 9_000}, "hold_settled"),
    # a lower total before the account's status
    ("extend", {"account": "acme", "id": "running", "amount": 99}, "invalid_request"),
    # the account's status before what it has
    ("extend", {"account": "acme", "id": "running", "amount": 9_000}, "account_suspended"),
    ("debit", {"account": "acme", "id": "x1", "amount": 9_000}, "account_suspended"),
]  # fmt: skip


@pytest.mark.parametrize(("verb", "fields", "code"), PAIRS)
def test_of_two_violated_rules_the_earlier_decides(
    ladder: Meter, verb: str, fields: dict[str, Any], code: str
) -> None:
    _, error = ladder.refuse(verb, **fields)
    assert error["code"] == code


def test_hold_state_comes_before_what_is_refundable(acme: Meter) -> None:
    _, error = acme.refuse("refund", account="acme", id="x1", of="running", amount=10_000)
    assert error["code"] == "hold_open"


# Bearer tokens ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "header",
    [
        None,
        "",
        "Bearer",
        "Bearer wrong",
        "Bearer correct-horse-battery-stapl",
        "Bearer correct-horse-battery-staple x",
        "Basic correct-horse-battery-staple",
        "correct-horse-battery-staple",
        "Bearer \xff\xfe",
        "Bearer " + "x" * 4_000,
    ],
)
def test_wrong_authorization_is_refused(guarded: Meter, header: str | None) -> None:
    guarded.ledger.account("acme", 1_000)
    before = guarded.ledger.dump()
    with guarded.sidecar.client() as client:
        headers = [] if header is None else [(b"Authorization", header.encode("latin-1"))]
        for method, path in (("POST", "/v1/hold"), ("GET", "/v1/balance"), ("GET", "/v1/gate")):
            response = client.request(method, path, headers=headers)
            assert response.status_code == 401
            assert response.headers["www-authenticate"] == "Bearer"
            error = error_of(response)
            assert (error["code"], error["type"]) == ("unauthorized", "authentication_error")
    guarded.ledger.assert_unchanged(before)


@pytest.mark.parametrize("scheme", ["Bearer", "bearer", "BEARER"])
def test_right_token_is_accepted_whatever_the_case_of_the_scheme(
    guarded: Meter, scheme: str
) -> None:
    guarded.ledger.account("acme", 1_000)
    headers = {"Authorization": f"{scheme} correct-horse-battery-staple"}
    response = guarded.http.post("/v1/hold", json=HOLD, headers=headers)
    assert response.status_code == 200


@pytest.mark.parametrize("path", ["/healthz", "/readyz", "/metrics"])
def test_probes_need_no_token(guarded: Meter, path: str) -> None:
    with guarded.sidecar.client() as client:
        assert client.get(path).status_code == 200


# Paths and methods --------------------------------------------------------------------------------

PATHS = {
    "/v1/hold": "POST",
    "/v1/settle": "POST",
    "/v1/release": "POST",
    "/v1/extend": "POST",
    "/v1/debit": "POST",
    "/v1/refund": "POST",
    "/v1/check": "POST",
    "/v1/batch": "POST",
    "/v1/gate": "GET, POST",
    "/v1/balance": "GET, HEAD",
    "/healthz": "GET, HEAD",
    "/readyz": "GET, HEAD",
    "/metrics": "GET, HEAD",
}


@pytest.mark.parametrize("method", ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"])
@pytest.mark.parametrize("path", PATHS)
def test_other_methods_are_refused_with_those_that_are_allowed(
    meter: Meter, path: str, method: str
) -> None:
    response = meter.http.request(method, path)
    if method in PATHS[path].split(", "):
        assert response.status_code != 405
        return
    assert response.status_code == 405
    assert response.headers["allow"] == PATHS[path]
    if method != "HEAD":
        assert error_of(response)["code"] == "method_not_allowed"


@pytest.mark.parametrize(
    "path",
    ["/", "/v1", "/v1/", "/v1/hold/", "/V1/hold", "/v1//hold", "/v1/hold;x", "/v1/holds",
     "/v1/%00", "/v1/%ff%fe", "/.env", "/v1/hold%2f", "/docs", "/openapi.json", "/v1/stripe"],
)  # fmt: skip
@pytest.mark.parametrize("method", ["GET", "POST", "DELETE"])
def test_unknown_paths_are_not_found(meter: Meter, path: str, method: str) -> None:
    response = meter.http.request(method, path)
    assert response.status_code == 404
    assert error_of(response)["code"] == "not_found"


def test_query_of_a_post_does_not_matter_to_its_path(meter: Meter) -> None:
    meter.ledger.account("acme", 1_000)
    assert meter.http.post("/v1/hold?x=1", json=HOLD).status_code == 200


# Content types and origins ------------------------------------------------------------------------


@pytest.mark.parametrize(
    "kind",
    ["text/plain", "application/x-www-form-urlencoded", "multipart/form-data; boundary=x",
     "application/jsonp", "application/json; charset=latin-1", "application/json; charset=utf-16",
     "text/json", "json", "*/*", "application/xml", "application/json, text/plain"],
)  # fmt: skip
def test_other_content_types_are_refused(meter: Meter, kind: str) -> None:
    meter.ledger.account("acme", 1_000)
    before = meter.ledger.dump()
    response = meter.http.post("/v1/hold", content=BODY, headers={"Content-Type": kind})
    assert response.status_code == 415
    assert error_of(response)["code"] == "unsupported_media_type"
    meter.ledger.assert_unchanged(before)


@pytest.mark.parametrize(
    "kind",
    [None, "application/json", "APPLICATION/JSON", "application/json; charset=utf-8",
     'application/json;charset="UTF-8"', "application/json ;  charset=UTF-8"],
)  # fmt: skip
def test_json_in_utf8_is_accepted_and_so_is_no_content_type(meter: Meter, kind: str | None) -> None:
    meter.ledger.account("acme", 10_000)
    headers = {} if kind is None else {"Content-Type": kind}
    response = meter.http.post("/v1/hold", content=BODY, headers=headers)
    assert response.status_code == 200


@pytest.mark.parametrize("origin", ["https://example.com", "null", "http://127.0.0.1", ""])
@pytest.mark.parametrize(
    ("method", "path"),
    [("POST", "/v1/hold"), ("POST", "/v1/batch"), ("GET", "/v1/balance?account=acme"),
     ("GET", "/metrics"), ("GET", "/healthz"), ("GET", "/readyz")],
)  # fmt: skip
def test_browsers_are_refused(meter: Meter, method: str, path: str, origin: str) -> None:
    meter.ledger.account("acme", 10_000)
    before = meter.ledger.dump()
    headers = {"Origin": origin, "Content-Type": "application/json"}
    content = BODY if method == "POST" else None
    response = meter.http.request(method, path, content=content, headers=headers)
    assert response.status_code == 403
    assert error_of(response)["code"] == "origin_not_allowed"
    assert "access-control-allow-origin" not in response.headers
    meter.ledger.assert_unchanged(before)


# Balance ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("query", "param"),
    [("", "account"), ("?account=", "account"), ("?account=a%20b", "account"),
     ("?account=%ff", "account"), ("?account=" + "x" * 129, "account"), ("?Account=acme", None),
     ("?account=acme&grants=1", "grants"), ("?account=a%00", "account"), ("?acount=acme", None)],
)  # fmt: skip
def test_wrong_query_of_balance_is_refused(meter: Meter, query: str, param: str | None) -> None:
    meter.ledger.account("acme", 1_000)
    response = meter.http.get("/v1/balance" + query)
    assert response.status_code == 422
    error = error_of(response)
    assert error["code"] == "invalid_request"
    assert param is None or error["param"] == param


def test_no_key_is_needed_where_none_is_set(sidecar: Sidecar, meter: Meter) -> None:
    meter.ledger.account("acme", 1_000)
    response = meter.http.post("/v1/hold", json=HOLD, headers={"Authorization": "Bearer whatever"})
    assert response.status_code == 200
