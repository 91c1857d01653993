"""How long a decision takes and how many there are a second, on this machine, with a proof.

`python -m loadtests.bench` starts a stack, measures, and compares what was acknowledged with the
ledger; exit status 1 says that something mismatched. Trials of different probes alternate.
"""

from __future__ import annotations

import contextlib
import secrets
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Final

import click
import redis
from rich.console import Console
from rich.table import Table
from sqlalchemy import Engine

from loadtests import checks, figures, ledger
from loadtests.figures import Latency, spread
from loadtests.outcome import print_table
from loadtests.probe import Flow, Session, Trial, run_closed, run_open
from loadtests.receipts import Told
from loadtests.resolve import resolve
from loadtests.stack import NotReady, Stack, embedded_servers, roles, sayer
from persistence.database import make_engine
from sidecar.dev.processes import StartError

_ACCOUNTS: Final = 64
_GRANTED: Final = 1_000_000_000_000
_WARM_UP_SECONDS: Final = 1.0
_FLUSH_SECONDS: Final = 120.0


@dataclass(frozen=True, slots=True)
class Probe:
    """One thing that is measured."""

    name: str
    measure: Callable[[Session, float], Trial]


def _open(name: str, flow: Flow, rate: int) -> Probe:
    return Probe(f"{name}, {rate}/s", lambda s, seconds: run_open(s, flow, rate, seconds))


def _closed(name: str, flow: Flow, connections: int) -> Probe:
    return Probe(
        f"{name}, {connections} closed",
        lambda s, seconds: run_closed(s, flow, connections, seconds),
    )


PROBES: Final = (
    _open("healthz (floor)", Session.floor, 200),
    _open("debit", Session.debit, 200),
    _open("hold + settle", Session.hold_and_settle, 200),
    _open("healthz (floor)", Session.floor, 1_000),
    _open("debit", Session.debit, 1_000),
    _open("hold + settle", Session.hold_and_settle, 500),
    _closed("debit", Session.debit, 1),
    _closed("debit", Session.debit, 16),
    _closed("debit", Session.debit, 64),
    _closed("hold + settle", Session.hold_and_settle, 16),
)
"""What is measured, in this order, once in each trial."""


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--trials", type=click.IntRange(1, 50), default=3, show_default=True)
@click.option(
    "--duration",
    type=click.FloatRange(0.5, 600),
    default=3,
    show_default=True,
    help="Seconds of one probe in one trial.",
)
@click.option("--only", metavar="TEXT", help="Only probes whose names contain this.")  # fmt: skip
def main(trials: int, duration: float, only: str | None) -> None:
    """Measure latency (open loop, from the intended send time) and throughput (closed loop).

    \b
    Examples:
      python -m loadtests.bench
      python -m loadtests.bench --only debit --trials 5 --duration 10
    """
    probes = [probe for probe in PROBES if not only or only in probe.name]
    if not probes:
        raise click.UsageError("No probe has such a name.")
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    machine, say = dict(figures.machine()), sayer(Console(stderr=True))
    with contextlib.ExitStack() as closing:
        directory = Path(closing.enter_context(tempfile.TemporaryDirectory(prefix="credits-load-")))
        try:
            urls = closing.enter_context(embedded_servers(directory, say))
            stack = closing.enter_context(roles(directory, *urls, sidecars=1, workers=1, say=say))
        except (NotReady, StartError) as error:
            raise click.ClickException(str(error)) from error
        results, mismatches = _measure(stack, probes, trials, duration, say)
    machine["trials"] = f"{trials} of {duration:g} s each, probes alternating"
    _show(results, machine, mismatches)
    sys.exit(1 if mismatches else 0)


def _measure(
    stack: Stack, probes: Sequence[Probe], trials: int, seconds: float, say: Callable[[str], None]
) -> tuple[Mapping[str, list[Trial]], list[str]]:
    engine, client = make_engine(stack.postgres_url), redis.Redis.from_url(stack.redis_url)
    run = secrets.token_hex(4)
    accounts = [f"bench-{run}-{at}" for at in range(_ACCOUNTS)]
    told = Told()
    try:
        ledger.make_accounts(engine, accounts, _GRANTED, 1)
        ledger.wait_applied(engine, accounts, seconds=_FLUSH_SECONDS)
        session = partial(Session, stack.sidecars[0], accounts, told)
        say("warming up")
        run_closed(session("warm-up"), Session.hold_and_settle, 16, _WARM_UP_SECONDS)
        results: dict[str, list[Trial]] = {probe.name: [] for probe in probes}
        for trial in range(trials):
            for at, probe in enumerate(probes):
                say(f"trial {trial + 1} of {trials}: {probe.name}")
                measured = probe.measure(session(f"t{trial}-p{at}"), seconds)
                results[probe.name].append(measured)
        return results, _prove(stack, engine, client, accounts, told, say)
    finally:
        client.close()
        engine.dispose()


def _prove(
    stack: Stack,
    engine: Engine,
    client: redis.Redis,
    accounts: list[str],
    told: Told,
    say: Callable[[str], None],
) -> list[str]:
    say("comparing receipts and ledger")
    resolve(told, stack.sidecars, seconds=60)
    started = time.monotonic()
    ledger.wait_flushed(engine, client, seconds=_FLUSH_SECONDS)
    truth = ledger.read_truth(engine, accounts)
    mismatches = list(checks.compare(told, truth))
    balances = checks.read_balances(stack.sidecars, accounts)
    mismatches += checks.compare_balances(told, truth, balances, may_overspend=False)
    audit = stack.audit(seconds=300)
    if audit.returncode != 0:
        mismatches.append(f"audit exits with {audit.returncode}: {audit.stdout[-4_000:]}")
    charges, seconds = len(told.debited) + len(told.settled), time.monotonic() - started
    say(f"{charges:,} charges, {len(mismatches)} mismatches, proved in {seconds:.1f} s")
    return mismatches


def _show(
    results: Mapping[str, list[Trial]], machine: Mapping[str, str], mismatches: list[str]
) -> None:
    console = Console(width=None if sys.stdout.isatty() else 200)
    for name, value in machine.items():
        console.print(f"{name}: {value}", highlight=False)
    table = Table(title="Median of the trials (least - most); latencies in ms")
    for at, column in enumerate(
        ("probe", "call", "flows per s", "p50", "p99", "p99.9", "errors", "probe late, p99")
    ):
        table.add_column(column, justify="left" if at < 2 else "right")
    for probe, trials in results.items():
        _add_rows(table, probe, trials)
    print_table(table, console)
    console.print(f"ledger mismatches: {len(mismatches)}", style="red" if mismatches else None)
    for mismatch in mismatches[:20]:
        console.print(mismatch, style="red", markup=False)


def _add_rows(table: Table, probe: str, trials: list[Trial]) -> None:
    # A probe that got no answer at all is shown too, with its errors.
    for call in trials[0].latencies or ("none",):
        latencies = [trial.latencies.get(call, Latency(0, 0, 0, 0)) for trial in trials]
        table.add_row(
            probe,
            call,
            spread([trial.rate for trial in trials], 0),
            spread([latency.p50 for latency in latencies], 2),
            spread([latency.p99 for latency in latencies], 2),
            spread([latency.p999 for latency in latencies], 2),
            _errors(trials),
            spread([trial.sent_late_ms for trial in trials], 2) if probe.endswith("/s") else "",
        )


def _errors(trials: list[Trial]) -> str:
    total = sum((trial.errors for trial in trials), Counter())
    return ", ".join(f"{kind}: {count}" for kind, count in total.items()) or "0"


if __name__ == "__main__":
    main()
