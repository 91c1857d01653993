"""Mutation check: change the scripts' arithmetic and logic bit by bit; the tests must notice.

    python -m tests.lua.mutate              every mutant of every script
    python -m tests.lua.mutate settle refund

Each mutant is one changed line in a copy of the tree, on which the tables of `tests/lua` run, and
if they pass a short state machine. Exits 1 when a mutant survives that is not known to be the same
program in other words (`EQUIVALENT`).
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from queue import Queue
from typing import Final

ROOT: Final = Path(__file__).parents[2]
COPIED: Final = ("lua", "persistence", "sidecar", "tests", "pyproject.toml")
WORKERS: Final = 2
TIMEOUT_SECONDS: Final = 120

SWAPS: Final = (
    (r" \+ ", " - "),
    (r" - ", " + "),
    (r" -(?=[a-z(])", " "),
    (r"\(-(?=[a-z])", "("),
    (r" <= ", " < "),
    (r" >= ", " > "),
    (r" < ", " <= "),
    (r" > ", " >= "),
    (r" == ", " ~= "),
    (r" ~= ", " == "),
    (r"math\.min", "math.max"),
    (r"math\.max", "math.min"),
    (r" and ", " or "),
    (r" or ", " and "),
    (r"\bnot ", ""),
    (r"\btrue\b", "false"),
    (r"\bfalse\b", "true"),
    (r"= 0$", "= 1"),
    (r"#list, 2 do", "#list - 2, 2 do"),
    (r"1, -2 do", "2, -2 do"),
    (r"charge\[CHARGED\]", "charge[REFUNDED]"),
    (r"hold\[CHARGED\]", "hold[AMOUNT]"),
    (r"pool_part\(", "total_of("),
    (r"account\.pool\b", "account.available"),
    (r"account\.head_left", "account.available"),
)
"""What is changed for what, one occurrence at a time."""

DROPPED: Final = re.compile(
    r"^\s*(call\(|push\(|give|cover\(|event\(|remember\(|schedule\(|expire_\w+\(|close_hold\("
    r"|put_head_back\(|take_head\(|take_again\(|look_ahead\(|ring\("
    r"|account[.\[][\w\]]+(, account\.\w+)? = |hold\[|rest|charged? ?="
    r"|charge\[|lacking = |taken = |left = |amount = |break$|state, released)"
)
"""Statements that stand on one line, which a mutant does without."""

REORDERED: Final = (
    ("refund", "local back, lacking = {}, amount\nfor i = #charge[CHARGES] - 1, 1, -2 do",
     "local back, lacking = {}, amount\nfor i = 1, #charge[CHARGES], 2 do"),
    ("settle", "give_held(rest)\nend\ncover()", "cover()\n  give_held(rest)\nend"),
    ("release", "give_held(hold[HELD])\ncover()", "cover()\ngive_held(hold[HELD])"),
    ("grant", "expire_due()\ncover()", "cover()\nexpire_due()"),
    ("prelude", "'ZRANGE', order_key, 0, 0)[1]\n    if", "'ZRANGE', order_key, -1, -1)[1]\n    if"),
    ("prelude", "put_head_back()\n    take_head(next_order)", "take_head(next_order)"),
    ("prelude", "BURN_GRANTS = 1000", "BURN_GRANTS = 999"),
    ("prelude", "EXPIRE_ITEMS = 16", "EXPIRE_ITEMS = 17"),
    ("prelude", "DAY_MS = 86400000", "DAY_MS = 43200000"),
    ("prelude", "'-inf', int(now_ms), 'LIMIT'", "'-inf', int(now_ms - 10000000), 'LIMIT'"),
    ("prelude", "time[1] * 1000", "time[1] * 100"),
    ("prelude", "string.format('%.0f', number)", "number .. ''"),
    ("balance", "order_key, 0, 998", "order_key, 0, 999"),
    ("hold", "shrunk and 1 or 0 }", "0 }"),
    ("settle", "local flags = (late and 1 or 0)", "local flags = (late and 0 or 1)"),
    ("settle", "grant_no ~= 0 and math.min(lacking, amount) or 0", "math.min(lacking, amount)"),
    ("debit", "event('debit', id, amount, amount, 4", "event('debit', id, amount, 0, 4"),
    ("refund", "event('refund', id, -amount, amount, 4", "event('refund', id, -amount, left, 4"),
)  # fmt: skip
"""Changes of more than a word: script, what is there, what stands in its place."""

EQUIVALENT: Final[dict[tuple[str, str, str], str]] = {
    ("extend", "if more > 0 then", "if more >= 0 then"): "burning nothing changes nothing",
    ("settle", "if lacking > 0 then", "if lacking >= 0 then"): "burning nothing changes nothing",
    (
        "settle",
        "local overdrawn = math.min(lacking, pool_part(rest))",
        "local overdrawn = math.min(lacking, total_of(rest))",
    ): "with something lacking no grant has a rest",
    ("restore", "if amount > 0 then", "if amount >= 0 then"): "no event has a part of nothing",
    (
        "open",
        "if tonumber(call('HGET', account_key, 'epoch')) > tonumber(epoch) then",
        "if tonumber(call('HGET', account_key, 'epoch')) >= tonumber(epoch) then",
    ): "one of the same epoch is not fenced",
    ("prelude", "local now_ms = 0", "local now_ms = 1"): "the clock is read before it is used",
    (
        "prelude",
        "if at_ms < account.next_expiry then",
        "if at_ms <= account.next_expiry then",
    ): "it writes what is there",
    (
        "prelude",
        "elseif level > account.rung and available < was and (was > 0 or is_call) then",
        "elseif level > account.rung and available <= was and (was > 0 or is_call) then",
    ): "it is asked only when they differ",
    ("prelude", "if debt <= 0 then", "if debt < 0 then"): "covering nothing changes nothing",
    (
        "prelude",
        "elseif order < account.head then",
        "elseif order <= account.head then",
    ): "the head itself has returned before",
    ("prelude", "account.day = day", ""): "the same time to live is set again",
}
"""Mutants that are the same program in other words, with the reason."""


@dataclass(frozen=True, slots=True)
class Mutant:
    """One changed script."""

    script: str
    line: int
    before: str
    after: str
    text: str

    @property
    def key(self) -> tuple[str, str, str]:
        """What names the mutant whatever its line number."""
        return self.script, self.before, self.after


def mutants_of(script: str, text: str) -> Iterator[Mutant]:
    """Yield every mutant of a script."""
    lines = text.split("\n")
    for number, line in enumerate(lines):
        for changed in _changes(line):
            mutated = "\n".join([*lines[:number], changed, *lines[number + 1 :]])
            yield Mutant(script, number + 1, line.strip(), changed.strip(), mutated)
    for name, before, after in REORDERED:
        if name == script:
            assert before in text, f"{before!r} is not in {script}.lua any more"
            number = text[: text.index(before)].count("\n") + 1
            yield Mutant(script, number, before, after, text.replace(before, after, 1))


def _changes(line: str) -> Iterator[str]:
    code = line.split("--")[0]
    if not code.strip():
        return
    for pattern, new in SWAPS:
        for match in re.finditer(pattern, code):
            yield code[: match.start()] + new + code[match.end() :]
    is_whole = code.count("(") == code.count(")") and code.count("{") == code.count("}")
    if DROPPED.match(code) and is_whole:
        yield ""


def killer_of(mutant: Mutant, tree: Path) -> str | None:
    """Return the test that notices a mutant, or None."""
    path = tree / "lua" / f"{mutant.script}.lua"
    original = path.read_text()
    path.write_text(mutant.text)
    try:
        own = [f"tests/lua/test_{mutant.script}.py"] if mutant.script != "prelude" else []
        tables = sorted(str(p.relative_to(tree)) for p in (tree / "tests/lua").glob("test_*.py"))
        tables = [name for name in tables if name not in own and "headers" not in name]
        return _first_failure(tree, [*own, *tables]) or _first_failure(
            tree, ["tests/properties/test_script_histories.py"]
        )
    finally:
        path.write_text(original)


def _first_failure(tree: Path, tests: Sequence[str]) -> str | None:
    command = [sys.executable, "-m", "pytest", "-x", "-q", "-p", "no:cacheprovider", *tests]
    environment = os.environ | {"CREDITS_TEST_HISTORIES": "60", "PYTHONDONTWRITEBYTECODE": "1"}
    try:
        done = subprocess.run(
            command,
            cwd=tree,
            env=environment,
            capture_output=True,
            text=True,
            timeout=TIMEOUT_SECONDS,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return "time-out"
    failed = re.search(r"^(?:FAILED|ERROR) (\S.*?)(?: - .*)?$", done.stdout, re.MULTILINE)
    if done.returncode == 0:
        return None
    return failed[1] if failed else f"pytest exit {done.returncode}"


def main(names: Sequence[str]) -> int:
    """Run all mutants, print what became of each, and return the exit status."""
    scripts = names or sorted(path.stem for path in (ROOT / "lua").glob("*.lua"))
    mutants = [m for s in scripts for m in mutants_of(s, (ROOT / f"lua/{s}.lua").read_text())]
    with tempfile.TemporaryDirectory(prefix="credits-mutate-") as directory:
        trees: Queue[Path] = Queue()
        for number in range(WORKERS):
            trees.put(_copy(Path(directory, str(number))))

        def run(mutant: Mutant) -> str | None:
            tree = trees.get()
            try:
                return killer_of(mutant, tree)
            finally:
                trees.put(tree)

        with ThreadPoolExecutor(WORKERS) as pool:
            survivors = 0
            for mutant, killer in zip(mutants, pool.map(run, mutants), strict=True):
                survivors += _report(mutant, killer)
    sys.stdout.write(f"{len(mutants)} mutants, {survivors} survived\n")
    return 1 if survivors else 0


def _report(mutant: Mutant, killer: str | None) -> bool:
    reason = EQUIVALENT.get(mutant.key)
    fate = f"killed by {killer}" if killer else f"equivalent: {reason}" if reason else "SURVIVED"
    change = f"{mutant.before!r} -> {mutant.after!r}"
    sys.stdout.write(f"{mutant.script}.lua:{mutant.line}  {change}  {fate}\n")
    sys.stdout.flush()
    return killer is None and reason is None


def _copy(tree: Path) -> Path:
    tree.mkdir()
    for name in COPIED:
        path = ROOT / name
        ignored = shutil.ignore_patterns("__pycache__")
        if path.is_dir():
            shutil.copytree(path, tree / name, ignore=ignored)
        else:
            shutil.copy(path, tree / name)
    return tree


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
