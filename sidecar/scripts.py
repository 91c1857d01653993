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

    def all(self) -> list[Script]:
        """Return every script."""
        return [getattr(self, field.name) for field in fields(self)]


def source(name: str) -> str:
    """Return the text of `lua/<name>.lua` as it is written."""
    return files("lua").joinpath(f"{name}.lua").read_text(encoding="utf-8")


def _load(name: str) -> Script:
    # Redis keeps the text for as long as it lives: comments are for the repository.
    text = _HEADER + _COMMENT.sub("", source("prelude") + source(name))
    return Script(name, text, hashlib.sha1(text.encode(), usedforsecurity=False).hexdigest())


@lru_cache(maxsize=1)
def load_scripts() -> Scripts:
    """Read all scripts. `#!lua` makes a Redis out of memory refuse them before they run."""
    return Scripts(**{field.name: _load(field.name) for field in fields(Scripts)})


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
