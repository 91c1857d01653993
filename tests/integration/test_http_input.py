"""Bodies that are wrong: each gets its status, changes nothing, and the server goes on."""

from __future__ import annotations

import json
from typing import Any

import httpx
import pytest

from sidecar.domain import MAX_AMOUNT
from tests.integration.meter_server import Meter, error_of

MINI = "openai/gpt-4o-mini"
LIMIT = 65_536


@pytest.fixture
def acme(meter: Meter) -> Meter:
    """A sidecar with an account that has a running hold and a charge."""
    meter.ledger.account("acme", 1_000_000)
    meter.accept("hold", account="acme", id="running", amount=500)
    meter.accept("debit", account="acme", id="charge", amount=500)
    return meter


def post(meter: Meter, verb: str, body: bytes) -> httpx.Response:
    headers = {"Content-Type": "application/json"}
    return meter.http.post(f"/v1/{verb}", content=body, headers=headers)


def refused(meter: Meter, verb: str, body: bytes) -> tuple[int, dict[str, Any]]:
    before = meter.ledger.dump()
    response = post(meter, verb, body)
    error = error_of(response)
    meter.ledger.assert_unchanged(before)
    assert post(meter, "check", b'{"account":"acme","amount":1}').json()["allowed"] is True
    return response.status_code, error


# Fields -------------------------------------------------------------------------------------------

RIGHT: dict[str, dict[str, Any]] = {
    "hold": {"account": "acme", "id": "x1", "amount": 5},
    "settle": {"account": "acme", "id": "running", "amount": 5},
    "release": {"account": "acme", "id": "running"},
    "extend": {"account": "acme", "id": "running", "amount": 600},
    "debit": {"account": "acme", "id": "x1", "amount": 5},
    "refund": {"account": "acme", "id": "x1", "of": "charge", "amount": 5},
    "check": {"account": "acme", "amount": 5},
}
NOT_TEXT: list[Any] = [5, 1.5, True, [], {}, ["acme"]]
NOT_NUMBERS: list[Any] = ["5", "", 5.0, 1.5, 1e3, True, False, [5], {"amount": 5}]
NOT_AMOUNTS: list[Any] = [-1, -MAX_AMOUNT, MAX_AMOUNT + 1, 2**63, 2**64, 2**200, 10**3_000]
NOT_TTLS: list[Any] = [0, -1, 999, 86_400_001, MAX_AMOUNT, 5_000.0, "5000", True]
NOT_IDS: list[Any] = [
    "", " ", "a b", "x" * 129, "\x00", "a\n", "\n", "a\t", "\x7f", "é", "日本", "\u200b",
    "\U0001f600",
]  # fmt: skip
NOT_ACCOUNTS: list[Any] = [*NOT_IDS, "a/b", "a,b", "a{b}", "*", "a\\b", "a%20b", "a'b"]
NOT_SCOPES: list[Any] = [
    "u", [], {"users": "u"}, {"user": 5}, {"user": ""}, {"user": "a b"}, {"key": "x" * 129},
]  # fmt: skip
NOT_METADATA: list[Any] = [
    "a", [], ["a"], {"a": 5}, {"a": True}, {"a": None}, {"a": {}}, {"a": ["b"]}, {"a": "\x00"},
    {"a": "\x1b"}, {"\x00": "a"}, {"a": "x" * 2_048}, {"é" * 1_024: "x"},
    {str(n): "x" for n in range(17)},
]  # fmt: skip
NOT_USAGES: list[Any] = [
    "m", 5, [], {}, {"model": 5}, {"model": ""}, {"model": "a b"}, {"model": "x" * 257},
    {"input_tokens": 5}, {"model": MINI}, {"model": MINI, "input_tokens": -1},
    {"model": MINI, "input_tokens": 1.0}, {"model": MINI, "input_tokens": True},
    {"model": MINI, "input_tokens": "1"}, {"model": MINI, "input_tokens": MAX_AMOUNT + 1},
    {"model": MINI, "tokens": 1}, {"model": MINI, "input_tokens": None},
    {"model": MINI, "images": 1}, {"model": MINI, "output_tokens": 1, "max_output_tokens": 1},
    {"model": "openai/gpt-4o", "output_tokens": MAX_AMOUNT},
]  # fmt: skip

