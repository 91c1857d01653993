"""`/v1/gate`: a hold made from headers, for proxies."""

from __future__ import annotations

import httpx
import pytest

from tests.integration.meter_server import API_KEY, Meter, error_of

Pairs = list[tuple[str, str]]

ACCOUNT = ("X-Credit-Account", "acme")
ID = ("X-Credit-Id", "h1")
AMOUNT = ("X-Credit-Amount", "300")
MODEL = ("X-Credit-Model", "openai/gpt-4o-mini")
TOKENS = ("X-Credit-Max-Tokens", "1000")
DENY = ("X-Credit-Deny-Status", "403")
RIGHT = [ACCOUNT, ID, AMOUNT]


@pytest.fixture
def acme(meter: Meter) -> Meter:
    meter.ledger.account("acme", 1_000)
    return meter


def ask(meter: Meter, pairs: Pairs, method: str = "GET", body: bytes = b"") -> httpx.Response:
    return meter.http.request(method, "/v1/gate", headers=pairs, content=body)


def denied(meter: Meter, pairs: Pairs) -> tuple[int, str, str | None]:
    before = meter.ledger.dump()
    response = ask(meter, pairs)
    error = error_of(response)
    assert response.headers["x-credit-error"] == error["code"]
    assert "x-credit-hold" not in response.headers
    meter.ledger.assert_unchanged(before)
    return response.status_code, error["code"], error["param"]


@pytest.mark.parametrize("method", ["GET", "POST"])
def test_gate_makes_a_hold(acme: Meter, method: str) -> None:
    response = ask(acme, RIGHT, method)
    assert response.status_code == 200
    assert response.headers["x-credit-hold"] == "h1"
    assert acme.balance("acme")["held"] == 300
    assert acme.accept("hold", account="acme", id="h1", amount=300)["replayed"] is True
    assert acme.accept("settle", account="acme", id="h1", amount=100)["available"] == 900


def test_gate_again_is_a_replay(acme: Meter) -> None:
    first, again = ask(acme, RIGHT), ask(acme, RIGHT)
    assert again.headers["x-credit-hold"] == first.headers["x-credit-hold"]
    assert acme.balance("acme")["held"] == 300


def test_gate_prices_a_model_by_the_most_it_may_write(acme: Meter) -> None:
    assert ask(acme, [ACCOUNT, ID, MODEL, TOKENS]).status_code == 200
    assert acme.balance("acme")["held"] == 600


@pytest.mark.parametrize(
    "extra",
    [("Origin", "https://example.com"), ("Content-Type", "text/plain"), ("Cookie", "a=b"),
     ("X-Forwarded-For", "1.2.3.4"), ("X-Credit-Other", "x"), ("Accept", "text/html")],
)  # fmt: skip
def test_headers_of_the_caller_do_not_matter(acme: Meter, extra: tuple[str, str]) -> None:
    assert ask(acme, [*RIGHT, extra]).status_code == 200


@pytest.mark.parametrize("size", [10, 100_000, 5_000_000])
def test_body_is_not_read(acme: Meter, size: int) -> None:
    assert ask(acme, RIGHT, "POST", b"\xff" * size).status_code == 200
    assert acme.available("acme") == 700


