"""Does the hot path notice that the Stripe webhook is flooded? Measured in windows, with a proof.

`python -m loadtests.webhook_flood` starts a stack and measures the same open-loop load in quiet
windows and in windows with a flood. Exit status 1 says that something mismatched or failed.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import signal
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import click
import redis
from rich.console import Console

from loadtests import cores, figures, flood_proof, ledger
from loadtests.burner import Burner, burning
from loadtests.cores import Cores, Intruders
from loadtests.flood_proof import Proof
from loadtests.flood_report import Report, Window, show, write
from loadtests.flooder import FloodEnded, Flooder, Plan, flooding
from loadtests.probe import Flow, Session, run_closed, run_open
from loadtests.receipts import Told
from loadtests.stack import NotReady, Say, Stack, running_role, sayer
from persistence import schema
from persistence.database import make_engine
from sidecar.dev.embedded import PostgresServer, RedisServer
from sidecar.dev.processes import StartError

ACCOUNTS: Final = 64
GRANTED: Final = 1_000_000_000_000
_SECRET: Final = "whsec_of_the_load_run"
_WARM_UP_SECONDS: Final = 1.0
Trouble = Flooder | Burner
_CALLS_A_ROUND: Final = 3  # a debit, a hold and its settle: two flows


@dataclass(frozen=True, slots=True)
class Options:
    """How it is measured: so many pairs of windows of `seconds`, `rate` calls a second."""

    pairs: int
    seconds: float
    rate: float
    senders: int
    deliveries: float
    burn: int
    cores: Cores


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.option(
    "--pairs",
    type=click.IntRange(1, 1_000),
    default=5,
    show_default=True,
    help="Windows of each kind, quiet and flooded.",
)
@click.option(
    "--seconds",
    type=click.FloatRange(0.5, 600),
    default=5,
    show_default=True,
    help="Seconds of one window.",
)
@click.option(
    "--rate",
    type=click.FloatRange(3, 10_000),
    default=300,
    show_default=True,
    help="Calls a second: as many debits as holds as settles.",
)
@click.option(
    "--senders",
    type=click.IntRange(1, 256),
    default=16,
    show_default=True,
    help="Deliveries that are on their way at once in a flood.",
)
@click.option(
    "--deliveries",
    type=click.FloatRange(0),
    default=0,
    show_default=True,
    help="Deliveries a second in a flood; 0: as fast as they are answered.",
)
@click.option(
    "--burn",
    type=click.IntRange(0, 256),
    default=0,
    metavar="COUNT",
    help="No flood: so many processes that are busy with nothing, for comparison.",
)
@click.option("--pin/--no-pin", "is_pinned", default=True, show_default=True,
              help="Give the hot path one half of the cores, and the rest the other.")  # fmt: skip
@click.option("--json", "json_path", type=click.Path(dir_okay=False, path_type=Path),
              help="Write all figures there too.")  # fmt: skip
def main(
    pairs: int,
    seconds: float,
    rate: float,
    senders: int,
    deliveries: float,
    burn: int,
    is_pinned: bool,
    json_path: Path | None,
) -> None:
    """Measure the hot path (open loop) with a quiet and with a flooded Stripe webhook.

    A flood is a mix of new top-ups of the accounts that are measured, duplicates, events of types
    that are ignored, and deliveries that somebody else signed. After each the inbox is drained.

    \b
    Examples:
      python -m loadtests.webhook_flood
      python -m loadtests.webhook_flood --pairs 10 --seconds 10 --rate 600 --json figures.json
      python -m loadtests.webhook_flood --no-pin --deliveries 200
    """
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    halves = Cores.halves() if is_pinned else Cores()
    options = Options(pairs, seconds, rate, senders, deliveries, burn, halves)
    machine, say = figures.machine(), sayer(Console(stderr=True))
    try:
        report = _run(options, say)
    except (NotReady, StartError, FloodEnded, ledger.NotInTime) as error:
        raise click.ClickException(str(error)) from error
    machine = {**machine, "cores": str(halves), "load": _load_of(options)}
    show(report, machine, Console(width=None if sys.stdout.isatty() else 200))
    if json_path:
        write(json_path, report, machine)
    sys.exit(0 if report.is_good else 1)


def _load_of(options: Options) -> str:
    pace = f"at most {options.deliveries:g}/s" if options.deliveries else "as fast as answered"
    senders = f"{options.senders} senders, {pace}"
    if options.burn:
        senders = f"NO FLOOD but {options.burn} processes busy with nothing in its place"
    return (
        f"{options.rate:g} calls/s, {options.pairs} windows of each kind, {options.seconds:g} s "
        f"each; {senders}"
    )


def _run(options: Options, say: Say) -> Report:
    with contextlib.ExitStack() as closing:
        directory = Path(closing.enter_context(tempfile.TemporaryDirectory(prefix="credits-load-")))
        stack, webhook = closing.enter_context(_running(directory, options.cores, say))
        engine = make_engine(stack.postgres_url, application_name="load run")
        closing.callback(engine.dispose)
        client = closing.enter_context(contextlib.closing(redis.Redis.from_url(stack.redis_url)))
        accounts = [f"flood-{at}" for at in range(ACCOUNTS)]
        ledger.make_accounts(engine, accounts, GRANTED, 1)
        ledger.wait_applied(engine, accounts, seconds=60)
        proof = Proof(stack, engine, client, accounts, GRANTED, say)
        flooder = closing.enter_context(_trouble(options, webhook, accounts))
        told = Told()
        windows = _windows(options, stack, proof, flooder, told)
        kind = "burning" if options.burn else "flooded"
        return Report(windows, flood_proof.prove(proof, told, windows), kind)


def _trouble(
    options: Options, webhook: str, accounts: Sequence[str]
) -> contextlib.AbstractContextManager[Trouble]:
    if options.burn:
        return burning(options.burn, options.cores.others)
    plan = Plan(webhook, _SECRET, tuple(accounts), options.senders, options.deliveries)
    with cores.on(options.cores.others):
        return flooding(Flooder(plan))


@contextlib.contextmanager
def _running(directory: Path, halves: Cores, say: Say) -> Iterator[tuple[Stack, str]]:
    """Start everything, each part on its cores; yield the stack and the webhook's listener."""
    store, postgres = RedisServer(directory / "redis"), PostgresServer(directory / "postgres")
    with contextlib.ExitStack() as closing:
        closing.callback(store.stop)
        closing.callback(postgres.stop)
        with cores.on(halves.measured):
            say("starting Redis")
            store.start()
        with cores.on(halves.others):
            say("starting Postgres, migrating the ledger")
            postgres.start()
            schema.upgrade(postgres.url())
            environment = Stack(store.url, postgres.url(), ()).environment() | {
                "CREDITS_ADMIN_TOKEN": "admin-token-of-the-load-run",
                "CREDITS_STRIPE_WEBHOOK_SECRET": _SECRET,
            }
            closing.enter_context(running_role("worker", directory, environment, say))
            control = closing.enter_context(running_role("control", directory, environment, say))
        with cores.on(halves.measured):
            sidecar = closing.enter_context(running_role("serve", directory, environment, say))
        yield Stack(store.url, postgres.url(), (sidecar,)), control