WRONG: list[tuple[str, str, Any]] = [
    *(
        (verb, "account", value)
        for verb in RIGHT
        for value in [*NOT_TEXT, *(NOT_ACCOUNTS if verb == "hold" else ["", "a b"])]
    ),
    *(
        (verb, "id", value)
        for verb in RIGHT.keys() - {"check"}
        for value in [*NOT_TEXT, *(NOT_IDS if verb == "hold" else ["", "a b"])]
    ),
    *(
        (verb, "amount", value)
        for verb in RIGHT.keys() - {"release"}
        for value in [*NOT_NUMBERS, *NOT_AMOUNTS]
    ),
    *((verb, "amount", 0) for verb in RIGHT.keys() - {"release", "settle"}),
    *(("refund", "of", value) for value in [*NOT_TEXT, *NOT_IDS]),
    *((verb, "ttl_ms", value) for verb in ("hold", "extend") for value in NOT_TTLS),
    *((verb, "scopes", value) for verb in ("hold", "debit", "check") for value in NOT_SCOPES),
    *((verb, "metadata", value) for verb in ("hold", "settle", "debit") for value in NOT_METADATA),
    *(("hold", "partial", value) for value in [0, 1, "true", [], {}]),
    *(("settle", "final", value) for value in [0, 1, "true", [], {}]),
    *((verb, "reason", value) for verb in ("release", "refund") for value in [5, "\0", "x" * 501]),
    *((verb, "usage", value) for verb in ("hold", "debit", "settle") for value in NOT_USAGES),
    *((verb, "extra", value) for verb in RIGHT for value in [5, None]),
    ("settle", "ttl_ms", 5_000),
    ("debit", "partial", True),
    ("release", "amount", 5),
    ("hold", "final", True),
    ("hold", "Amount", 5),
]  # fmt: skip


@pytest.mark.parametrize("verb", RIGHT)
def test_wrong_field_is_named_and_changes_nothing(acme: Meter, verb: str) -> None:
    before = acme.ledger.dump()
    for _, name, value in [row for row in WRONG if row[0] == verb]:
        fields = RIGHT[verb] | {name: value}
        if name == "usage":
            del fields["amount"]
        response = post(acme, verb, json.dumps(fields).encode())
        assert response.status_code == 422, (name, value, response.text)
        error = error_of(response)
        assert error["code"] == "invalid_request"
        assert error["type"] == "invalid_request_error"
        assert (error["param"] or "").split(".")[0] == name, (name, value, error)
    acme.ledger.assert_unchanged(before)
    acme.accept(verb, **RIGHT[verb])


@pytest.mark.parametrize("verb", RIGHT)
def test_missing_field_is_named(acme: Meter, verb: str) -> None:
    optional = {"amount"} if verb in ("extend", "refund") else set()
    for name in RIGHT[verb].keys() - optional:
        for fields in (
            {key: value for key, value in RIGHT[verb].items() if key != name},
            RIGHT[verb] | {name: None},
        ):
            status, error = refused(acme, verb, json.dumps(fields).encode())
            assert (status, error["code"], error["param"]) == (422, "invalid_request", name)


@pytest.mark.parametrize("verb", ["hold", "settle", "debit", "check"])
def test_amount_and_usage_are_never_given_both(acme: Meter, verb: str) -> None:
    fields = RIGHT[verb] | {"usage": {"model": MINI, "input_tokens": 1}}
    status, error = refused(acme, verb, json.dumps(fields).encode())
    assert (status, error["code"], error["param"]) == (422, "invalid_request", "usage")


@pytest.mark.parametrize("verb", ["settle", "debit"])
def test_what_was_used_has_no_max_output_tokens(acme: Meter, verb: str) -> None:
    usage = {"model": MINI, "max_output_tokens": 1}
    fields = {"account": "acme", "id": "running", "usage": usage}
    status, error = refused(acme, verb, json.dumps(fields).encode())
    assert (status, error["code"]) == (422, "invalid_request")
    assert error["param"] == "usage.max_output_tokens"


def test_extend_wants_an_amount_or_a_time(acme: Meter) -> None:
    status, error = refused(acme, "extend", b'{"account":"acme","id":"running"}')
    assert (status, error["code"]) == (422, "invalid_request")


