"""Whether this host can keep the journal of a sidecar."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Final

from persistence.doctor.checks import Check, Verdict, warning_if, worst, wrong_if
from sidecar.settings import Settings

PART: Final = "journal"

_MB: Final = 2**20
_MOUNTS: Final = Path("/proc/mounts")
_FLEETING: Final = {
    "tmpfs": "a restart of this host",
    "ramfs": "a restart of this host",
    "overlay": "the end of the container",
    "aufs": "the end of the container",
}


def check_journal(settings: Settings, mounts: Path = _MOUNTS) -> list[Check]:
    """Return what there is to say of the journal's directory, when it is on this host."""
    directory = settings.journal_directory.absolute()
    absence = _absence(directory)
    if absence is not None:
        cost = "A sidecar keeps what it acknowledged there until the ledger has it."
        fix = "On a host of `serve`, as its user and with its settings (CREDITS_JOURNAL_DIR), look"
        fix += " again."
        return [Check(PART, "directory", Verdict.UNKNOWN, f"{directory} {absence}", cost, fix)]
    return [
        _directory(directory),
        _space(directory, settings),
        _filesystem(directory, mounts),
        _fsync(settings),
    ]


def _absence(directory: Path) -> str | None:
    """Return why this user cannot look at a directory, or None."""
    try:
        if not directory.is_dir():
            return "is not here"
        is_own = directory.stat().st_uid == os.geteuid()
    except PermissionError:
        return "may not be seen by this user"
    return None if is_own or os.access(directory, os.W_OK) else "is another user's"


def _directory(directory: Path) -> Check:
    is_writable = os.access(directory, os.R_OK | os.W_OK | os.X_OK)
    return Check(
        PART, "directory", wrong_if(not is_writable),
        f"{directory}, {'writable' if is_writable else 'not writable'}",
        "A sidecar that cannot write its journal acknowledges nothing.",
        f"chmod -R u+rwX {directory}",
    )  # fmt: skip


def _space(directory: Path, settings: Settings) -> Check:
    used = sum(map(_size, directory.rglob("*")))
    free = shutil.disk_usage(directory).free
    needed = max(settings.journal_max_mb * _MB - used, 0)
    return Check(
        PART, "space",
        worst(wrong_if(free < settings.journal_segment_mb * _MB), warning_if(free < needed)),
        f"{free / _MB:,.0f} MB free, journal {used / _MB:,.0f} of {settings.journal_max_mb:,} MB",
        "When the disk is full new calls are refused, before the journal has its full size.",
        "Make room, or set CREDITS_JOURNAL_MAX_MB lower.",
    )  # fmt: skip


def _size(path: Path) -> int:
    try:
        return path.stat().st_size if path.is_file() else 0
    except FileNotFoundError:
        return 0  # the ledger has confirmed it meanwhile


def _filesystem(directory: Path, mounts: Path) -> Check:
    cost = "What was acknowledged and is not in the ledger yet must outlive this process's host."
    fix = "Set CREDITS_JOURNAL_DIR to a directory of a disk, in a container to one of a volume."
    kind = filesystem_of(directory, mounts)
    if kind is None:
        return Check(PART, "filesystem", Verdict.UNKNOWN, "not told", cost, fix)
    if kind in _FLEETING:
        cost = f"The journal is lost with {_FLEETING[kind]}: if Redis is lost too, so is usage."
    return Check(PART, "filesystem", warning_if(kind in _FLEETING), kind, cost, fix)


def filesystem_of(directory: Path, mounts: Path = _MOUNTS) -> str | None:
    """Return the kind of filesystem that a directory is on; None where it cannot be told."""
    try:
        lines = mounts.read_text().splitlines()
    except OSError:
        return None
    path = directory.resolve()
    kinds = {Path(_plain(line.split()[1])): line.split()[2] for line in lines}
    holders = [point for point in kinds if path.is_relative_to(point)]
    return kinds[max(holders, key=lambda point: len(point.parts))] if holders else None


def _plain(point: str) -> str:
    return point.replace("\\040", " ").replace("\\011", "\t").replace("\\134", "\\")


def _fsync(settings: Settings) -> Check:
    return Check(
        PART, "fsync", warning_if(settings.journal_fsync == "none"), settings.journal_fsync,
        "With `none` a power failure of this host takes the journal's last half minute; usage is"
        " lost if Redis is lost with it.",
        "CREDITS_JOURNAL_FSYNC=interval (or group: no acknowledged byte is lost)",
    )  # fmt: skip
