"""HTTP itself, over raw sockets: half requests, stalled clients, pipelining, odd headers."""

from __future__ import annotations

import re
import socket
from collections.abc import Iterator
from contextlib import closing

import pytest

from tests.integration.meter_server import DEADLINE_SECONDS, Meter

BODY = b'{"account":"acme","id":"%s","amount":5}'
ANSWER = re.compile(
    rb"HTTP/1\.1 (\d{3}) [^\r]*\r\n((?:[^\r]+\r\n)*)\r\n",
)


class Wire:
    """One connection, on which a test writes what it likes."""

    def __init__(self, address: str) -> None:
        host, _, port = address.rpartition(":")
        self._socket = socket.create_connection((host, int(port)), timeout=DEADLINE_SECONDS)
        self._read = b""

    def send(self, data: bytes) -> None:
        self._socket.sendall(data)

    def finish(self) -> None:
        """Say that no more will be sent."""
        self._socket.shutdown(socket.SHUT_WR)

    def close(self) -> None:
        self._socket.close()

    def answer(self, *, has_body: bool = True) -> tuple[int, dict[str, str], bytes]:
        """Return the next answer: its status, headers and body."""
        while not (match := ANSWER.match(self._read)):
            self._receive()
        self._read = self._read[match.end() :]
        lines = match.group(2).decode("latin-1").splitlines()
        headers = {
            name.lower(): value for name, _, value in (line.partition(": ") for line in lines)
        }
        length = int(headers.get("content-length", 0)) if has_body else 0
        while len(self._read) < length:
            self._receive()
        body, self._read = self._read[:length], self._read[length:]
        return int(match.group(1)), headers, body

    def is_ended(self) -> bool:
        """Tell whether the server has closed the connection, with nothing more to say."""
        return self._read == b"" and self._socket.recv(65_536) == b""

    def _receive(self) -> None:
        data = self._socket.recv(65_536)
        assert data, f"the server closed the connection after {self._read!r}"
        self._read += data


@pytest.fixture
def acme(meter: Meter) -> Meter:
    meter.ledger.account("acme", 1_000)
    return meter


@pytest.fixture
def wire(acme: Meter) -> Iterator[Wire]:
    with closing(Wire(acme.sidecar.listen)) as opened:
        yield opened


def request(
    id: str, *headers: str, method: str = "POST", path: str = "/v1/hold", version: str = "1.1"
) -> bytes:
    body = BODY % id.encode()
    lines = [f"{method} {path} HTTP/{version}", "Host: x", f"Content-Length: {len(body)}", *headers]
    return "\r\n".join(lines).encode("latin-1") + b"\r\n\r\n" + body


def still_answers(acme: Meter) -> bool:
    return acme.http.get("/healthz").status_code == 200 and acme.available("acme") >= 0


def test_pipelined_requests_are_answered_in_their_order(acme: Meter, wire: Wire) -> None:
    wire.send(b"".join(request(f"h{n}") for n in range(20)))
    answers = [wire.answer() for _ in range(20)]
    assert [status for status, _, _ in answers] == [200] * 20
    for n, (_, _, body) in enumerate(answers):
        assert b'"id":"h%d"' % n in body
        assert b'"available":%d' % (995 - 5 * n) in body


def test_pipelined_requests_of_which_one_is_refused_are_all_answered(wire: Wire) -> None:
    wrong = request("x y"), request("h2", method="PUT"), request("h3", path="/nowhere")
    wire.send(request("h1") + b"".join(wrong) + request("h4"))
    assert [wire.answer()[0] for _ in range(5)] == [200, 422, 405, 404, 200]


def test_request_in_single_bytes_is_answered(wire: Wire) -> None:
    for byte in request("h1"):
        wire.send(bytes([byte]))
    assert wire.answer()[0] == 200


def test_connection_is_kept_for_the_next_request(wire: Wire) -> None:
    for n in range(3):
        wire.send(request(f"h{n}"))
        assert wire.answer()[0] == 200


def test_connection_is_closed_when_the_client_asks(wire: Wire) -> None:
    wire.send(request("h1", "Connection: close"))
    status, headers, _ = wire.answer()
    assert (status, headers["connection"]) == (200, "close")
    assert wire.is_ended()


def test_http_1_0_is_answered_and_closed(wire: Wire) -> None:
    wire.send(request("h1", version="1.0"))
    assert wire.answer()[0] == 200
    assert wire.is_ended()


