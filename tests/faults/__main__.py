"""`python -m tests.faults`: break everything under load, and show that no promise is broken."""

from __future__ import annotations

import json
import secrets
import signal
import sys
from pathlib import Path

import click
from rich.console import Console

from loadtests.stack import sayer
from tests.faults.report import write_docs
from tests.faults.rows import ROWS
from tests.faults.run import Runner
from tests.faults.stack import Shape


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--rows", default="", help=f"Which faults, separated by commas: {', '.join(ROWS)}.")
@click.option("--cycles", type=click.IntRange(1), default=20, show_default=True,
              help="Cycles of each row.")  # fmt: skip
@click.option("--seconds", type=click.FloatRange(1), default=3_600, show_default=True,
              help="Begin no cycle after this time.")  # fmt: skip
@click.option("--soak", is_flag=True, help="Take rows by chance until the time is over.")
@click.option("--seed", type=click.IntRange(0), default=None, help="Repeat the choices of a run.")
@click.option("--shards", type=click.IntRange(1, 999), default=64, show_default=True)
@click.option("--json", "json_path", type=click.Path(dir_okay=False, path_type=Path),
              help="Write all figures there.")  # fmt: skip
@click.option("--docs", "docs_path", type=click.Path(dir_okay=False, path_type=Path),
              help="Write the table there as a page of the documentation.")  # fmt: skip
@click.option("--after", "earlier", multiple=True,
              type=click.Path(exists=True, dir_okay=False, path_type=Path),
              help="The --json of an earlier run: the page has its rows, too.")  # fmt: skip
def main(
    rows: str,
    cycles: int,
    seconds: float,
    soak: bool,
    seed: int | None,
    shards: int,
    json_path: Path | None,
    docs_path: Path | None,
    earlier: tuple[Path, ...],
) -> None:
    """Start the whole product, break it again and again under load, and check everything.

    Exit status: 0 when every promise was kept, 1 when one was broken; then the directory with logs
    and histories is kept.

    \b
    Examples:
      python -m tests.faults
      python -m tests.faults --rows power-loss,stale-replica --cycles 50
      python -m tests.faults --soak --seconds 28800
    """
    names = [name.strip() for name in rows.split(",") if name.strip()] or list(ROWS)
    unknown = [name for name in names if name not in ROWS]
    if unknown:
        raise click.BadParameter(f"no such row: {', '.join(unknown)}", param_hint="--rows")
    # So that everything that was started ends with this.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    seed = secrets.randbelow(1_000_000) if seed is None else seed
    runner = Runner(seed, Shape(shards=shards), sayer(Console(stderr=True)))
    report = runner.soak(names, seconds) if soak else runner.run(names, cycles, seconds)
    report.show(Console(width=None if sys.stdout.isatty() else 240))
    if json_path:
        report.write_json(json_path)
    if docs_path:
        runs = [json.loads(path.read_text()) for path in earlier]
        write_docs(docs_path, [*runs, report.to_dict()])
    sys.exit(0 if report.is_good else 1)


if __name__ == "__main__":
    main()
