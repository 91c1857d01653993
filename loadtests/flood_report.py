"""The figures of a flooded webhook: how they are put together, shown and written."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

from rich.console import Console
from rich.table import Table

from loadtests.figures import percentile, spread
from loadtests.flooder import Flooded
from loadtests.outcome import print_table

CALLS: Final = ("debit", "hold", "settle")
_SHARES: Final = {"p50": 0.5, "p99": 0.99, "p99.9": 0.999, "max": 1.0}
_SHOWN_PROBLEMS: Final = 20


@dataclass(slots=True)
class Window:
    """One window. Samples are latencies in milliseconds, by call.

    `sent_late_ms` is the 99th percentile of how late the probe was: part of the latencies.
    `others_share` is how much of the measured cores processes took that are no part of the run,
    None where nothing is pinned.
    `finished_meanwhile` counts the events that workers were done with while it was measured.
    """

    samples_ms: dict[str, list[float]]
    errors: Counter[str]
    sent_late_ms: float
    load_average: float
    others_share: float | None
    flooded: Flooded | None = None
    finished_meanwhile: int = 0
    drain_seconds: float = 0.0

    def figures(self, call: str) -> dict[str, float]:
        """Return the percentiles of one call."""
        return _figures(self.samples_ms.get(call, []))


@dataclass(frozen=True, slots=True)
class Proved:
    """What the comparison with the ledger came to. Amounts are microcredits.

    `events` counts the inbox by status; `discrepancies` are the audit's, None without a report.
    """

    charges: int
    acknowledged: int
    ledger: int
    top_ups: int
    events: dict[str, int]
    discrepancies: int | None
    mismatches: list[str]


@dataclass(frozen=True, slots=True)
class Report:
    """Everything a run came to. Windows stand in the order of time, two and two a pair.

    `kind` names those that are not quiet: what stood in for a flood is no flood.
    """

    windows: Sequence[Window]
    proved: Proved
    kind: str = "flooded"

    @property
    def quiet(self) -> list[Window]:
        """The windows without a flood."""
        return [window for window in self.windows if window.flooded is None]

    @property
    def floods(self) -> list[tuple[Window, Flooded]]:
        """The windows with a flood, and the floods."""
        return [(window, window.flooded) for window in self.windows if window.flooded is not None]

    @property
    def problems(self) -> list[str]:
        """Everything that is not as it must be."""
        failed = [
            f"{count} calls failed: {kind}"
            for window in self.windows
            for kind, count in window.errors.items()
        ]
        refused = [problem for _, flooded in self.floods for problem in flooded.problems]
        return failed + refused + self.proved.mismatches

    @property
    def is_good(self) -> bool:
        """Whether nothing failed, everything matched and the audit found nothing."""
        return not self.problems and self.proved.discrepancies == 0

    def ratios(self, call: str, figure: str) -> list[float]:
        """Return flooded / quiet of every pair of windows."""
        return [
            flooded.figures(call)[figure] / quiet.figures(call)[figure]
            for quiet, (flooded, _) in zip(self.quiet, self.floods, strict=True)
            if quiet.figures(call)[figure]
        ]


def show(report: Report, machine: Mapping[str, str], console: Console) -> None:
    """Print the tables, the proof, and what is wrong."""
    for name, value in machine.items():
        console.print(f"{name}: {value}", highlight=False, soft_wrap=True)
    for table in (_latencies(report), _deliveries(report)):
        print_table(table, console)
    for line in _sentences(report):
        console.print(line, highlight=False, soft_wrap=True)
    for problem in report.problems[:_SHOWN_PROBLEMS]:
        console.print(problem, style="red", markup=False)


def write(path: Path, report: Report, machine: Mapping[str, str]) -> None:
    """Write everything but the samples as JSON."""
    ratios = {call: {figure: report.ratios(call, figure) for figure in _SHARES} for call in CALLS}
    content = {
        "machine": machine,
        "windows": [_as_json(window, report.kind) for window in report.windows],
        "ratios": ratios,
        "proved": asdict(report.proved),
        "problems": report.problems,
    }
    path.write_text(json.dumps(content, indent=2))


def _figures(samples_ms: Sequence[float]) -> dict[str, float]:
    ordered = sorted(samples_ms)
    return {name: percentile(ordered, share) for name, share in _SHARES.items()}


def _latencies(report: Report) -> Table:
    table = Table(
        title="Latency in ms from the intended send time, median of the windows (least - most); "
        "the ratio is of each pair of windows"
    )
    for at, column in enumerate(
        ("call", "windows", "calls", "errors", *_SHARES, "p99.9 of all", "probe late, p99")
    ):
        table.add_column(column, justify="left" if at < 2 else "right")
    flooded = [window for window, _ in report.floods]
    for call in CALLS:
        for kind, windows in (("quiet", report.quiet), (report.kind, flooded)):
            _add_row(table, call, kind, windows)
        ratios = (report.ratios(call, figure) or [0.0] for figure in _SHARES)
        table.add_row(
            call, f"{report.kind} / quiet", "", "", *(spread(r, 2) for r in ratios), "", ""
        )
    return table


def _add_row(table: Table, call: str, kind: str, windows: Sequence[Window]) -> None:
    figures = [window.figures(call) for window in windows]
    samples = [sample for window in windows for sample in window.samples_ms.get(call, [])]
    table.add_row(
        call,
        f"{len(windows)} {kind}",
        f"{len(samples):,}",
        str(sum(window.errors.total() for window in windows)),
        *(spread([one[figure] for one in figures], 2) for figure in _SHARES),
        f"{_figures(samples)['p99.9']:.2f}",
        spread([window.sent_late_ms for window in windows], 2),
    )


def _deliveries(report: Report) -> Table:
    table = Table(title="Deliveries in the floods, by what they were answered")
    for at, column in enumerate(("delivery", "answer", "count", "per s")):
        table.add_column(column, justify="left" if at < 2 else "right")
    answers: Counter[tuple[str, str]] = sum((f.answers for _, f in report.floods), Counter())
    seconds = sum(flooded.seconds for _, flooded in report.floods)
    for (kind, status), count in sorted(answers.items()):
        table.add_row(kind, status, f"{count:,}", f"{count / seconds:,.0f}")
    total = answers.total()
    table.add_row("all", "", f"{total:,}", f"{total / seconds:,.0f}")
    return table


def _sentences(report: Report) -> list[str]:
    proved, floods = report.proved, report.floods
    webhook = _figures([sample for _, flooded in floods for sample in flooded.samples_ms])
    meanwhile = sum(window.finished_meanwhile for window, _ in floods)
    drains = [window.drain_seconds for window, _ in floods]
    loads = [window.load_average for window in report.windows]
    events = ", ".join(f"{count:,} {status}" for status, count in sorted(proved.events.items()))
    return [
        "",
        "webhook answered in: " + ", ".join(f"{k} {v:.1f} ms" for k, v in webhook.items()),
        f"events in the inbox: {events}; {meanwhile:,} finished while it was measured, "
        f"inbox drained {spread(drains, 1)} s after a flood",
        f"credits bought: {proved.top_ups:,} microcredits",
        f"load average at the windows: {spread(loads, 2)}",
        f"taken of the measured cores by others: quiet {_percents(report.quiet)}, "
        f"{report.kind} {_percents([window for window, _ in floods])}",
        f"charges: {proved.charges:,}, acknowledged {proved.acknowledged:,} microcredits, "
        f"ledger {proved.ledger:,}",
        f"mismatches: {len(proved.mismatches)}; audit discrepancies: {proved.discrepancies}",
    ]


def _percents(windows: Sequence[Window]) -> str:
    shares = [w.others_share * 100 for w in windows if w.others_share is not None]
    return spread(shares, 0) + " %" if shares else "not measured"


def _as_json(window: Window, kind: str) -> dict[str, Any]:
    flooded = window.flooded
    return {
        "kind": "quiet" if flooded is None else kind,
        "calls": {call: len(samples) for call, samples in window.samples_ms.items()},
        "latencies_ms": {call: window.figures(call) for call in CALLS},
        "errors": dict(window.errors),
        "sent_late_ms": window.sent_late_ms,
        "load_average": window.load_average,
        "others_share": window.others_share,
        "flood": None if flooded is None else _flood_as_json(window, flooded),
    }


def _flood_as_json(window: Window, flooded: Flooded) -> dict[str, Any]:
    return {
        "seconds": flooded.seconds,
        "answers": {f"{kind}: {status}": n for (kind, status), n in flooded.answers.items()},
        "stored": dict(flooded.stored),
        "latencies_ms": _figures(flooded.samples_ms),
        "finished_meanwhile": window.finished_meanwhile,
        "drain_seconds": window.drain_seconds,
    }
