"""One scenario from accounts to audit: load, resolve, flush, compare."""

from __future__ import annotations

import json
import secrets
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any, Final

import httpx
import redis
from sqlalchemy import Engine

from loadtests import checks, ledger, receipts
from loadtests.figures import ROOT, Latency
from loadtests.outcome import Outcome
from loadtests.receipts import Told
from loadtests.resolve import resolve
from loadtests.scenarios import Scenario
from loadtests.stack import Say, Stack, tail
from sidecar.dev import processes

_STOP_SECONDS: Final = 30
_REFILL_SECONDS: Final = 60.0
_FLUSH_SECONDS: Final = 120.0
_RESOLVE_SECONDS: Final = 60.0
_AUDIT_SECONDS: Final = 300.0
_TOP_UP_SECONDS: Final = 0.5

Tick = Callable[[float], None]
"""Called while the load runs, with the seconds it has been running."""


@dataclass(frozen=True, slots=True)
class Runner:
    """Runs scenarios against a stack. `accounts_at_most` makes them smaller, for a smoke test."""

    stack: Stack
    engine: Engine
    client: redis.Redis
    directory: Path
    users: int
    seconds: float
    say: Say
    accounts_at_most: int = 1_000_000

    def run(self, scenario: Scenario, tick: Tick) -> Outcome:
        """Run one scenario and return what it came to."""
        outcome = Outcome(scenario.name)
        names = self._accounts(scenario)
        try:
            self._prepare(scenario, names)
            told = self._load(scenario, names, outcome, tick)
            self._check(scenario, names, told, outcome)
        except (ledger.NotInTime, subprocess.TimeoutExpired, httpx.HTTPError) as error:
            outcome.mismatches.append(f"{type(error).__name__}: {error}")
        return outcome

    def _accounts(self, scenario: Scenario) -> list[str]:
        run = f"load-{secrets.token_hex(4)}-{scenario.name}"
        return [f"{run}-{at}" for at in range(min(scenario.accounts, self.accounts_at_most))]

    def _prepare(self, scenario: Scenario, names: list[str]) -> None:
        self.say(f"{scenario.name}: {scenario.sentence}")
        ledger.make_accounts(self.engine, names, scenario.granted, scenario.grants)
        ledger.wait_applied(self.engine, names, seconds=_REFILL_SECONDS)
        self.say(f"{scenario.name}: {self.users} clients, {self.seconds:.0f} s")

    def _load(self, scenario: Scenario, names: list[str], outcome: Outcome, tick: Tick) -> Told:
        files = _Files(self.directory / names[0])
        files.accounts.write_text("\n".join(names))
        with files.log.open("wb") as out:
            locust = processes.start(
                self._command(scenario, files), stdout=out, environment=_environment(self.stack)
            )
        try:
            with self._topping_up(scenario, names):
                self._wait(locust, tick)
        finally:
            processes.stop(locust, [signal.SIGTERM], _STOP_SECONDS)
        if locust.returncode != 0:
            outcome.mismatches.append(f"locust ended with {locust.returncode}: {tail(files.log)}")
        if files.summary.exists():
            _take_summary(json.loads(files.summary.read_text()), outcome)
        told = Told()
        for line in receipts.read(files.receipts):
            told.add(line)
        return told

    def _command(self, scenario: Scenario, files: _Files) -> list[str]:
        name = "locustfile_spike.py" if scenario.is_spike else "locustfile.py"
        return [
            sys.executable, "-m", "locust", "--locustfile", str(ROOT / "loadtests" / name),
            "--headless", "--only-summary", "--loglevel", "WARNING",
            "--users", str(self.users), "--spawn-rate", str(self.users),
            "--run-time", f"{self.seconds:.0f}s", "--stop-timeout", str(_STOP_SECONDS),
            "--exit-code-on-error", "0",
            "--scenario", scenario.name,
            "--accounts", str(files.accounts),
            "--receipts", str(files.receipts),
            "--summary", str(files.summary),
            *chain.from_iterable(("--sidecar", url) for url in self.stack.sidecars),
        ]  # fmt: skip

    def _wait(self, locust: subprocess.Popen[bytes], tick: Tick) -> None:
        started = time.monotonic()
        while locust.poll() is None:
            running = time.monotonic() - started
            if running > self.seconds + 2 * _STOP_SECONDS:
                return
            tick(running)
            with suppress(subprocess.TimeoutExpired):
                locust.wait(0.2)

    def _topping_up(self, scenario: Scenario, names: list[str]) -> _TopUps:
        return _TopUps(self.engine, names, scenario.top_up)

    def _check(self, scenario: Scenario, names: list[str], told: Told, outcome: Outcome) -> None:
        outcome.resent = len(told.unanswered)
        resolve(told, self.stack.sidecars, seconds=_RESOLVE_SECONDS)
        self.say(f"{scenario.name}: waiting until everything is flushed")
        started = time.monotonic()
        ledger.wait_flushed(self.engine, self.client, seconds=_FLUSH_SECONDS)
        ledger.wait_applied(self.engine, names, seconds=_REFILL_SECONDS)
        outcome.flush_seconds = time.monotonic() - started
        self.say(f"{scenario.name}: comparing receipts, ledger and Redis")
        truth = ledger.read_truth(self.engine, names)
        outcome.acknowledged = sum(told.nets().values())
        outcome.ledger = sum(truth.usage.values())
        outcome.mismatches += checks.compare(told, truth)
        balances = checks.read_balances(self.stack.sidecars, names)
        outcome.mismatches += checks.compare_balances(
            told, truth, balances, may_overspend=scenario.may_overspend
        )
        self._audit(outcome)

    def _audit(self, outcome: Outcome) -> None:
        self.say(f"{outcome.scenario}: credit-sidecar audit")
        audit = self.stack.audit(seconds=_AUDIT_SECONDS)
        outcome.audit_status = audit.returncode
        if audit.returncode != 0:
            printed = (audit.stdout + audit.stderr)[-4_000:]
            outcome.mismatches.append(f"audit exits with {audit.returncode}: {printed}")


class _Files:
    """The files of one locust process."""

    def __init__(self, stem: Path) -> None:
        self.accounts = stem.with_suffix(".accounts")
        self.receipts = stem.with_suffix(".receipts")
        self.summary = stem.with_suffix(".summary")
        self.log = stem.with_suffix(".log")


class _TopUps:
    """Adds grants while the load runs, from a thread of its own."""

    def __init__(self, engine: Engine, names: list[str], amount: int) -> None:
        self._engine = engine
        self._names = names
        self._amount = amount
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="top-ups")

    def __enter__(self) -> None:
        if self._amount:
            self._thread.start()

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        if self._amount:
            self._thread.join()

    def _run(self) -> None:
        number = 0
        while not self._stop.wait(_TOP_UP_SECONDS):
            number += 1
            for name in self._names:
                ledger.top_up(self._engine, name, f"top-up-{number}", self._amount)


def _environment(stack: Stack) -> dict[str, str]:
    return {"PATH": stack.environment()["PATH"], "PYTHONPATH": str(ROOT)}


def _take_summary(summary: dict[str, Any], outcome: Outcome) -> None:
    samples: dict[str, list[float]] = summary["latencies_ms"]
    everything = list(chain.from_iterable(samples.values()))
    outcome.seconds = summary["seconds"]
    outcome.hang_ups = summary["hang_ups"]
    outcome.requests = len(everything)
    outcome.codes = summary["codes"]
    outcome.latencies = {name: Latency.of(values) for name, values in samples.items()}
    outcome.latencies["all"] = Latency.of(everything)
