"""Figures of a run: percentiles without rounding, and on what they were measured."""

from __future__ import annotations

import os
import platform
import statistics
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).resolve().parents[1]


@dataclass(frozen=True, slots=True)
class Latency:
    """Percentiles of latencies, in milliseconds."""

    p50: float
    p95: float
    p99: float
    p999: float

    @classmethod
    def of(cls, samples_ms: Sequence[float]) -> Latency:
        """Return the exact percentiles (nearest rank); of no samples, zeros.

        A run has few enough samples to keep and sort them all: a histogram would only round.
        """
        ordered = sorted(samples_ms)
        return cls(*(percentile(ordered, share) for share in (0.5, 0.95, 0.99, 0.999)))


def percentile(ordered: Sequence[float], share: float) -> float:
    """Return the smallest sample that at least `share` of all samples do not exceed."""
    if not ordered:
        return 0.0
    rank = -int(-share * len(ordered) // 1)
    return ordered[max(rank, 1) - 1]


def spread(values: Sequence[float], digits: int) -> str:
    """Return the median of some values with the least and the most of them, to be read."""
    middle, least, most = statistics.median(values), min(values), max(values)
    return f"{middle:,.{digits}f} ({least:,.{digits}f} - {most:,.{digits}f})"


def machine() -> Mapping[str, str]:
    """Return what figures depend on: the machine, the commit, how busy it was at the start."""
    load, _, _ = os.getloadavg()
    return {
        "machine": f"{os.cpu_count()} x {_processor()}, {platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        "commit": _commit(),
        "load average": f"{load:.2f} over the minute before",
    }


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or "unknown processor"
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()


def _commit() -> str:
    head = _git("rev-parse", "--short=12", "HEAD")
    if not head:
        return "working tree"
    return f"{head} with changes" if _git("status", "--porcelain") else head


def _git(*arguments: str) -> str:
    command = ["git", "-C", str(ROOT), *arguments]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=10, check=False)
    except OSError:
        return ""
    return done.stdout.strip() if done.returncode == 0 else ""
