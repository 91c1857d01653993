"""A real sidecar for the HTTP tests: its own process, a real Redis, and what a worker would do.

The shards are opened and the accounts made by hand, with the scripts that the worker uses.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import httpx
import msgspec
import redis

from sidecar import keys
from sidecar.domain import burn_order
from sidecar.scripts import load_scripts
from tests.conftest import free_port
from tests.lua.support import begin_stream

SHARDS: Final = 4
EPOCH: Final = 1
DEADLINE_SECONDS: Final = 20.0
API_KEY: Final = "correct-horse-battery-staple"
PATIENT: Final = {"redis_timeout_ms": "10000", "load_wait_ms": "1000"}
TOP_UP_URL: Final = "https://example.com/top-up"


def eventually(claim: Callable[[], object], what: str = "it") -> None:
    """Wait until `claim` holds; fail when it does not within the deadline."""
    deadline = time.monotonic() + DEADLINE_SECONDS
    while not claim():
        assert time.monotonic() < deadline, f"{what} did not come true in {DEADLINE_SECONDS:.0f} s"
        time.sleep(0.01)


class Sidecar:
    """`credit-sidecar serve` in a process of its own."""

    def __init__(self, redis_url: str, listen: str = "", **settings: str) -> None:
        self.listen = listen or f"127.0.0.1:{free_port()}"
        self._log = tempfile.NamedTemporaryFile(prefix="sidecar-", suffix=".log")  # noqa: SIM115
        self._journal = tempfile.TemporaryDirectory(prefix="journal-")
        self._redis_url = redis_url
        self._environment = {
            "PATH": os.environ["PATH"],
            "CREDITS_REDIS_URL": redis_url,
            "CREDITS_LISTEN": self.listen,
            "CREDITS_JOURNAL_DIR": self._journal.name,
            "CREDITS_SHUTDOWN_GRACE_MS": "500",
            **{f"CREDITS_{name.upper()}": value for name, value in settings.items()},
        }
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def process(self) -> subprocess.Popen[bytes]:
        """The process, which runs."""
        assert self._process is not None
        return self._process

    @property
    def log(self) -> str:
        """What it has written so far."""
        return Path(self._log.name).read_text(errors="replace")

    def launch(self) -> None:
        """Start the process, and do not wait for it."""
        self._process = subprocess.Popen(
            [sys.executable, "-m", "sidecar", "serve"],
            cwd=Path(__file__).parents[2],
            env=self._environment,
            stdin=subprocess.DEVNULL,
            stdout=self._log,
            stderr=subprocess.STDOUT,
        )

    def start(self) -> Sidecar:
        """Start the process and wait until it answers."""
        self.launch()
        eventually(self._answers, "the start of the sidecar")
        return self

    def _answers(self) -> bool:
        assert self.process.poll() is None, self.log
        with self.connection() as (probe, address):
            if probe.connect_ex(address) != 0:
                return False
        with self.client() as client:
            return client.get("/healthz").status_code == 200

    @contextlib.contextmanager
    def connection(self) -> Iterator[tuple[socket.socket, Any]]:
        """A socket that is not connected yet, and the address to connect it to."""
        host, _, port = self.listen.rpartition(":")
        is_unix = host == "unix"
        with socket.socket(socket.AF_UNIX if is_unix else socket.AF_INET) as made:
            yield made, port if is_unix else (host, int(port))

    def client(self, **options: Any) -> httpx.Client:
        """Return a client of it."""
        if self.listen.startswith("unix:"):
            path = self.listen.removeprefix("unix:")
            options["transport"] = httpx.HTTPTransport(uds=path)
            return httpx.Client(base_url="http://sidecar", timeout=30, verify=False, **options)
        return httpx.Client(base_url=f"http://{self.listen}", timeout=30, verify=False, **options)

    def wait_ready(self) -> None:
        """Wait until it can decide."""
        with self.client() as client, redis.Redis.from_url(self._redis_url) as ledger:

            def is_ready() -> bool:
                confirm_sidecars(ledger)
                return client.get("/readyz").status_code == 200

            try:
                eventually(is_ready, "readiness")
            except AssertionError as error:
                reason = client.get("/readyz").text
                raise AssertionError(f"{error}: {reason}: {self.log[-2000:]}") from error

    def kill(self) -> None:
        """End the process as a crash does; it may be started again, with the same journal."""
        self.process.kill()
        self.process.wait(DEADLINE_SECONDS)

    def metric(self, name: str) -> float:
        """Return the sum of a metric's samples."""
        with self.client() as client:
            lines = client.get("/metrics").text.splitlines()
        samples = [
            line.rpartition(" ") for line in lines if line.split("{")[0].split(" ")[0] == name
        ]
        return sum(float(value) for _, _, value in samples)

    def stop(self) -> int:
        """Ask it to stop, and return its exit code."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        try:
            return self.process.wait(DEADLINE_SECONDS)
        except subprocess.TimeoutExpired:
            self.process.kill()
            return self.process.wait()
        finally:
            self._log.close()
            self._journal.cleanup()


def confirm_sidecars(client: redis.Redis) -> None:
    """Register every sidecar that gave a sign of life, as a worker does."""
    beats: Any = client.hgetall(keys.SIDECARS)
    info: Any = client.info()
    for id, beat in beats.items():
        boot = json.loads(beat)["boot"]
        confirmation = keys.confirmation(boot, info["run_id"], info["master_replid"])
        client.hset(keys.REGISTERED, id, confirmation)


class Ledger:
    """What a worker does for the hot path, by hand: opens shards, and loads accounts by refills."""

    def __init__(self, client: redis.Redis) -> None:
        self.redis = client
        self._scripts = load_scripts()
        self.epoch = EPOCH
        self._refills: dict[str, int] = {}
        self._grants = 0

    def open_shards(self, epoch: int = EPOCH) -> None:
        """Write what a sidecar needs in order to decide; accounts are of this epoch from now on."""
        self.epoch = epoch
        self._refills.clear()
        self.redis.hset(keys.META, mapping={"shards": SHARDS, "ledger": "test"})
        info: Any = self.redis.info()
        for shard in range(SHARDS):
            fence: dict[Any, Any] = {
                "epoch": epoch,
                "run_id": info["run_id"],
                "replid": info["master_replid"],
                "draining": 0,
            }
            begin_stream(self.redis, keys.stream(shard, epoch))
            self.redis.hset(keys.fence(shard), mapping=fence)

    def account(
        self,
        name: str,
        *amounts: int,
        overdraft: int = 0,
        status: str = "active",
        reason: str = "",
        allowance: int = 0,
    ) -> str:
        """Make an account with a grant of each amount, in one step, and return its name."""
        opened = ("open", (status, overdraft, reason, allowance))
        self._refill(name, opened, *(("grant", self._grant(amount)) for amount in amounts))
        return name

    def grant(
        self,
        name: str,
        amount: int,
        id: str = "",
        *,
        category: str = "paid",
        priority: int = 50,
        expires_at_ms: int | None = None,
    ) -> None:
        """Add a grant to an account."""
        grant = self._grant(
            amount, id, category=category, priority=priority, expires_at_ms=expires_at_ms
        )
        self._refill(name, ("grant", grant))

    def take(self, name: str, amount: int) -> None:
        """Carry out a negative adjustment."""
        self._refill(name, ("take", (amount, 0)))

    def set_status(self, name: str, status: str, overdraft: int = 0, reason: str = "") -> None:
        """Suspend, resume or close an account, and set its overdraft limit."""
        self._refill(name, ("status", (status, overdraft, reason)))

    def expire_now(self, name: str, member: str) -> None:
        """Let the time of a hold (`h:<id>`) or a grant (`g:<number>`) have come."""
        names = self.keys_of(name)
        assert self.redis.zadd(names[4], {member: 1}, xx=True, ch=True) == 1
        self.redis.hset(names[0], "next_expiry", 1)

    def keys_of(self, name: str) -> tuple[str, ...]:
        """Return the keys of an account."""
        return keys.account_keys(name, keys.shard_of(name, SHARDS), self.epoch)

    def lose(self, **amounts: int) -> None:
        """Begin the next epoch: of the accounts there is what the ledger says now, and no more."""
        self.open_shards(self.epoch + 1)
        for name, amount in amounts.items():
            self.account(name, amount)

    def confirm_all(self) -> None:
        """Tell sidecars that the ledger has everything."""
        for shard in range(SHARDS):
            entries: Any = self.redis.xrevrange(keys.stream(shard, self.epoch), count=1)
            last = entries[0][0].decode() if entries else "0-0"
            self.redis.set(keys.cursor(shard), f"{self.epoch} {last}")

    def marks(self, name: str) -> list[str]:
        """Return the sidecars that have handed in to the shard of an account."""
        entries: Any = self.redis.xrange(self.keys_of(name)[8])
        return [fields[b"h"].decode() for _, fields in entries if b"h" in fields]

    def events(self, name: str) -> list[dict[str, Any]]:
        """Return the usage events of an account, in their order."""
        entries: Any = self.redis.xrange(self.keys_of(name)[8])
        found = [Event.read(fields[b"e"]) for _, fields in entries if b"e" in fields]
        return [event for event in found if event["account"] == name]

    def dump(self) -> dict[bytes, Any]:
        """Return all that Redis has, to show that nothing changed."""
        names: Any = self.redis.keys("*")
        return {name: self._contents(name) for name in names if name not in _NOT_OF_ACCOUNTS}

    def assert_unchanged(self, before: dict[bytes, Any]) -> None:
        """Check that Redis has what it had, and name the keys that differ."""
        now = self.dump()
        changed = {name for name in before.keys() | now.keys() if before.get(name) != now.get(name)}
        assert not changed, changed

    def _contents(self, name: bytes) -> Any:
        # Not DUMP: the order in a hash changes when it is merely read.
        kind: Any = self.redis.type(name)
        expires_at_ms = self.redis.pexpiretime(name.decode())
        if kind == b"hash":
            return expires_at_ms, self.redis.hgetall(name.decode())
        if kind == b"stream":
            return expires_at_ms, self.redis.xrange(name)
        return expires_at_ms, self.redis.zrange(name, 0, -1, withscores=True)

    def _grant(
        self,
        amount: int,
        id: str = "",
        *,
        category: str = "paid",
        priority: int = 50,
        expires_at_ms: int | None = None,
    ) -> tuple[str | int, ...]:
        self._grants += 1
        order = burn_order(priority, expires_at_ms, category, self._grants)
        return self._grants, amount, order, id or f"grant-{self._grants}"

    def _refill(self, name: str, *refills: tuple[str, tuple[str | int, ...]]) -> None:
        names = self.keys_of(name)
        pipeline = self.redis.pipeline(transaction=True)
        for verb, args in refills:
            number = self._refills[name] = self._refills.get(name, 0) + 1
            text = getattr(self._scripts, verb).text
            pipeline.eval(text, len(names), *names, self.epoch, self.epoch, number, *args)
        replies = pipeline.execute()
        assert all(reply[0] == b"applied" for reply in replies), replies


_NOT_OF_ACCOUNTS: Final = {name.encode() for name in (keys.ASK, keys.SIDECARS, keys.REGISTERED)}


class Event:
    """The packed field of a usage event."""

    FIELDS: Final = (
        "version", "account", "gen", "seq", "operation", "id", "at_ms", "amount", "total", "flags",
        "allocations", "context", "detail",
    )  # fmt: skip

    @classmethod
    def read(cls, packed: bytes) -> dict[str, Any]:
        """Return the event's fields by name, its JSON parts decoded."""
        event = dict(zip(cls.FIELDS, msgspec.msgpack.decode(packed), strict=True))
        for name in ("context", "detail"):
            event[name] = json.loads(event[name]) if event[name] else {}
        return event


