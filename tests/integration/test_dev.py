"""`credit-sidecar dev`, for real: start, one metered call, a purchase, stop, and start again."""

from __future__ import annotations

import json
import os
import shlex
import signal
import socket
import stat
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from time import monotonic, sleep
from typing import Any

import httpx
import psutil
import pytest

from sidecar.dev.plan import FAKE_STRIPE_KEY
from tests.conftest import free_port

START_SECONDS = 90.0
STOP_SECONDS = 60.0
ADMIN = {"Authorization": "Bearer dev-admin-token"}


class Dev:
    """One `credit-sidecar dev` on a data directory, on ports of its own."""

    def __init__(self, data_dir: Path, **variables: str) -> None:
        self.data_dir = data_dir
        self.port, self.control_port = free_port(), free_port()
        self._log = tempfile.TemporaryFile("w+")  # noqa: SIM115 - read while the process writes it
        environment = {name: v for name, v in os.environ.items() if not name.startswith("CREDITS_")}
        self.process = subprocess.Popen(
            [
                *(sys.executable, "-m", "sidecar", "dev"),
                *("--port", str(self.port)),
                *("--control-port", str(self.control_port)),
                *("--data-dir", str(data_dir)),
            ],
            env=environment | variables,
            stdout=self._log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )

    @property
    def output(self) -> str:
        """What it has printed."""
        self._log.flush()
        return os.pread(self._log.fileno(), 1_000_000, 0).decode()

    @property
    def state(self) -> dict[str, str]:
        """What it wrote down for other commands."""
        state: dict[str, str] = json.loads((self.data_dir / "dev.json").read_text())
        return state

    def wait_until_ready(self) -> Dev:
        """Wait until it says so."""
        eventually(lambda: "Credit Sidecar is ready." in self.output, self, START_SECONDS)
        return self

    def post(self, path: str, **body: Any) -> dict[str, Any]:
        """Call the hot path."""
        response = httpx.post(f"http://127.0.0.1:{self.port}{path}", json=body, timeout=10)
        assert response.status_code == 200, response.text
        answer: dict[str, Any] = response.json()
        return answer

    def available(self) -> int:
        """What the demo account can spend; after a restart it is lent anew first."""
        url = f"http://127.0.0.1:{self.port}/v1/balance"
        answers: list[httpx.Response] = []

        def is_answered() -> bool:
            answers.append(httpx.get(url, params={"account": "demo"}, timeout=10))
            return answers[-1].status_code != 503

        eventually(is_answered, self)
        return int(answers[-1].json()["available"])

    def usage(self) -> list[dict[str, Any]]:
        """The demo account's usage rows, by the ledger."""
        url = f"http://127.0.0.1:{self.control_port}/v1/accounts/demo/usage"
        rows: list[dict[str, Any]] = httpx.get(url, headers=ADMIN, timeout=10).json()["data"]
        return rows

    def stop(self, number: signal.Signals = signal.SIGTERM) -> int:
        """Send a signal to it alone and return its exit status."""
        self.process.send_signal(number)
        return self.process.wait(STOP_SECONDS)

    def end(self) -> None:
        """Leave nothing behind, whatever the test came to."""
        if self.process.poll() is None:
            self.stop(signal.SIGTERM)
        self._log.close()


def eventually(holds: Any, dev: Dev, seconds: float = 20.0) -> None:
    """Wait until something holds, and show what `dev` printed when it never does."""
    deadline = monotonic() + seconds
    while not holds():
        assert dev.process.poll() is None, f"dev ended:\n{dev.output}"
        assert monotonic() < deadline, f"not in time:\n{dev.output}"
        sleep(0.05)


@pytest.fixture
def data_dir() -> Iterator[Path]:
    """A data directory that does not exist yet."""
    with tempfile.TemporaryDirectory(prefix="credits-test-") as directory:
        yield Path(directory, "data")


@pytest.fixture(scope="module")
def shared_dev() -> Iterator[Dev]:
    """A running `dev` for tests that leave it running."""
    with tempfile.TemporaryDirectory(prefix="credits-test-") as directory:
        started = Dev(Path(directory, "data"))
        try:
            yield started.wait_until_ready()
        finally:
            started.end()


@pytest.fixture
def dev(data_dir: Path) -> Iterator[Dev]:
    """A running `dev`."""
    started = Dev(data_dir)
    try:
        yield started.wait_until_ready()
    finally:
        started.end()


