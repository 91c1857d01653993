"""The fault proxy: every fault, seen from both of its sides."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from time import monotonic, sleep

import pytest

from tests.faults.network import (
    CUT_REPLIES,
    DROP_REPLIES,
    HALF_OPEN,
    RESET,
    STALL,
    Fault,
    Kind,
)
from tests.faults.proxy import Proxy
from tests.faults.traffic import Traffic, traffic

_SHORT_SECONDS = 0.2
_LONG_SECONDS = 10.0


class Upper:
    """A server that answers each message with the same in capitals, and remembers it."""

    def __init__(self) -> None:
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self.received: list[bytes] = []
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Accept no more."""
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._thread.join()

    def _serve(self) -> None:
        while True:
            try:
                opened, _ = self._listener.accept()
            except OSError:
                return
            threading.Thread(target=self._answer, args=(opened,), daemon=True).start()

    def _answer(self, opened: socket.socket) -> None:
        with opened:
            while True:
                try:
                    message = opened.recv(100)
                    if not message:
                        return
                    self.received.append(message)
                    opened.sendall(message.upper())
                except OSError:
                    return

    def wait_for(self, message: bytes) -> None:
        """Wait until a message was received."""
        deadline = monotonic() + _LONG_SECONDS
        while message not in self.received:
            assert monotonic() < deadline, f"{message!r} did not arrive"
            sleep(0.005)


@pytest.fixture(scope="module")
def running_traffic() -> Iterator[Traffic]:
    """The thread of the proxies."""
    with traffic() as made:
        yield made


@pytest.fixture
def server() -> Iterator[Upper]:
    """A server behind the proxy."""
    made = Upper()
    try:
        yield made
    finally:
        made.close()


@pytest.fixture
def proxy(running_traffic: Traffic, server: Upper) -> Iterator[Proxy]:
    """A proxy before the server."""
    made = Proxy(running_traffic, ("127.0.0.1", server.port))
    made.start()
    try:
        yield made
    finally:
        made.stop()


def connected(proxy: Proxy) -> socket.socket:
    """Return a connection through the proxy over which one message has gone."""
    opened = socket.create_connection(("127.0.0.1", proxy.port), timeout=_LONG_SECONDS)
    opened.sendall(b"hello")
    assert opened.recv(100) == b"HELLO"
    return opened


def is_refused(proxy: Proxy) -> bool:
    """Tell whether a new connection is reset, be it while it is made or after."""
    try:
        with socket.create_connection(("127.0.0.1", proxy.port), timeout=_LONG_SECONDS) as opened:
            return not opened.recv(100)
    except ConnectionResetError:
        return True


def is_silent(opened: socket.socket) -> bool:
    """Tell whether nothing comes, and no end either, for a short time."""
    opened.settimeout(_SHORT_SECONDS)
    try:
        return opened.recv(100) is None
    except TimeoutError:
        return True
    finally:
        opened.settimeout(_LONG_SECONDS)


def test_it_passes_everything_through(proxy: Proxy) -> None:
    with connected(proxy) as opened:
        opened.sendall(b"again")
        assert opened.recv(100) == b"AGAIN"


def test_dropped_replies_vanish_after_the_request_was_carried_out(
    proxy: Proxy, server: Upper
) -> None:
    with connected(proxy) as opened:
        proxy.set(DROP_REPLIES)
        opened.sendall(b"lost")
        server.wait_for(b"lost")
        assert is_silent(opened)


def test_a_connection_with_a_hole_in_it_is_reset_when_the_fault_is_over(proxy: Proxy) -> None:
    with connected(proxy) as opened:
        proxy.set(DROP_REPLIES)
        opened.sendall(b"lost")
        assert is_silent(opened)
        proxy.heal()
        with pytest.raises(ConnectionResetError):
            opened.recv(100)


def test_a_cut_reply_is_a_reset_after_the_request_was_carried_out(
    proxy: Proxy, server: Upper
) -> None:
    with connected(proxy) as opened:
        proxy.set(CUT_REPLIES)
        opened.sendall(b"cut")
        with pytest.raises(ConnectionResetError):
            opened.recv(100)
        server.wait_for(b"cut")


def test_a_share_of_no_replies_hits_none(proxy: Proxy) -> None:
    proxy.set(Fault(Kind.CUT_REPLIES, share=0.0))
    connected(proxy).close()


def test_a_reset_ends_open_connections_and_every_new_one(proxy: Proxy) -> None:
    with connected(proxy) as opened:
        proxy.set(RESET)
        with pytest.raises(ConnectionResetError):
            opened.recv(100)
    assert is_refused(proxy)
    proxy.heal()
    connected(proxy).close()


def test_what_is_stalled_arrives_when_the_stall_is_over(proxy: Proxy, server: Upper) -> None:
    with connected(proxy) as opened:
        proxy.set(STALL)
        opened.sendall(b"late")
        assert is_silent(opened)
        assert b"late" not in server.received
        proxy.heal()
        assert opened.recv(100) == b"LATE"


def test_a_half_open_connection_swallows_what_is_written(proxy: Proxy, server: Upper) -> None:
    with connected(proxy) as opened:
        proxy.set(HALF_OPEN)
        opened.sendall(b"gone")
        assert is_silent(opened)
        proxy.heal()
        with pytest.raises(ConnectionResetError):
            opened.recv(100)
        assert b"gone" not in server.received


def test_a_delay_is_one(proxy: Proxy) -> None:
    with connected(proxy) as opened:
        proxy.set(Fault(Kind.DELAY, delay_seconds=0.1))
        started = monotonic()
        opened.sendall(b"slow")
        assert opened.recv(100) == b"SLOW"
        assert monotonic() - started >= 0.2


def test_it_can_be_moved_to_another_target(proxy: Proxy) -> None:
    other = Upper()
    with connected(proxy) as opened:
        proxy.move(("127.0.0.1", other.port))
        with pytest.raises(ConnectionResetError):
            opened.recv(100)
    connected(proxy).close()
    other.wait_for(b"hello")
    other.close()


def test_a_target_that_is_not_there_is_a_reset(proxy: Proxy, server: Upper) -> None:
    with socket.create_server(("127.0.0.1", 0)) as unused:
        port = unused.getsockname()[1]
    proxy.move(("127.0.0.1", port))
    assert is_refused(proxy)