WRONG: list[tuple[Pairs, str | None]] = [
    ([], "X-Credit-Account"),
    ([ID, AMOUNT], "X-Credit-Account"),
    ([ACCOUNT, AMOUNT], "X-Credit-Id"),
    ([ACCOUNT, ID], "X-Credit-Amount"),
    ([ACCOUNT, ID, MODEL], "X-Credit-Model"),
    ([ACCOUNT, ID, TOKENS], "X-Credit-Model"),
    ([ACCOUNT, ID, AMOUNT, MODEL, TOKENS], "X-Credit-Model"),
    ([("X-Credit-Account", ""), ID, AMOUNT], "X-Credit-Account"),
    ([("X-Credit-Account", "a b"), ID, AMOUNT], "X-Credit-Account"),
    ([ACCOUNT, ("X-Credit-Id", "a b"), AMOUNT], "X-Credit-Id"),
    ([ACCOUNT, ("X-Credit-Id", "x" * 129), AMOUNT], "X-Credit-Id"),
    *(
        ([ACCOUNT, ID, ("X-Credit-Amount", text)], "X-Credit-Amount")
        for text in ("", "0", "-1", "+1", "01", "1.0", "1e3", "1_000", "0x10", "NaN", "1,000",
                     "9007199254740992", "9" * 400, "\u0661".encode().decode("latin-1"))
    ),
    *(
        ([ACCOUNT, ID, MODEL, ("X-Credit-Max-Tokens", text)], "X-Credit-Max-Tokens")
        for text in ("", "-1", "1.5", "many", "9007199254740992")
    ),
    ([ACCOUNT, ACCOUNT, ID, AMOUNT], "X-Credit-Account"),
    ([ACCOUNT, ID, ("X-Credit-Id", "h2"), AMOUNT], "X-Credit-Id"),
    ([ACCOUNT, ID, AMOUNT, ("x-credit-amount", "1")], "X-Credit-Amount"),
    ([*RIGHT, DENY, DENY], "X-Credit-Deny-Status"),
    *(
        ([*RIGHT, ("X-Credit-Deny-Status", text)], "X-Credit-Deny-Status")
        for text in ("", "200", "302", "399", "600", "x", "403.0", "-403")
    ),
]  # fmt: skip


@pytest.mark.parametrize(("pairs", "param"), WRONG)
def test_wrong_header_is_named(acme: Meter, pairs: Pairs, param: str | None) -> None:
    encoded = [(name, value.encode("latin-1")) for name, value in pairs]
    before = acme.ledger.dump()
    response = acme.http.get("/v1/gate", headers=[(n.encode(), v) for n, v in encoded])
    assert response.status_code == 422
    error = error_of(response)
    assert (error["code"], error["param"]) == ("invalid_request", param)
    acme.ledger.assert_unchanged(before)


def test_refusals_have_their_own_status(acme: Meter) -> None:
    unknown = ("X-Credit-Model", "none")
    poor = [ACCOUNT, ID, ("X-Credit-Amount", "1001")]
    assert denied(acme, poor)[:2] == (402, "insufficient_credits")
    assert denied(acme, [ACCOUNT, ID, unknown, TOKENS])[:2] == (422, "unknown_model")
    stranger = ("X-Credit-Account", "nobody")
    assert denied(acme, [stranger, ID, AMOUNT])[:2] == (503, "store_unavailable")
    ask(acme, RIGHT)
    assert denied(acme, [ACCOUNT, ID, ("X-Credit-Amount", "1")])[:2] == (409, "id_conflict")
    acme.ledger.set_status("acme", "suspended", reason="unpaid")
    assert denied(acme, [ACCOUNT, ("X-Credit-Id", "h2"), AMOUNT])[:2] == (403, "account_suspended")


@pytest.mark.parametrize("status", [400, 403, 429, 500, 599])
def test_refusals_have_the_fixed_status_that_the_proxy_asks_for(acme: Meter, status: int) -> None:
    deny = ("X-Credit-Deny-Status", str(status))
    poor = ("X-Credit-Amount", "1001")
    assert denied(acme, [ACCOUNT, ID, poor, deny])[:2] == (status, "insufficient_credits")
    assert denied(acme, [ACCOUNT, ID, deny])[:2] == (status, "invalid_request")
    assert ask(acme, [*RIGHT, deny]).status_code == 200


def test_gate_needs_the_key_too(guarded: Meter) -> None:
    guarded.ledger.account("acme", 1_000)
    assert ask(guarded, RIGHT).status_code == 200
    response = ask(guarded, [*RIGHT, ("Authorization", f"Bearer {API_KEY}x")])
    assert response.status_code == 401