def test_head_has_the_headers_and_no_body(wire: Wire) -> None:
    for path in ("/healthz", "/readyz", "/v1/balance?account=acme"):
        wire.send(f"HEAD {path} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
        status, headers, _ = wire.answer(has_body=False)
        assert status == 200
        assert int(headers["content-length"]) > 0
    wire.send(b"HEAD /v1/hold HTTP/1.1\r\nHost: x\r\n\r\n")
    assert wire.answer(has_body=False)[0] == 405
    wire.send(request("h1"))
    assert wire.answer()[0] == 200


def test_expect_continue_is_answered(wire: Wire) -> None:
    head, _, body = request("h1", "Expect: 100-continue").partition(b"\r\n\r\n")
    wire.send(head + b"\r\n\r\n")
    assert wire.answer()[0] == 100
    wire.send(body)
    assert wire.answer()[0] == 200


def test_too_large_body_is_refused_before_it_is_sent(acme: Meter, wire: Wire) -> None:
    wire.send(b"POST /v1/hold HTTP/1.1\r\nHost: x\r\nContent-Length: 999999999999\r\n\r\n")
    status, _, body = wire.answer()
    assert (status, b"body_too_large" in body) == (413, True)
    assert still_answers(acme)


@pytest.mark.parametrize(
    "half",
    [b"P", b"POST /v1/hold", b"POST /v1/hold HTTP/1.1\r\nHost: x\r\n",
     b"POST /v1/hold HTTP/1.1\r\nHost: x\r\nContent-Length: 39\r\n\r\n",
     b'POST /v1/hold HTTP/1.1\r\nHost: x\r\nContent-Length: 40\r\n\r\n{"account":"acme","id":"h',
     b"POST /v1/hold HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n5\r\n{\"acc",
     request("h1")[:-1]],
    ids=range(7),
)  # fmt: skip
@pytest.mark.parametrize("ending", ["half-closed", "closed", "open"])
def test_half_a_request_changes_nothing(acme: Meter, wire: Wire, half: bytes, ending: str) -> None:
    before = acme.ledger.dump()
    wire.send(half)
    if ending == "half-closed":
        wire.finish()
    if ending == "closed":
        wire.close()
    assert still_answers(acme)
    acme.ledger.assert_unchanged(before)


def test_many_stalled_clients_do_not_keep_others_waiting(acme: Meter) -> None:
    stalled = [Wire(acme.sidecar.listen) for _ in range(200)]
    try:
        for number, wire in enumerate(stalled):
            wire.send(request(f"s{number}")[: 20 + number % 60])
        for number in range(20):
            acme.accept("hold", account="acme", id=f"h{number}", amount=5)
    finally:
        for wire in stalled:
            wire.close()
    assert acme.available("acme") == 900


def test_client_that_leaves_before_the_answer_is_no_harm(acme: Meter) -> None:
    for _ in range(50):
        with closing(Wire(acme.sidecar.listen)) as wire:
            wire.send(request("h1"))
    assert acme.accept("hold", account="acme", id="h1", amount=5)["available"] == 995


@pytest.mark.parametrize(
    "garbage",
    [b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", b"\x00" * 100, b"GET\r\n\r\n", b"\r\n" * 100,
     b"hello\r\n\r\n", b"GET / HTTP/9.9\r\n\r\n", b"GET /\xff\xfe HTTP/1.1\r\nHost: x\r\n\r\n",
     b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", b"FOO /v1/hold HTTP/1.1\r\nHost: x\r\n\r\n",
     b"POST /v1/hold HTTP/1.1\r\nHost: x\r\nContent-Length: -1\r\n\r\n",
     b"POST /v1/hold HTTP/1.1\r\nHost: x\r\nContent-Length: x\r\n\r\n",
     b"POST /v1/hold HTTP/1.1\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\n{}{}{}",
     b"POST /v1/hold HTTP/1.1\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
     b"POST /v1/hold HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
     b"POST /v1/hold HTTP/1.1\r\nBad Header: x\r\n\r\n", b"OPTIONS * HTTP/1.1\r\nHost: x\r\n\r\n",
     b"CONNECT x:80 HTTP/1.1\r\nHost: x\r\n\r\n",
     b"GET http://[ HTTP/1.1\r\nHost: x\r\n\r\n"],
    ids=range(18),
)  # fmt: skip
def test_what_is_not_http_is_no_harm(acme: Meter, wire: Wire, garbage: bytes) -> None:
    before = acme.ledger.dump()
    wire.send(garbage)
    assert still_answers(acme)
    acme.ledger.assert_unchanged(before)


def test_request_for_a_websocket_is_an_ordinary_one(acme: Meter, wire: Wire) -> None:
    upgrade = ["Connection: Upgrade", "Upgrade: websocket", "Sec-WebSocket-Version: 13"]
    key = "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ=="
    lines = ["GET /v1/hold HTTP/1.1", "Host: x", *upgrade, key]
    wire.send("\r\n".join(lines).encode() + b"\r\n\r\n")
    status, _, body = wire.answer()
    assert (status, b"method_not_allowed" in body) == (405, True)
    assert still_answers(acme)


def test_many_headers_are_no_harm(acme: Meter, wire: Wire) -> None:
    wire.send(request("h1", *(f"X-Filler-{n}: {'x' * 100}" for n in range(200))))
    assert wire.answer()[0] == 200
    assert still_answers(acme)


@pytest.mark.parametrize(
    "endless", [b"x" * 65_536, b"X-A: " + b"x" * 65_000 + b"\r\n"], ids=["one", "many"]
)
def test_headers_without_end_are_cut_off(acme: Meter, wire: Wire, endless: bytes) -> None:
    before = acme.ledger.dump()
    wire.send(b"POST /v1/hold HTTP/1.1\r\nHost: x\r\nX-Endless: ")
    with pytest.raises(ConnectionError):
        wire.send(endless * 1_000)
    assert still_answers(acme)
    acme.ledger.assert_unchanged(before)


def test_stalled_requests_are_given_up(acme: Meter) -> None:
    before = acme.ledger.dump()
    with closing(Wire(acme.sidecar.listen)) as head, closing(Wire(acme.sidecar.listen)) as body:
        head.send(request("h1")[:30])
        body.send(request("h1")[:-1])
        status, headers, text = body.answer()
        assert (status, b"invalid_json" in text) == (400, True)
        assert headers["connection"] == "close"
        assert body.is_ended()
        assert head.is_ended()
    assert still_answers(acme)
    acme.ledger.assert_unchanged(before)
