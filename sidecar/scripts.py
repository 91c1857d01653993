"""The Lua scripts: loaded from `lua/`, each with the prelude before it, called by their SHA."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass, fields
from functools import lru_cache
from importlib.resources import files
from typing import Any, Final

import redis
from redis.exceptions import NoScriptError

_HEADER: Final = "#!lua\n"
_WITHOUT_PRELUDE: Final = ("hand_in",)
_COMMENT: Final = re.compile(r"^[ \t]*--.*\n|(?<=\s)-- .*$|^\n", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Script:
    """One script as Redis gets it: its verb, its text, and the SHA-1 that Redis knows it by."""

    name: str
    text: str
    sha: str


@dataclass(frozen=True, slots=True)
class Scripts:
    """All scripts, by their verb."""

    hold: Script
    settle: Script
    release: Script
    extend: Script
    debit: Script
    refund: Script
    expire: Script
    balance: Script
    open: Script
    grant: Script
    take: Script
    status: Script
    restore: Script
    roll: Script
    hand_in: Script

    def all(self) -> list[Script]:
        """Return every script."""
        return [getattr(self, field.name) for field in fields(self)]


def source(name: str) -> str:
    """Return the text of `lua/<name>.lua` as it is written."""
    return files("lua").joinpath(f"{name}.lua").read_text(encoding="utf-8")


def _load(name: str, run_id: str) -> Script:
    prelude = "" if name in _WITHOUT_PRELUDE else source("prelude")
    process = f"local process = '{run_id}'\n" if run_id else ""
    # Redis keeps the text for as long as it lives: comments are for the repository.
    text = _HEADER + process + _COMMENT.sub("", prelude + source(name))
    return Script(name, text, hashlib.sha1(text.encode(), usedforsecurity=False).hexdigest())


@lru_cache(maxsize=8)
def load_scripts(run_id: str = "") -> Scripts:
    """Return all scripts for the Redis process `run_id`; without it, for whichever there is.

    The process's `run_id` is part of their text and so of their SHA-1: a process that was started
    or promoted since does not know them, and says so before anything has run. `#!lua` makes a
    Redis that is out of memory refuse them before they run. Raises `ValueError` for a `run_id`
    that is none.
    """
    if not run_id.isalnum() and run_id:
        raise ValueError(f"not the run_id of a Redis: {run_id!r}")
    return Scripts(**{field.name: _load(field.name, run_id) for field in fields(Scripts)})


class ScriptRunner:
    """Calls scripts on a blocking Redis client: for workers and tools, not for the hot path."""

    def __init__(self, client: redis.Redis) -> None:
        self._client = client

    def call(self, script: Script, keys: Sequence[str], args: Sequence[str | int | bytes]) -> Any:
        """Run one script and return its reply, an array whose first element is the status.

        Raises the errors of redis-py.
        """
        try:
            return self._client.evalsha(script.sha, len(keys), *keys, *args)
        except NoScriptError:
            self._client.script_load(script.text)
            return self._client.evalsha(script.sha, len(keys), *keys, *args)
