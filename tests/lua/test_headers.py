"""A script's header is its contract: here it is compared with the code and with its table."""

from __future__ import annotations

import importlib
import re
from typing import Final

import pytest

from sidecar.scripts import load_scripts, source
from tests.lua.table import Row

VERBS: Final = [script.name for script in load_scripts().all() if script.name != "hand_in"]
REFILLS: Final = ("grant", "take", "status", "restore", "roll")
COMMON: Final = {"unknown", "fenced"}
KEY_NAMES: Final = {
    "account_key", "grants_key", "order_key", "holds_key", "expiry_key", "sweep_key",
    "stream_key", "key", "answers_keys[day % 2]", "answers_keys[1 - day % 2]",
}  # fmt: skip
SHARED: Final = {
    "spending_refused()": {"suspended", "closed"},
    "begin_refill(": {"stale", "replayed", "gap"},
}
"""What a script may answer through the prelude."""
FROM_VARIABLES: Final = {
    "settle": {"settled", "held", "hold_settled", "hold_released"},
    "release": {"hold_settled", "hold_expired"},
    "extend": {"hold_settled", "hold_released", "hold_expired"},
}
"""What a script answers by the state of a hold. Its rows show that it does."""


def header_of(name: str) -> list[str]:
    """Return the comment lines that a script begins with."""
    lines = source(name).splitlines()
    return lines[: next(n for n, line in enumerate(lines) if not line.startswith("--"))]


def code_of(name: str) -> str:
    """Return a script without comments and empty lines."""
    lines = (re.sub(r"(^|\s)--.*$", "", line) for line in source(name).splitlines())
    return "\n".join(line for line in lines if line.strip())


def named_in_header(name: str, table: str) -> dict[int, str]:
    """Return the names that a header gives to KEYS or ARGV, by index."""
    found = (re.match(rf"-- {table}\[(\d+)\] (\w+) ", line) for line in header_of(name))
    return {int(match[1]): match[2] for match in found if match}


def named_in_code(name: str, table: str) -> dict[int, str]:
    """Return the names of the locals that KEYS or ARGV are read into, by index."""
    names: dict[int, str] = {}
    for line in code_of(name).splitlines():
        if match := re.match(r"local ([\w, ]+) = (.*)", line):
            values = re.split(r",(?![^(]*\))", match[2])
            for local, value in zip(match[1].split(", "), values, strict=False):
                names |= {int(n): local for n in re.findall(rf"{table}\[(\d+)\]", value)}
    return names


def statuses_of(name: str) -> set[str]:
    """Return the statuses that a header lists after `Returns {status, ...}`."""
    text = "\n".join(header_of(name)).split("Returns {status, ...}")[1]
    return set(re.findall(r"^--   (\w+)  ", text, re.MULTILINE)) | set(
        re.findall(r"^--   (\w+)$", text, re.MULTILINE)
    )


@pytest.mark.parametrize("name", VERBS)
def test_the_header_begins_with_what_the_script_does(name: str) -> None:
    assert re.match(rf"-- {name}: \w.+", header_of(name)[0])
    assert "-- KEYS as in prelude.lua" in header_of(name)


@pytest.mark.parametrize("name", VERBS)
def test_the_header_names_the_arguments_that_the_code_reads(name: str) -> None:
    read = named_in_code("prelude", "ARGV") | named_in_code(name, "ARGV")
    indices = {int(n) for n in re.findall(r"ARGV\[(\d+)\]", code_of(name))} | {1}
    assert named_in_header(name, "ARGV") == read
    assert read.keys() == indices == set(range(1, len(indices) + 1))
    assert not re.search(r"ARGV(?!\[\d+\])", code_of(name))


@pytest.mark.parametrize("name", VERBS)
def test_the_first_lines_read_all_arguments(name: str) -> None:
    before, _, after = code_of(name).partition("local refusal = ")
    assert after
    assert "ARGV" not in after
    assert "call(" not in before