@pytest.mark.parametrize("verb", ["hold", "settle", "debit", "check"])
def test_unknown_model_is_refused(acme: Meter, verb: str) -> None:
    fields = RIGHT[verb] | {"amount": None, "usage": {"model": "nobody/nothing", "images": 1}}
    status, error = refused(acme, verb, json.dumps(fields).encode())
    assert (status, error["code"], error["param"]) == (422, "unknown_model", "usage.model")


def test_longest_of_everything_is_accepted(acme: Meter) -> None:
    name = "x" * 128
    metadata = {f"{n:02d}": "x" * 126 for n in range(16)}
    assert sum(len(key) + len(value) for key, value in metadata.items()) == 2_048
    scopes = {"key": name, "user": "!" + "~" * 127, "session": name}
    for verb in ("hold", "debit"):
        id = f"{verb}-{name}"[:128]
        acme.accept(verb, account="acme", id=id, amount=1, scopes=scopes, metadata=metadata)
    (event,) = [event for event in acme.ledger.events("acme") if event["id"].startswith("debit-")]
    assert event["detail"] == {"scopes": scopes, "metadata": metadata}


@pytest.mark.parametrize("text", ["\t", "line\nline\r\n", "日本語", "\U0001f600", "\x85\u2028", ""])
def test_metadata_keeps_any_text_as_it_is(acme: Meter, text: str) -> None:
    acme.accept("debit", account="acme", id="x1", amount=1, metadata={"note": text})
    assert acme.ledger.events("acme")[-1]["detail"]["metadata"] == {"note": text}


# Texts that are not JSON --------------------------------------------------------------------------

HOLD = b'{"account":"acme","id":"x1","amount":%s}'
NOT_JSON = [
    b"", b" ", b"{", b"}", b"null x", b'{"account":"acme"', HOLD % b"5" + b"x", HOLD % b"5" * 2,
    HOLD % b"5,", HOLD % b"NaN", HOLD % b"Infinity", HOLD % b"-Infinity", HOLD % b"01",
    HOLD % b"+1", HOLD % b"1.", HOLD % b".5", HOLD % b"0x10", HOLD % b"1_000", HOLD % b"",
    HOLD % b"'5'", HOLD % b"True", HOLD % b"undefined", b"{account:1}", b"// x\n" + HOLD % b"5",
    b"\xef\xbb\xbf" + HOLD % b"5",
    (HOLD % b"5").decode().encode("utf-16"), (HOLD % b"5").decode().encode("utf-32"),
    b'{"account":"acme","id":"\xff","amount":5}', b'{"account":"acme","id":"\xc3\x28","amount":5}',
    b'{"account":"acme","id":"x1","amount":5,"metadata":{"a":"\xed\xa0\x80"}}',
    b'{"account":"acme","id":"x1","amount":5,"metadata":{"\xff":"a"}}',
    rb'{"account":"acme","id":"\ud800","amount":5}',
    rb'{"account":"acme","id":"x1","amount":5,"metadata":{"a":"\udc00"}}',
    rb'{"account":"acme","id":"x1","amount":5,"metadata":{"a":"\ud800x"}}',
    rb'{"account":"acme","id":"x1","amount":5,"metadata":{"a":"\x41"}}',
    b'{"account":"acme","id":"x1","amount":5,"metadata":{"a":"\x00"}}',
    b'{"account":"acme","id":"x1","amount":5,"metadata":{"a":"line\nline"}}',
    b"\x00" * 10, b"\x1f\x8b\x08\x00", b"account=acme&id=x1&amount=5",
    b"[" * 30_000, b'{"a":' * 10_000, b"[" * 30_000 + b"]" * 30_000,
    HOLD % (b"[" * 30_000 + b"]" * 30_000), HOLD % (b'{"a":' * 10_000 + b"1" + b"}" * 10_000),
]  # fmt: skip


@pytest.mark.parametrize("verb", ["hold", "settle", "debit", "batch"])
def test_body_that_is_not_json_is_refused(acme: Meter, verb: str) -> None:
    for body in NOT_JSON:
        status, error = refused(acme, verb, body)
        assert (status, error["code"], error["param"]) == (400, "invalid_json", None), body[:80]