def test_a_call_is_metered_from_hold_to_ledger_and_survives_a_restart(data_dir: Path) -> None:
    first = Dev(data_dir)
    try:
        first.wait_until_ready()
        assert first.available() == 100_000_000
        first.post("/v1/hold", account="demo", id="call-1", amount=2_000_000)
        settled = first.post("/v1/settle", account="demo", id="call-1", amount=1_500_000)
        assert settled["available"] == 98_500_000
        eventually(lambda: len(first.usage()) == 1, first)
        assert (first.usage()[0]["id"], first.usage()[0]["amount"]) == ("call-1", 1_500_000)
        # Stopped at once after an answer: what was answered is flushed before the end.
        first.post("/v1/hold", account="demo", id="call-3", amount=1_000_000)
        first.post("/v1/debit", account="demo", id="call-2", amount=500_000)
        assert first.stop() == 0, first.output
    finally:
        first.end()
    second = Dev(data_dir)
    try:
        second.wait_until_ready()
        assert second.available() == 98_000_000
        assert {row["id"] for row in second.usage()} == {"call-1", "call-2"}
        # The Redis is another process: it is trusted with nothing, and the hold is charged late.
        settled = second.post("/v1/settle", account="demo", id="call-3", amount=1_000_000)
        assert (settled["late"], settled["available"]) == (True, 97_000_000)
        assert second.stop() == 0, second.output
    finally:
        second.end()


def test_a_purchase_at_the_fake_stripe_raises_the_balance(shared_dev: Dev) -> None:
    before = shared_dev.available()
    bought = httpx.post(
        shared_dev.state["CREDITS_STRIPE_API_BASE"] + "/v1/payment_intents",
        auth=(FAKE_STRIPE_KEY, ""),
        data={
            "amount": "500",
            "currency": "usd",
            "confirm": "true",
            "payment_method": "pm_card_visa",
            "metadata[purpose]": "topup",
            "metadata[account]": "demo",
            "metadata[credits]": "10000000",
        },
        timeout=10,
    )
    assert bought.json()["status"] == "succeeded"
    eventually(lambda: shared_dev.available() == before + 10_000_000, shared_dev)


def test_each_line_that_is_printed_to_try_works(shared_dev: Dev) -> None:
    printed = shared_dev.output.partition("Try, in another terminal:")[2]
    lines = [line.strip() for line in printed.splitlines() if line.startswith("  ")]
    commands = [line for line in lines if not line.startswith("#")]
    assert len(commands) >= 8
    for command in commands:
        words = shlex.split(command)
        if words[0] == "curl":
            answer = curl(words[1:])
            assert answer.status_code == 200, f"{command}\n{answer.text}\n{shared_dev.output}"
        else:
            done = subprocess.run(words, capture_output=True, text=True, timeout=60, check=False)
            assert done.returncode == 0, (
                f"{command}\n{done.stdout}{done.stderr}\n{shared_dev.output}"
            )


def test_what_other_commands_need_is_for_this_user_alone(shared_dev: Dev) -> None:
    assert stat.S_IMODE((shared_dev.data_dir / "dev.json").stat().st_mode) == 0o600
    assert stat.S_IMODE(shared_dev.data_dir.stat().st_mode) == 0o700


def test_a_second_dev_on_the_same_data_or_ports_is_refused(shared_dev: Dev, tmp_path: Path) -> None:
    same_data = run_command(
        "dev", "--data-dir", str(shared_dev.data_dir), "--port", str(free_port())
    )
    assert same_data.returncode == 1
    assert f"(process {shared_dev.process.pid}) runs on {shared_dev.data_dir}" in same_data.stderr
    same_port = run_command(
        "dev", "--data-dir", str(tmp_path / "other"), "--port", str(shared_dev.port)
    )
    assert same_port.returncode == 1
    assert f"Port {shared_dev.port} is taken" in same_port.stderr
    assert shared_dev.process.poll() is None


def test_a_role_that_dies_ends_dev_with_status_1(dev: Dev) -> None:
    listener = child_pid(dev, "serve")
    os.kill(listener, signal.SIGKILL)
    assert dev.process.wait(STOP_SECONDS) == 1
    assert "serve was ended by SIGKILL by itself." in dev.output
    assert_nothing_is_left(dev)


