"""Load scenarios, each followed by a comparison of receipts, ledger and Redis, and an audit.

`python -m loadtests.run` starts everything it needs; exit status 1 says that something mismatched.
"""

from __future__ import annotations

import contextlib
import json
import signal
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import click
import redis
from rich.console import Console
from rich.progress import Progress

from loadtests import figures, outcome
from loadtests.outcome import Outcome
from loadtests.runner import Runner
from loadtests.scenarios import SCENARIOS
from loadtests.stack import NotReady, Say, Stack, embedded_servers, roles, sayer
from persistence.database import make_engine
from sidecar.dev.processes import StartError


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.argument("scenarios", nargs=-1, type=click.Choice(list(SCENARIOS)))
@click.option(
    "--duration",
    type=click.FloatRange(1, 3_600),
    default=10,
    show_default=True,
    help="Seconds of load in each scenario.",
)
@click.option(
    "--users",
    type=click.IntRange(1, 1_000),
    default=32,
    show_default=True,
    help="Concurrent clients.",
)
@click.option("--sidecars", type=click.IntRange(1, 16), default=2, show_default=True)
@click.option("--workers", type=click.IntRange(1, 16), default=2, show_default=True)
@click.option(
    "--accounts-at-most",
    type=click.IntRange(1),
    default=1_000,
    show_default=True,
    help="Use fewer accounts than a scenario has.",
)
@click.option(
    "--sidecar",
    "sidecar_urls",
    multiple=True,
    metavar="URL",
    help="A running sidecar instead of new ones; repeatable. Needs both URLs below.",
)
@click.option("--redis-url", metavar="URL", help="A running Redis instead of a new one.")
@click.option("--postgres-url", metavar="URL", help="A running, migrated ledger instead.")
@click.option("--json", "json_path", type=click.Path(dir_okay=False, path_type=Path),
              help="Write all figures there too.")  # fmt: skip
def main(
    scenarios: Sequence[str],
    duration: float,
    users: int,
    sidecars: int,
    workers: int,
    accounts_at_most: int,
    sidecar_urls: Sequence[str],
    redis_url: str | None,
    postgres_url: str | None,
    json_path: Path | None,
) -> None:
    """Run load scenarios (all of them unless named) and prove that nothing was lost or invented.

    \b
    Examples:
      python -m loadtests.run
      python -m loadtests.run hot mixed --duration 30 --users 64
      python -m loadtests.run steady --sidecar http://127.0.0.1:8787 \\
          --redis-url unix:///path/redis.sock --postgres-url 'postgresql://...'
    """
    if (redis_url is None) != (postgres_url is None) or (sidecar_urls and not redis_url):
        raise click.UsageError("--redis-url and --postgres-url go together.")
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    machine, say = figures.machine(), sayer(Console(stderr=True))
    with contextlib.ExitStack() as closing:
        directory = Path(closing.enter_context(tempfile.TemporaryDirectory(prefix="credits-load-")))
        urls = (redis_url, postgres_url) if redis_url and postgres_url else None
        try:
            stack = closing.enter_context(
                _stack(directory, urls, tuple(sidecar_urls), sidecars, workers, say)
            )
        except (NotReady, StartError) as error:
            raise click.ClickException(str(error)) from error
        outcomes = _run(stack, directory, scenarios or list(SCENARIOS), users, duration,
                        accounts_at_most, say)  # fmt: skip
    outcome.show(outcomes, machine, Console(width=None if sys.stdout.isatty() else 200))
    if json_path:
        _write(json_path, machine, outcomes)
    sys.exit(1 if any(one.mismatches for one in outcomes) else 0)


def _write(path: Path, machine: Mapping[str, str], outcomes: Sequence[Outcome]) -> None:
    results = [one.as_json() for one in outcomes]
    path.write_text(json.dumps({"machine": machine, "outcomes": results}, indent=2))


def _run(
    stack: Stack,
    directory: Path,
    scenarios: Sequence[str],
    users: int,
    seconds: float,
    accounts_at_most: int,
    say: Say,
) -> list[Outcome]:
    engine, client = make_engine(stack.postgres_url), redis.Redis.from_url(stack.redis_url)
    runner = Runner(stack, engine, client, directory, users, seconds, say, accounts_at_most)
    try:
        with Progress(console=Console(stderr=True), transient=True) as progress:
            return [_one(runner, name, progress) for name in scenarios]
    finally:
        client.close()
        engine.dispose()


def _one(runner: Runner, name: str, progress: Progress) -> Outcome:
    bar = progress.add_task(name, total=runner.seconds)
    try:
        return runner.run(SCENARIOS[name], lambda seconds: progress.update(bar, completed=seconds))
    finally:
        progress.remove_task(bar)


@contextlib.contextmanager
def _stack(
    directory: Path,
    urls: tuple[str, str] | None,
    sidecar_urls: tuple[str, ...],
    sidecars: int,
    workers: int,
    say: Say,
) -> Iterator[Stack]:
    with contextlib.ExitStack() as closing:
        redis_url, postgres_url = urls or closing.enter_context(embedded_servers(directory, say))
        if sidecar_urls:
            yield Stack(redis_url, postgres_url, sidecar_urls)
            return
        yield closing.enter_context(
            roles(directory, redis_url, postgres_url, sidecars=sidecars, workers=workers, say=say)
        )


if __name__ == "__main__":
    main()
