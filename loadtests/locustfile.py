"""The locust side of a scenario: users, their HTTP, and what locust itself cannot measure.

`python -m loadtests.run` starts this file; it also runs by hand against running sidecars:

    locust -f loadtests/locustfile.py --headless --scenario steady --sidecar http://127.0.0.1:8787 \
        --account demo --receipts receipts.jsonl --summary summary.json --users 8 --run-time 10s

locust patches the standard library with gevent, so nothing of this is imported elsewhere.
"""

from __future__ import annotations

import json
import socket
import time
from argparse import Namespace
from array import array
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar
from urllib.parse import urlsplit

import gevent  # type: ignore[import-untyped]
from locust import FastHttpUser, events, task
from locust.argument_parser import LocustArgumentParser
from locust.env import Environment

from loadtests.behaviour import InferenceServer
from loadtests.caller import RETRIED_HTTP, Answer, Caller, NoAnswer
from loadtests.receipts import ReceiptFile
from loadtests.scenarios import SCENARIOS

_TIMEOUT_SECONDS = 5.0


class Measured:
    """Every answer's latency (ms) and code. locust keeps latencies rounded to two digits."""

    def __init__(self) -> None:
        self.latencies: dict[str, array[float]] = {}
        self.codes: Counter[str] = Counter()
        self.hang_ups = 0
        self.started = self.ended = 0.0

    def add(self, operation: str, latency_ms: float, code: str) -> None:
        """Count one answer, or the lack of one."""
        self.ended = time.monotonic()
        self.started = self.started or self.ended
        self.latencies.setdefault(operation, array("d")).append(latency_ms)
        self.codes[code] += 1

    def write(self, path: Path) -> None:
        """Write everything as JSON."""
        summary = {
            "seconds": self.ended - self.started,
            "hang_ups": self.hang_ups,
            "codes": dict(self.codes),
            "latencies_ms": {name: list(values) for name, values in self.latencies.items()},
        }
        path.write_text(json.dumps(summary))


measured = Measured()


@events.init_command_line_parser.add_listener  # type: ignore[untyped-decorator]
def add_arguments(parser: LocustArgumentParser, **_: Any) -> None:
    """Add this file's own arguments."""
    group = parser.add_argument_group("Credit Sidecar")
    group.add_argument("--scenario", choices=list(SCENARIOS), default="steady")
    group.add_argument("--sidecar", action="append", required=True, help="Base URL; repeatable.")
    group.add_argument("--account", action="append", help="An account to spend; repeatable.")
    group.add_argument("--accounts", help="A file of accounts instead, one a line.")
    group.add_argument("--receipts", required=True, help="Where to append what was acknowledged.")
    group.add_argument("--summary", required=True, help="Where to write the latencies.")


@events.init.add_listener  # type: ignore[untyped-decorator]
def open_receipts(environment: Environment, **_: Any) -> None:
    """Open what all users share."""
    options = environment.parsed_options
    assert options
    Inference.options = options
    Inference.receipts = ReceiptFile(Path(options.receipts))
    named = Path(options.accounts).read_text().split() if options.accounts else []
    Inference.accounts = [*named, *(options.account or [])]


@events.quitting.add_listener  # type: ignore[untyped-decorator]
def write_summary(environment: Environment, **_: Any) -> None:
    """Write what was measured, when all users have stopped."""
    Inference.receipts.close()
    measured.write(Path(Inference.options.summary))


class Inference(FastHttpUser):
    """One client: an inference server that calls whichever sidecar it meets."""

    host = "http://127.0.0.1"
    network_timeout = _TIMEOUT_SECONDS
    connection_timeout = _TIMEOUT_SECONDS

    options: ClassVar[Namespace]
    receipts: ClassVar[ReceiptFile]
    accounts: ClassVar[list[str]]

    def on_start(self) -> None:
        """Prepare this client."""
        scenario = SCENARIOS[self.options.scenario]
        transport = LocustTransport(self, self.options.sidecar)
        caller = Caller(transport, self.receipts, repeats=scenario.repeats, sleep=gevent.sleep)
        self._pause_seconds = scenario.pause_seconds
        self._server = InferenceServer(caller, scenario, self.accounts, gevent.sleep)

    @task
    def serve(self) -> None:
        """Serve one inference call."""
        self._server.serve_one()
        gevent.sleep(self._pause_seconds)


class LocustTransport:
    """Sends calls through locust's client, to the sidecars in turn."""

    def __init__(self, user: Inference, sidecars: Sequence[str]) -> None:
        self._user = user
        self._sidecars = sidecars
        self._turn = id(user) // 64 % len(sidecars)

    def send(self, operation: str, body: dict[str, Any]) -> Answer:
        """Send a call to the next sidecar."""
        return self._send(self._next(), operation, body)

    def send_twice(self, operation: str, body: dict[str, Any]) -> list[Answer | NoAnswer]:
        """Send a call to two sidecars at the same time."""
        twins = [gevent.spawn(self._outcome, self._next(), operation, body) for _ in range(2)]
        return [twin.get() for twin in twins]

    def hang_up(self, operation: str, body: dict[str, Any]) -> None:
        """Send a call on a connection of its own and close that at once."""
        where = urlsplit(self._next())
        payload = json.dumps(body).encode()
        head = (
            f"POST /v1/{operation} HTTP/1.1\r\nHost: {where.netloc}\r\n"
            f"Content-Type: application/json\r\nContent-Length: {len(payload)}\r\n\r\n"
        )
        measured.hang_ups += 1
        try:
            with socket.create_connection((where.hostname, where.port), _TIMEOUT_SECONDS) as line:
                line.sendall(head.encode() + payload)
        except OSError:
            return  # it is about calls that got lost

    def _next(self) -> str:
        self._turn += 1
        return self._sidecars[self._turn % len(self._sidecars)]

    def _outcome(self, sidecar: str, operation: str, body: dict[str, Any]) -> Answer | NoAnswer:
        try:
            return self._send(sidecar, operation, body)
        except NoAnswer as error:
            return error

    def _send(self, sidecar: str, operation: str, body: dict[str, Any]) -> Answer:
        url = f"{sidecar}/v1/{operation}"
        with self._user.client.post(url, json=body, name=operation, catch_response=True) as got:
            latency_ms = got.request_meta["response_time"]
            if not got.status_code:
                kind = type(got.error).__name__
                measured.add(operation, latency_ms, f"no answer: {kind}")
                got.failure(kind)
                raise NoAnswer(str(got.error))
            answer = Answer(got.status_code, json.loads(got.content))
            measured.add(operation, latency_ms, f"{answer.http} {answer.code}")
            # A refusal is an outcome; only what must be sent again is a failure.
            if answer.http in RETRIED_HTTP:
                got.failure(answer.code)
            else:
                got.success()
            return answer