def test_ctrl_c_stops_in_order_and_leaves_nothing_behind(dev: Dev) -> None:
    assert dev.stop(signal.SIGINT) == 0, dev.output
    stopped = [line.split()[1] for line in dev.output.splitlines() if " stopped " in line]
    assert stopped == ["serve", "worker", "control", "stripe", "Redis", "Postgres"]
    assert not (dev.data_dir / "dev.json").exists()
    assert_nothing_is_left(dev)


def test_a_second_ctrl_c_does_not_wait_for_a_role_that_hangs(dev: Dev) -> None:
    os.kill(child_pid(dev, "serve"), signal.SIGSTOP)
    first = monotonic()
    dev.process.send_signal(signal.SIGINT)
    # What comes right behind the first one counts as the same wish.
    while monotonic() < first + 0.7:
        sleep(0.05)
    assert dev.process.poll() is None
    assert dev.stop(signal.SIGINT) == 130
    assert "serve was ended by SIGKILL." in dev.output
    assert_nothing_is_left(dev)


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells a child that it is orphaned")
def test_nothing_outlives_a_dev_that_was_killed_and_the_next_one_starts(dev: Dev) -> None:
    dev.post("/v1/debit", account="demo", id="call-1", amount=1_000_000)
    eventually(lambda: len(dev.usage()) == 1, dev)
    dev.process.kill()
    dev.process.wait()
    again = Dev(dev.data_dir)
    try:
        again.wait_until_ready()
        assert again.available() == 99_000_000
        assert again.stop() == 0
    finally:
        again.end()


def test_a_redis_and_a_postgres_of_ones_own_are_used(
    data_dir: Path, redis_client: Any, redis_url: str, empty_postgres_url: str
) -> None:
    assert redis_client.dbsize() == 0
    urls = {"CREDITS_REDIS_URL": redis_url, "CREDITS_POSTGRES_URL": empty_postgres_url}
    dev = Dev(data_dir, **urls)
    try:
        dev.wait_until_ready()
        assert dev.available() == 100_000_000
        assert redis_client.dbsize() > 0
        assert dev.stop() == 0, dev.output
    finally:
        dev.end()
    left = {path.name for path in data_dir.iterdir()}
    assert left - {"journal"} == {"lock"}  # no database of its own


def run_command(*arguments: str) -> subprocess.CompletedProcess[str]:
    """Run `credit-sidecar` with nothing in the environment for it."""
    environment = {name: v for name, v in os.environ.items() if not name.startswith("CREDITS_")}
    return subprocess.run(
        [sys.executable, "-m", "sidecar", *arguments],
        capture_output=True,
        text=True,
        timeout=START_SECONDS,
        env=environment,
        check=False,
    )


def curl(words: list[str]) -> httpx.Response:
    """Do what curl would, as far as the printed lines use it: -d, -H, -u and a URL."""
    user, headers, data, url = None, {}, [], ""
    rest = iter(words)
    for word in rest:
        if word == "-d":
            data.append(next(rest))
        elif word == "-H":
            name, _, value = next(rest).partition(": ")
            headers[name] = value
        elif word == "-u":
            name, _, value = next(rest).partition(":")
            user = (name, value)
        else:
            url = word
    if not data:
        return httpx.get(url, headers=headers, auth=user)
    # What curl says of -d, unless told otherwise.
    headers.setdefault("Content-Type", "application/x-www-form-urlencoded")
    return httpx.post(url, content="&".join(data), headers=headers, auth=user)


def child_pid(dev: Dev, role: str) -> int:
    """Return the process of a role."""
    children = psutil.Process(dev.process.pid).children()
    (found,) = [child.pid for child in children if child.cmdline()[-2:] == ["sidecar", role]]
    return int(found)


def assert_nothing_is_left(dev: Dev) -> None:
    """Check that no process and no listener is left."""
    assert processes_of(dev) == []
    for port in (dev.port, dev.control_port):
        with socket.socket() as probe:
            assert probe.connect_ex(("127.0.0.1", port)) != 0


def processes_of(dev: Dev) -> list[str]:
    found = [" ".join(one.info["cmdline"] or []) for one in psutil.process_iter(["cmdline"])]
    return [line for line in found if str(dev.data_dir) in line]
