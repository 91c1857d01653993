"""Events: read strictly, merged with their context, and given ids that repeat when they must."""

from __future__ import annotations

import uuid
from typing import Any

import msgspec
import pytest

from persistence.errors import BadEvent
from persistence.events import Event, decode_event, details_of, event_id
from persistence.usage_copy import UsageRow, encode_rows
from sidecar.domain import MAX_AMOUNT

DAY_MS = 86_400_000
AT_MS = 1_800_000_000_000


def packed(**changes: Any) -> bytes:
    event: dict[str, Any] = {
        "version": 1,
        "account": "acme",
        "generation": 1,
        "seq": 1,
        "operation": "debit",
        "id": "call-1",
        "at_ms": AT_MS,
        "amount": 10,
        "total": 10,
        "flags": 0,
        "allocations": [1, 10],
        "context": "",
        "detail": "",
    }
    assert changes.keys() <= event.keys()
    return msgspec.msgpack.encode(list((event | changes).values()))


def event(**changes: Any) -> Event:
    return decode_event(packed(**changes))


def uuid7(at_ms: int, low: int = 5) -> str:
    return str(uuid.UUID(int=(at_ms << 80) | (7 << 76) | (2 << 62) | low))


def id_of(**changes: Any) -> uuid.UUID:
    return uuid.UUID(bytes=event_id(event(**changes)))


def test_an_event_is_read_field_by_field() -> None:
    read = event(flags=5, context="{}", detail='{"of":"x"}')
    assert (read.account, read.generation, read.seq, read.amount) == ("acme", 1, 1, 10)
    assert (read.flags, read.context, read.detail) == (5, "{}", '{"of":"x"}')


@pytest.mark.parametrize(
    "changes",
    [
        {"version": 2},
        {"account": "not an account"},
        {"account": b"\xff"},
        {"generation": 0},
        {"generation": 2**31},
        {"seq": 0},
        {"seq": 1.0},
        {"seq": MAX_AMOUNT + 1},
        {"operation": "charge"},
        {"id": "with space"},
        {"id": ""},
        {"at_ms": -1},
        {"at_ms": 2**48},
        {"amount": 11},
        {"amount": 10.0},
        {"amount": -10, "allocations": [1, -10]},
        {"operation": "refund"},
        {"operation": "expire", "amount": -10, "allocations": [1, -10]},
        {"operation": "cover", "amount": -10, "allocations": [1, -10]},
        {"amount": MAX_AMOUNT + 1, "allocations": [1, MAX_AMOUNT + 1]},
        {"amount": 0, "allocations": [1, 2**60, 2, -(2**60)]},
        {"allocations": [1]},
        {"allocations": [1, 9]},
        {"allocations": [-1, 10]},
        {"total": 2**60},
        {"context": None},
    ],
)
def test_what_the_scripts_never_write_is_refused(changes: dict[str, Any]) -> None:
    with pytest.raises(BadEvent):
        decode_event(packed(**changes))


@pytest.mark.parametrize("raw", [b"", b"\xc1", msgspec.msgpack.encode({}), packed()[:-3]])
def test_bytes_that_are_no_event_are_refused(raw: bytes) -> None:
    with pytest.raises(BadEvent):
        decode_event(raw)


@pytest.mark.parametrize("amount", [1, MAX_AMOUNT])
def test_the_bounds_of_an_amount_are_taken(amount: int) -> None:
    assert event(amount=amount, total=amount, allocations=[1, amount]).amount == amount
    refund = event(operation="refund", amount=-amount, allocations=[1, -amount])
    assert refund.amount == -amount


def test_detail_wins_over_context_and_metadata_are_merged() -> None:
    context = '{"model":"a","price_version":"1","scopes":{"user":"u"},"metadata":{"x":"1","y":"1"}}'
    detail = '{"price_version":2,"usage":{"requests":1},"metadata":{"y":"2"},"reason":null}'
    details = details_of(event(context=context, detail=detail))
    assert (details.model, details.price_version, details.reason) == ("a", 2, None)
    assert bytes(details.usage) == b'{"requests":1}'
    assert bytes(details.scopes) == b'{"user":"u"}'
    assert msgspec.json.decode(details.metadata) == {"x": "1", "y": "2"}


