"""The hot path on a Unix socket."""

from __future__ import annotations

import socket
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.integration.meter_server import PATIENT, Ledger, Meter, Sidecar, running


@pytest.fixture(scope="module")
def served(meter_redis_url: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sidecar]:
    path = tmp_path_factory.mktemp("unix") / "credits.sock"
    with running(meter_redis_url, f"unix:{path}", **PATIENT) as sidecar:
        yield sidecar


@pytest.fixture
def meter(served: Sidecar, ledger: Ledger) -> Iterator[Meter]:
    served.wait_ready()
    with served.client() as client:
        yield Meter(client, ledger, served)


@pytest.fixture
def path(served: Sidecar) -> Path:
    """The socket that is served."""
    return Path(served.listen.removeprefix("unix:"))


def test_calls_are_answered_on_a_unix_socket(meter: Meter) -> None:
    meter.ledger.account("acme", 1_000)
    assert meter.accept("hold", account="acme", id="h1", amount=300)["available"] == 700
    assert meter.accept("settle", account="acme", id="h1", amount=100)["available"] == 900
    assert meter.balance("acme")["held"] == 0
    status, error = meter.refuse("debit", account="acme", id="d1", amount=901)
    assert (status, error["code"]) == (402, "insufficient_credits")
    assert meter.http.get("/nowhere").status_code == 404
    assert meter.http.get("/metrics").status_code == 200


def test_only_the_owner_and_the_group_may_use_the_socket(meter: Meter, path: Path) -> None:
    mode = path.stat().st_mode
    assert stat.S_ISSOCK(mode)
    assert stat.S_IMODE(mode) == 0o660


def test_half_a_request_on_a_unix_socket_is_no_harm(meter: Meter, path: Path) -> None:
    meter.ledger.account("acme", 1_000)
    for half in (b"", b"POST /v1/hold HTTP/1.1\r\nHost: x\r\nContent-Length: 40\r\n\r\n{"):
        with socket.socket(socket.AF_UNIX) as wire:
            wire.connect(str(path))
            wire.sendall(half)
    assert meter.available("acme") == 1_000


def test_socket_that_was_left_behind_is_replaced_and_removed_at_the_end(
    meter_redis_url: str, tmp_path: Path
) -> None:
    path = tmp_path / "left.sock"
    with socket.socket(socket.AF_UNIX) as left:
        left.bind(str(path))
    sidecar = Sidecar(meter_redis_url, f"unix:{path}").start()
    assert path.exists()
    assert sidecar.stop() == 0
    assert not path.exists()


def test_socket_that_is_in_use_is_not_taken(meter_redis_url: str, meter: Meter, path: Path) -> None:
    other = Sidecar(meter_redis_url, f"unix:{path}")
    other.launch()
    assert other.process.wait(20) != 0
    assert "CREDITS_LISTEN" in other.log
    other.stop()
    assert meter.http.get("/healthz").status_code == 200


def test_file_in_the_way_is_not_removed(meter_redis_url: str, tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_text("mine")
    other = Sidecar(meter_redis_url, f"unix:{path}")
    other.launch()
    assert other.process.wait(20) != 0
    assert "CREDITS_LISTEN" in other.log
    assert "Traceback" not in other.log
    other.stop()
    assert path.read_text() == "mine"