def test_the_prelude_names_the_keys_that_it_reads() -> None:
    named = named_in_header("prelude", "KEYS")
    assert (named[7], named[8]) == ("answers_even", "answers_odd")
    simple = {index: name for index, name in named.items() if index not in (7, 8)}
    read = named_in_code("prelude", "KEYS")
    assert {index: read[index] for index in simple} == simple
    assert named.keys() == set(range(1, 10))
    assert "answers_keys = { [0] = KEYS[7], [1] = KEYS[8] }" in code_of("prelude")


@pytest.mark.parametrize("name", VERBS)
def test_the_header_lists_the_statuses_that_the_code_answers(name: str) -> None:
    code = code_of(name)
    literal = set(re.findall(r"(?:finish\(|refuse_refill\(|return )\{\s*'(\w+)'(?: \}|,)", code))
    shared = set().union(*(found for text, found in SHARED.items() if text in code))
    written = literal | shared | FROM_VARIABLES.get(name, set())
    assert written - {"fenced"} == statuses_of(name) - {"fenced"}
    assert ("'hold_' .." in code) == (name in FROM_VARIABLES)


@pytest.mark.parametrize("name", VERBS)
def test_each_status_of_the_header_has_a_row(name: str) -> None:
    rows: list[Row] = importlib.import_module(f"tests.lua.test_{name}").ROWS
    common = COMMON if name != "open" else {"fenced"}
    is_decision = "= begin()" in code_of(name) or "= begin_refill(" in code_of(name)
    again = {"again"} if is_decision else set()
    assert {row.reply[0] for row in rows} == statuses_of(name) | common | again


@pytest.mark.parametrize("name", VERBS)
def test_a_table_names_each_row_once(name: str) -> None:
    rows: list[Row] = importlib.import_module(f"tests.lua.test_{name}").ROWS
    assert len({row.name for row in rows}) == len(rows)


@pytest.mark.parametrize("name", VERBS)
def test_a_script_is_at_most_80_lines_of_code(name: str) -> None:
    assert len(code_of(name).splitlines()) <= 80


@pytest.mark.parametrize("name", [*VERBS, "prelude"])
def test_every_key_comes_through_keys(name: str) -> None:
    used = re.findall(r"call\('(\w+)'(?:, ([\w%\[\] -]+))?", code_of(name))
    assert {key for command, key in used if command != "TIME"} <= KEY_NAMES
    assert not re.search(r"redis\.p?call\(", code_of(name))


@pytest.mark.parametrize("name", [*VERBS, "prelude"])
def test_numbers_are_written_exactly(name: str) -> None:
    code = code_of(name)
    assert "cjson" not in code
    assert "tostring" not in code
    assert re.findall(r"string\.format\('([^']*)'", code) in ([], ["%.0f"])


@pytest.mark.parametrize("name", [*VERBS, "prelude"])
def test_loops_are_bounded(name: str) -> None:
    assert not re.search(r"\b(while|repeat|goto)\b", code_of(name))


def test_what_the_prelude_defines_is_used() -> None:
    prelude = code_of("prelude")
    everything = "\n".join([prelude, *(code_of(name) for name in VERBS)])
    for names in re.findall(r"^local (?:function )?(\w+(?:, \w+)*)", prelude, re.MULTILINE):
        for name in names.split(", "):
            if name == "CREATED":  # hold.lua writes it by its place, sidecar/records.py reads it
                continue
            assert len(re.findall(rf"\b{name}\b", everything)) > 1, f"{name} is never used"


@pytest.mark.parametrize("verb", REFILLS)
def test_a_refill_is_numbered(verb: str) -> None:
    assert "local refusal = begin_refill(gen, refill_no)" in code_of(verb)


def test_redis_gets_the_scripts_without_comments() -> None:
    for script in load_scripts().all():
        assert script.text.startswith("#!lua\nlocal ")
        assert not re.search(r"^\s*--|\s-- |\n\n", script.text)