@pytest.mark.parametrize("text", ["{", "[]", '{"model":1}', "null"])
def test_context_that_is_no_object_of_the_right_shape_is_refused(text: str) -> None:
    with pytest.raises(BadEvent):
        details_of(event(context=text))


def test_an_id_of_an_event_is_a_uuid7_of_its_time() -> None:
    made = id_of()
    assert (made.version, made.variant) == (7, uuid.RFC_4122)
    assert made.int >> 80 == AT_MS


def test_ids_are_made_of_the_place_in_the_generation() -> None:
    places: list[dict[str, Any]] = [{}, {"seq": 2}, {"generation": 2}, {"account": "other"}]
    assert len({id_of(**place) for place in places}) == len(places)
    assert id_of() == id_of(allocations=[0, 10], detail='{"of":"x"}', flags=4)


def test_two_events_of_one_place_are_two_when_they_say_different_things() -> None:
    settle: dict[str, Any] = {"operation": "settle"}
    others: list[dict[str, Any]] = [
        {},
        {"id": "another"},
        {"amount": 3, "allocations": [1, 3]},
        {"at_ms": AT_MS + 1},
        settle,
    ]
    assert len({id_of(**other) for other in others}) == len(others)


def test_a_uuid7_of_the_caller_is_the_same_event_in_another_generation() -> None:
    id = uuid7(AT_MS - 5000)
    assert id_of(id=id) == id_of(id=id, generation=2, seq=77, at_ms=AT_MS + 9000)
    assert id_of(id=id).int >> 80 == AT_MS - 5000


def test_one_id_means_different_events_in_other_accounts_and_operations() -> None:
    id = uuid7(AT_MS)
    refund: dict[str, Any] = {"operation": "refund", "amount": -1, "allocations": [1, -1]}
    assert len({id_of(id=id), id_of(id=id, account="b"), id_of(id=id, **refund)}) == 3


def test_each_step_of_a_settle_has_its_own_id() -> None:
    steps: list[dict[str, Any]] = [
        {"total": 10, "flags": 0},
        {"total": 20, "flags": 0},
        {"total": 20, "flags": 4},
    ]
    id = uuid7(AT_MS)
    assert len({id_of(id=id, operation="settle", **step) for step in steps}) == 3
    idle = {"amount": 0, "allocations": [], "total": 20, "flags": 0}
    assert id_of(id=id, operation="settle", seq=8, **idle) != id_of(
        id=id, operation="settle", seq=9, **idle
    )
    late = id_of(id=id, operation="settle", total=20, flags=5)
    assert late == id_of(id=id, operation="settle", total=20, flags=4)


@pytest.mark.parametrize(
    ("at_ms", "is_used"),
    [
        (AT_MS - 7 * DAY_MS, True),
        (AT_MS - 7 * DAY_MS - 1, False),
        (AT_MS + DAY_MS, True),
        (AT_MS + DAY_MS + 1, False),
    ],
)
def test_a_uuid7_far_from_the_events_time_is_only_a_name(at_ms: int, is_used: bool) -> None:
    assert (id_of(id=uuid7(at_ms)).int >> 80 == at_ms) is is_used


@pytest.mark.parametrize(
    "id",
    [
        str(uuid.UUID(int=(AT_MS << 80) | (4 << 76) | (2 << 62))),
        uuid7(AT_MS).replace("-", ""),
        uuid7(AT_MS).replace("-", "_"),
        "zzzzzzzz" + uuid7(AT_MS)[8:],
        uuid7(AT_MS)[:19] + "0" + uuid7(AT_MS)[20:],
    ],
)
def test_what_is_not_quite_a_uuid7_is_only_a_name(id: str) -> None:
    assert id_of(id=id, seq=1) != id_of(id=id, seq=2)


def test_events_that_are_not_usage_have_ids_of_their_place() -> None:
    id = uuid7(AT_MS)
    first, second = (id_of(operation="take", id=id, seq=seq) for seq in (1, 2))
    assert first != second


def test_a_copy_has_a_header_its_rows_and_a_trailer() -> None:
    read = event()
    row = UsageRow(event_id(read), read, details_of(read))
    one, two = encode_rows([row], 1, 2), encode_rows([row, row], 1, 2)
    assert one.startswith(b"PGCOPY\n\xff\r\n\0")
    assert one.endswith(b"\xff\xff")
    assert len(two) - len(one) == len(one) - len(encode_rows([], 1, 2))