@pytest.mark.parametrize("body", [b"null", b"[]", b"5", b'"x"', b"true", b"[{}]", b"1e400"])
def test_json_that_is_not_an_object_is_refused(acme: Meter, body: bytes) -> None:
    for verb in ("hold", "batch"):
        status, error = refused(acme, verb, body)
        assert (status, error["code"]) == (422, "invalid_request")


@pytest.mark.parametrize("number", [b"1e400", b"-1e400", b"1" * 5_000, b"-" + b"9" * 400, b"1E2"])
def test_number_beyond_all_bounds_is_a_wrong_field(acme: Meter, number: bytes) -> None:
    status, error = refused(acme, "hold", HOLD % number)
    assert (status, error["code"], error["param"]) == (422, "invalid_request", "amount")


def test_broken_json_after_a_wrong_field_is_broken_json(acme: Meter) -> None:
    status, error = refused(acme, "hold", b'{"account":5,"id":')
    assert (status, error["code"]) == (400, "invalid_json")


@pytest.mark.parametrize(
    "fields",
    [b'"amount":7,"amount":5', b'"amount":"x","amount":5', b'"amount":null,"amount":5',
     b'"usage":5,"usage":null,"amount":5', b'"amount":1.5,"amount":-1,"amount":5'],
)  # fmt: skip
def test_of_duplicate_keys_the_last_counts(acme: Meter, fields: bytes) -> None:
    response = post(acme, "hold", b'{"account":"acme","id":"x1",%s}' % fields)
    assert response.status_code == 200
    assert response.json()["amount"] == 5


def test_wrong_last_one_of_duplicate_keys_is_refused(acme: Meter) -> None:
    status, error = refused(acme, "hold", HOLD % b'5,"amount":"x"')
    assert (status, error["param"]) == (422, "amount")
    status, error = refused(acme, "hold", HOLD % b'5,"amount":null')
    assert (status, error["param"]) == (422, "amount")


def test_null_means_absent(acme: Meter) -> None:
    nothing = dict.fromkeys(("usage", "ttl_ms", "scopes", "metadata", "partial"))
    acme.accept("hold", account="acme", id="x1", amount=5, **nothing)
    usage = {"model": MINI, "input_tokens": 1, "output_tokens": None, "images": None}
    acme.accept("debit", account="acme", id="x2", amount=None, usage=usage, scopes={"user": None})
    acme.accept("settle", account="acme", id="x1", amount=5, final=None, metadata=None, usage=None)
    acme.accept("refund", account="acme", id="x3", of="x1", amount=None, reason=None)
    assert acme.ledger.events("acme")[1]["detail"]["usage"] == {"input_tokens": 1}


def test_escapes_and_white_space_do_not_matter(acme: Meter) -> None:
    body = b' \r\n\t{ "\\u0061ccount" : "ac\\u006de" ,\n"id":"x1", "amount": 5 } \n'
    assert post(acme, "hold", body).json()["amount"] == 5
    again = post(acme, "hold", HOLD % b"5")
    assert again.json()["replayed"] is True


# Size ---------------------------------------------------------------------------------------------


def padded(size: int) -> bytes:
    body = HOLD % b"5"
    return body + b" " * (size - len(body))


def test_body_of_64_kib_is_accepted(acme: Meter) -> None:
    assert post(acme, "hold", padded(LIMIT)).status_code == 200


def test_chunked_body_of_64_kib_is_accepted(acme: Meter) -> None:
    body = padded(LIMIT)
    response = acme.http.post("/v1/hold", content=iter([body[:100], body[100:], b""]))
    assert response.status_code == 200


@pytest.mark.parametrize("size", [LIMIT + 1, 1_000_000])
def test_larger_body_is_refused(acme: Meter, size: int) -> None:
    for verb in ("hold", "batch", "settle"):
        status, error = refused(acme, verb, padded(size))
        assert (status, error["code"]) == (413, "body_too_large")


@pytest.mark.parametrize("size", [LIMIT + 1, 1_000_000])
def test_larger_chunked_body_is_refused(acme: Meter, size: int) -> None:
    before = acme.ledger.dump()
    body = padded(size)
    chunks = [body[at : at + 10_000] for at in range(0, len(body), 10_000)]
    response = acme.http.post("/v1/hold", content=iter(chunks))
    assert response.status_code == 413
    assert error_of(response)["code"] == "body_too_large"
    acme.ledger.assert_unchanged(before)