def _windows(
    options: Options, stack: Stack, proof: Proof, flooder: Trouble, told: Told
) -> Sequence[Window]:
    def session(name: str) -> Session:
        return Session(stack.sidecars[0], proof.accounts, told, name)

    windows: list[Window] = []
    with cores.on(options.cores.measured):
        run_closed(session("warm-up"), Session.hold_and_settle, 16, _WARM_UP_SECONDS)
        for pair in range(options.pairs):
            # The other way round each time, so that what drifts is on both sides.
            for is_flooded in (False, True) if pair % 2 == 0 else (True, False):
                kind = "flooded" if is_flooded else "quiet"
                proof.say(f"pair {pair + 1} of {options.pairs}: {kind}")
                name = f"{kind}-{pair}"
                window = _flooded if is_flooded else _quiet
                windows.append(window(options, session(name), proof, flooder))
    return windows


def _quiet(options: Options, session: Session, _proof: Proof, _flooder: Trouble) -> Window:
    return _measured(options, session)


def _flooded(options: Options, session: Session, proof: Proof, flooder: Trouble) -> Window:
    before = flood_proof.finished(proof.engine)
    flooder.begin()
    window = _measured(options, session)
    window.finished_meanwhile = flood_proof.finished(proof.engine) - before
    window.flooded = flooder.end()
    began = time.monotonic()
    flood_proof.wait_drained(proof)
    window.drain_seconds = time.monotonic() - began
    return window


def _measured(options: Options, session: Session) -> Window:
    load_average, intruders = os.getloadavg()[0], Intruders(options.cores.measured)
    trial = run_open(session, _alternating(), options.rate * 2 / _CALLS_A_ROUND, options.seconds)
    others = intruders.share()
    return Window(session.samples_ms, trial.errors, trial.sent_late_ms, load_average, others)


def _alternating() -> Flow:
    turns = itertools.cycle((Session.debit, Session.hold_and_settle))

    async def flow(session: Session, due: float) -> None:
        await next(turns)(session, due)

    return flow


if __name__ == "__main__":
    main()
