"""What is accepted: the decoder never lets anything through that the contract refuses."""

from __future__ import annotations

import json
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sidecar.domain import MAX_AMOUNT, is_account, is_id
from sidecar.errors import ErrorCode, Refusal
from sidecar.meter.requests import (
    METADATA_BYTES,
    DebitRequest,
    HoldRequest,
    SettleRequest,
    Usage,
    check_metadata,
    convert,
    decode_json,
)

HOLD = msgspec.json.Decoder(HoldRequest)
RIGHT = {"account": "acme", "id": "x1", "amount": 5}

json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


def decode(body: bytes) -> HoldRequest | tuple[ErrorCode, str | None]:
    try:
        return decode_json(HOLD, body)
    except Refusal as refusal:
        return refusal.code, refusal.param


@given(st.binary(max_size=200))
def test_any_bytes_are_decoded_or_refused(body: bytes) -> None:
    found = decode(body)
    if isinstance(found, tuple):
        assert found[0] in (ErrorCode.INVALID_JSON, ErrorCode.INVALID_REQUEST)


@given(name=st.sampled_from(["account", "id", "amount", "ttl_ms", "partial"]), value=json_values)
def test_any_value_of_a_field_is_right_or_refused(name: str, value: Any) -> None:
    found = decode(json.dumps(RIGHT | {name: value}).encode())
    if isinstance(found, tuple):
        # A lone surrogate, NaN and Infinity are no JSON.
        assert found in ((ErrorCode.INVALID_REQUEST, name), (ErrorCode.INVALID_JSON, None))
        return
    assert is_account(found.account)
    assert is_id(found.id)
    assert found.amount is None or (type(found.amount) is int and 1 <= found.amount <= MAX_AMOUNT)
    assert found.ttl_ms is None or (type(found.ttl_ms) is int and found.ttl_ms >= 1_000)
    assert found.partial is None or type(found.partial) is bool
    assert getattr(found, name) == value


@given(st.dictionaries(st.text(), json_values, max_size=4))
def test_converted_objects_are_as_strictly_read_as_text(fields: dict[str, Any]) -> None:
    value = RIGHT | fields
    try:
        read: Any = convert(value, HoldRequest)
    except Refusal as refusal:
        read = (refusal.code, refusal.param)
    decoded = decode(json.dumps(value).encode())
    if decoded != (ErrorCode.INVALID_JSON, None):
        assert decoded == read


@given(st.integers(-(2**70), 2**70))
def test_amounts_are_within_their_bounds(amount: int) -> None:
    found = decode(json.dumps(RIGHT | {"amount": amount}).encode())
    assert isinstance(found, HoldRequest) == (1 <= amount <= MAX_AMOUNT)


def test_settle_takes_zero_and_no_other_does() -> None:
    assert convert(RIGHT | {"amount": 0}, SettleRequest).amount == 0
    with pytest.raises(Refusal):
        convert(RIGHT | {"amount": 0}, DebitRequest)


def test_most_of_output_stands_for_output() -> None:
    usage = Usage("m", input_tokens=1, max_output_tokens=2, images=0)
    assert usage.counts() == {"input_tokens": 1, "output_tokens": 2, "images": 0}
    assert Usage("m").counts() == {}


@pytest.mark.parametrize(("size", "is_fine"), [(METADATA_BYTES, True), (METADATA_BYTES + 1, False)])
def test_metadata_is_measured_in_bytes(size: int, is_fine: bool) -> None:
    metadata = {"é": "x" * (size - 2)}
    if is_fine:
        check_metadata(metadata)
    else:
        with pytest.raises(Refusal, match="at most 2048 bytes"):
            check_metadata(metadata)


@pytest.mark.parametrize(
    ("body", "code", "param"),
    [
        (b"{}", ErrorCode.INVALID_REQUEST, "account"),
        (b'{"account":5,', ErrorCode.INVALID_JSON, None),
        (b'{"account":5,"x":"\xff"}', ErrorCode.INVALID_JSON, None),
        (b'{"usage":{"model":"m","images":1.5}}', ErrorCode.INVALID_REQUEST, "usage.images"),
        (b'{"usage":{"models":"m"}}', ErrorCode.INVALID_REQUEST, "usage.models"),
        (b'{"scopes":{"user":"a b"}}', ErrorCode.INVALID_REQUEST, "scopes.user"),
        (b'{"metadata":{"a":5}}', ErrorCode.INVALID_REQUEST, "metadata"),
        (rb'{"metadata":{"\u0000":"a"}}', ErrorCode.INVALID_REQUEST, "metadata"),
        (b'{"amount":1e999}', ErrorCode.INVALID_REQUEST, "amount"),
        (b'{"amount":' + b"9" * 5_000 + b"}", ErrorCode.INVALID_REQUEST, "amount"),
    ],
)
def test_refusal_names_the_field(body: bytes, code: ErrorCode, param: str | None) -> None:
    assert decode(body) == (code, param)


@pytest.mark.parametrize("earlier", [b'"x"', b"1.5", b"null", b"-1", b"[1]", b"1e999", b"7"])
def test_last_of_duplicate_keys_counts(earlier: bytes) -> None:
    found = decode(b'{"account":"acme","id":"x1","amount":%s,"amount":5}' % earlier)
    assert found == HoldRequest("acme", "x1", 5)