@dataclass
class Meter:
    """A ready sidecar, a client of it, and the ledger behind it."""

    http: httpx.Client
    ledger: Ledger
    sidecar: Sidecar

    def post(self, verb: str, **fields: Any) -> httpx.Response:
        """Send one call."""
        return self.http.post(f"/v1/{verb}", json=fields)

    def accept(self, verb: str, **fields: Any) -> dict[str, Any]:
        """Send one call that is accepted, and return its answer."""
        response = self.post(verb, **fields)
        assert response.status_code == 200, response.text
        return dict(response.json())

    def refuse(self, verb: str, **fields: Any) -> tuple[int, dict[str, Any]]:
        """Send one call that is refused and changes nothing; return its status and its error."""
        before = self.ledger.dump()
        response = self.post(verb, **fields)
        assert response.status_code != 200, response.text
        self.ledger.assert_unchanged(before)
        return response.status_code, error_of(response)

    def balance(self, account: str) -> dict[str, Any]:
        """Return the answer of `GET /v1/balance`."""
        response = self.http.get("/v1/balance", params={"account": account})
        assert response.status_code == 200, response.text
        return dict(response.json())

    def available(self, account: str) -> int:
        """Return what an account has available."""
        return int(self.balance(account)["available"])


def error_of(response: httpx.Response) -> dict[str, Any]:
    """Return the error object of an answer, its form checked."""
    assert response.headers["content-type"] == "application/json"
    body = response.json()
    assert list(body) == ["error"]
    error = dict(body["error"])
    assert list(error)[:4] == ["code", "type", "message", "param"]
    assert isinstance(error["message"], str)
    assert error["message"].endswith(".")
    return error


@dataclass
class Answerer:
    """Answers what sidecars ask about accounts that Redis does not have, as a worker does."""

    ledger: Ledger
    outcomes: dict[str, str] = field(default_factory=dict)
    asked: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.load: Callable[[str], object] = lambda account: self.ledger.account(account, 1_000)
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="answerer")

    def __enter__(self) -> Answerer:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._stop.is_set():
            popped: Any = self.ledger.redis.blpop([keys.ASK], timeout=0.1)
            if popped:
                channel, _, account = popped[1].decode().partition(" ")
                self._answer(channel, account)

    def _answer(self, channel: str, account: str) -> None:
        self.asked.append(account)
        outcome = self.outcomes.get(account, "unknown")
        if outcome == "loaded":
            self.load(account)
        if outcome != "silent":
            self.ledger.redis.publish(channel, f"{account} {outcome}")


@contextlib.contextmanager
def running(redis_url: str, listen: str = "", **settings: str) -> Iterator[Sidecar]:
    """A sidecar of the test's own."""
    sidecar = Sidecar(redis_url, listen, **settings)
    try:
        yield sidecar.start()
    finally:
        sidecar.stop()
