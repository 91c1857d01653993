"""`python -m tests.simulation`: play histories by the thousand, or one again with its trace."""

from __future__ import annotations

import secrets
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from itertools import islice

import click
from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeRemainingColumn,
)

from tests.simulation.mutations import MUTATIONS, Mutation
from tests.simulation.play import Outcome, play
from tests.simulation.rules import Rules

_CHUNK = 250  # histories that a process plays at a time
_SHOWN = 3  # failures that are shown with their last steps


@dataclass(slots=True)
class Found:
    """The first failures, with their seeds in order, and of how many histories."""

    histories: int = 0
    failures: list[Outcome] = field(default_factory=list)


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--histories", type=click.IntRange(1), default=100_000, show_default=True)
@click.option("--seed", type=click.IntRange(0), default=None,
              help="Of the first history; the others follow. By chance if not given.")  # fmt: skip
@click.option("--processes", type=click.IntRange(1), default=1, show_default=True)
@click.option("--mutation", type=click.Choice(sorted(MUTATIONS)), default=None,
              help="Take one rule away, and stop at the first history that shows it.")  # fmt: skip
@click.option("--replay", type=click.IntRange(0), default=None, metavar="SEED",
              help="Play one history again and print every step.")  # fmt: skip
def main(
    histories: int, seed: int | None, processes: int, mutation: str | None, replay: int | None
) -> None:
    """Play random histories of losses; every promise must be kept in each of them.

    Exit status: 0 when it was so, 1 when one was broken. With a mutation one must be broken, and
    the exit status is 0 when it was.

    \b
    Examples:
      python -m tests.simulation --histories 100000 --processes 2
      python -m tests.simulation --mutation "no fence"
      python -m tests.simulation --replay 4711
    """
    console = Console(highlight=False)
    changed = MUTATIONS[mutation] if mutation else Mutation(Rules(), (), ())
    if replay is not None:
        outcome = play(replay, changed.rules, changed.faults, is_traced=True)
        console.print("\n".join(outcome.trace), markup=False, soft_wrap=True)
        console.print(_verdict(outcome), markup=False, soft_wrap=True)
        sys.exit(bool(outcome.kind))
    if seed is None:
        seed = changed.first if mutation else secrets.randbelow(1_000_000_000)
    started = time.perf_counter()
    found = _search(console, changed, seed, histories, processes, is_one_enough=bool(mutation))
    seconds = time.perf_counter() - started
    _report(console, found, changed, seed, seconds)
    sys.exit(bool(found.failures) != bool(mutation))


def _search(
    console: Console,
    changed: Mutation,
    first: int,
    histories: int,
    processes: int,
    *,
    is_one_enough: bool,
) -> Found:
    found = Found()
    chunks = [
        range(start, min(start + _CHUNK, first + histories))
        for start in range(first, first + histories, _CHUNK)
    ]
    columns = (TextColumn("histories"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True)) as progress:
        bar = progress.add_task("histories", total=histories)
        for played, failures in _played(chunks, changed, processes):
            found.histories += played
            found.failures += failures
            progress.update(bar, completed=found.histories)
            if is_one_enough and found.failures:
                break
    return found


def _played(
    chunks: list[range], changed: Mutation, processes: int
) -> Iterator[tuple[int, list[Outcome]]]:
    work = partial(_play_some, changed)
    if processes == 1:
        yield from map(work, chunks)
        return
    with ProcessPoolExecutor(processes) as pool:
        # Some at a time: what is submitted is played, also when one has seen enough.
        waiting = iter(chunks)
        while some := list(islice(waiting, processes * 2)):
            yield from pool.map(work, some)


def _play_some(changed: Mutation, seeds: range) -> tuple[int, list[Outcome]]:
    outcomes = (play(seed, changed.rules, changed.faults) for seed in seeds)
    return len(seeds), [outcome for outcome in outcomes if outcome.kind]


def _report(console: Console, found: Found, changed: Mutation, first: int, seconds: float) -> None:
    for outcome in found.failures[:_SHOWN]:
        traced = play(outcome.seed, changed.rules, changed.faults, is_traced=True)
        console.print(str(traced), markup=False, soft_wrap=True)
    seeds = " ".join(str(outcome.seed) for outcome in found.failures)
    if found.failures:
        after = found.failures[0].seed - first + 1
        console.print(f"the first violation was in history {after}; seeds: {seeds}")
    console.print(
        f"{found.histories} histories from seed {first}: {len(found.failures)} violations,"
        f" {seconds:.1f} s"
    )


def _verdict(outcome: Outcome) -> str:
    broken = f"{outcome.kind}: {outcome.detail}" if outcome.kind else "every promise was kept"
    return f"seed {outcome.seed}: {broken}"


if __name__ == "__main__":
    main()
