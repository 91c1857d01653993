"""Running rows: each for some cycles, or one after another by chance for as long as one wants."""

from __future__ import annotations

import contextlib
import dataclasses
import random
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from time import monotonic
from typing import Final

from loadtests.figures import machine
from loadtests.stack import Say
from tests.faults.episode import Episode, Result
from tests.faults.report import Report, add
from tests.faults.rows import ROWS
from tests.faults.stack import Redis, Shape, Stack, running_stack
from tests.faults.traffic import Traffic, traffic

_EPISODE_CYCLES: Final = 10
"""Cycles on the same accounts: after each the whole history of an account is checked again."""

_SOAK_CYCLES: Final = 4


class Runner:
    """Runs rows, all on one stack while nothing is wrong."""

    def __init__(self, seed: int, shape: Shape, say: Say) -> None:
        self._seed = seed
        self._shape = shape
        self._say = say
        self._episodes = 0
        self._stacks = 0
        self._directory = Path()

    def run(self, names: Sequence[str], cycles: int, seconds: float) -> Report:
        """Run `cycles` of each row, as far as the time goes.

        A row ends with the first cycle in which something is wrong; the next row begins on a new
        stack then. The directory with logs and histories is kept when something was wrong.
        """
        deadline = monotonic() + seconds
        plan = [(name, count) for name in names for count in _portions(cycles)]
        return self._run(names, iter(plan), deadline)

    def soak(self, names: Sequence[str], seconds: float) -> Report:
        """Run rows by chance until the time is over or something is wrong."""
        return self._run(names, self._forever(names), monotonic() + seconds, is_strict=True)

    def _run(
        self,
        names: Sequence[str],
        plan: Iterator[tuple[str, int]],
        deadline: float,
        *,
        is_strict: bool = False,
    ) -> Report:
        began, about = monotonic(), machine()
        self._directory = Path(tempfile.mkdtemp(prefix="credits-faults-"))
        self._say(f"seed {self._seed}, in {self._directory}")
        totals = {name: Result(ROWS[name]) for name in names}
        steps = _Steps(plan)
        with traffic() as loop:
            while steps.are_left and self._on_one_stack(loop, steps, totals, deadline):
                if is_strict and any(total.problems for total in totals.values()):
                    break
        report = Report(self._seed, about, list(totals.values()), monotonic() - began)
        if report.is_good:
            shutil.rmtree(self._directory, ignore_errors=True)
        else:
            self._say(f"logs and histories are kept in {self._directory}")
        return report

    def _on_one_stack(
        self,
        loop: Traffic,
        steps: _Steps,
        totals: dict[str, Result],
        deadline: float,
    ) -> bool:
        """Run what is planned until the stack is of no more use; tell whether time is left."""
        shape = dataclasses.replace(self._shape, redis=steps.redis)
        self._stacks += 1
        directory = self._directory / f"stack-{self._stacks}"
        directory.mkdir()
        with running_stack(directory, loop, shape, self._say) as stack:
            while steps.are_left:
                if steps.redis is not shape.redis:
                    return True
                name, cycles = steps.pop()
                total = totals[name]
                if monotonic() > deadline:
                    return False
                if total.problems or total.is_complete:
                    continue
                add(total, self._episode(stack, name, cycles, deadline))
                if total.problems or total.row.is_last:
                    return True
        return False

    def _episode(self, stack: Stack, name: str, cycles: int, deadline: float) -> Result:
        row = ROWS[name]
        why_not = row.why_not()
        if why_not is not None:
            self._say(f"{name} is skipped: {why_not}")
            return Result(row, skipped=why_not)
        self._episodes += 1
        seed = self._seed * 1_000 + self._episodes
        directory = stack.directory / f"{name}-{self._episodes}"
        return Episode(stack, row, seed, directory, self._say).run(cycles, deadline)

    def _forever(self, names: Sequence[str]) -> Iterator[tuple[str, int]]:
        chance = random.Random(self._seed)
        while True:
            yield chance.choice(names), _SOAK_CYCLES


class _Steps:
    """What is planned, one step known ahead."""

    def __init__(self, plan: Iterator[tuple[str, int]]) -> None:
        self._plan = plan
        self._first = next(plan, None)

    @property
    def are_left(self) -> bool:
        """Whether there is another one."""
        return self._first is not None

    @property
    def redis(self) -> Redis:
        """On how many servers the next one is."""
        assert self._first is not None
        return ROWS[self._first[0]].redis

    def pop(self) -> tuple[str, int]:
        """Return the next step."""
        step, self._first = self._first, next(self._plan, None)
        assert step is not None
        return step


def run_short(names: Sequence[str], directory: Path, seed: int, say: Say) -> list[Result]:
    """Run one cycle of each row on one stack: the form that runs with all other tests."""
    results = []
    shape = Shape(is_durable=False, redis=ROWS[names[0]].redis)
    with contextlib.ExitStack() as closing:
        loop = closing.enter_context(traffic())
        stack = closing.enter_context(running_stack(directory, loop, shape, say))
        for number, name in enumerate(names):
            episode = Episode(stack, ROWS[name], seed + number, directory / name, say)
            results.append(episode.run(1, monotonic() + 60))
            if results[-1].problems:
                break
    return results


def _portions(cycles: int) -> Iterator[int]:
    for begun in range(0, cycles, _EPISODE_CYCLES):
        yield min(_EPISODE_CYCLES, cycles - begun)
