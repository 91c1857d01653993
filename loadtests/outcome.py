"""What one scenario came to, and how it is shown."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Final

from rich import box
from rich.console import Console
from rich.table import Table

from loadtests.figures import Latency

_SHOWN_MISMATCHES: Final = 20


@dataclass(slots=True)
class Outcome:
    """One scenario's figures and everything that did not match. Amounts are microcredits."""

    scenario: str
    seconds: float = 0.0
    requests: int = 0
    hang_ups: int = 0
    codes: dict[str, int] = field(default_factory=dict)
    latencies: dict[str, Latency] = field(default_factory=dict)
    flush_seconds: float = 0.0
    resent: int = 0
    acknowledged: int = 0
    ledger: int = 0
    audit_status: int | None = None
    mismatches: list[str] = field(default_factory=list)

    @property
    def rate(self) -> float:
        """Answered requests a second."""
        return self.requests / self.seconds if self.seconds else 0.0

    @property
    def errors(self) -> int:
        """Attempts that had to be made again: no answer, or a 5xx."""
        return sum(
            count for code, count in self.codes.items() if code.startswith(("no answer", "5"))
        )

    def as_json(self) -> dict[str, Any]:
        """Return everything as a JSON object."""
        return asdict(self) | {"rate": self.rate, "errors": self.errors}


def show(outcomes: Sequence[Outcome], machine: Mapping[str, str], console: Console) -> None:
    """Print the tables, and what did not match."""
    for name, value in machine.items():
        console.print(f"{name}: {value}", highlight=False)
    for table in (_summary(outcomes), _codes(outcomes)):
        print_table(table, console)
    for outcome in outcomes:
        for mismatch in outcome.mismatches[:_SHOWN_MISMATCHES]:
            console.print(f"{outcome.scenario}: {mismatch}", style="red", markup=False)
        more = len(outcome.mismatches) - _SHOWN_MISMATCHES
        if more > 0:
            console.print(f"{outcome.scenario}: and {more} more", style="red")


def print_table(table: Table, console: Console) -> None:
    """Print a table; where it is not for a terminal, as Markdown, whole."""
    if console.is_terminal:
        console.print(table)
        return
    console.print(f"\n{table.title}:\n", highlight=False)
    table.title, table.box = None, box.MARKDOWN
    console.print(table)


def _summary(outcomes: Sequence[Outcome]) -> Table:
    table = Table(title="Latency as the clients saw it, in ms; charges in microcredits")
    table.add_column("scenario")
    for column in (
        "requests", "per s", "p50", "p95", "p99", "p99.9", "sent again", "acknowledged", "ledger",
        "flushed after", "audit", "mismatches",
    ):  # fmt: skip
        table.add_column(column, justify="right")
    for outcome in outcomes:
        latency = outcome.latencies.get("all", Latency(0, 0, 0, 0))
        percentiles = (latency.p50, latency.p95, latency.p99, latency.p999)
        is_good = not outcome.mismatches
        table.add_row(
            outcome.scenario,
            f"{outcome.requests:,}",
            f"{outcome.rate:,.0f}",
            *(f"{value:.1f}" for value in percentiles),
            f"{outcome.errors:,}",
            f"{outcome.acknowledged:,}",
            f"{outcome.ledger:,}",
            f"{outcome.flush_seconds:.1f} s",
            "not run" if outcome.audit_status is None else f"exit {outcome.audit_status}",
            str(len(outcome.mismatches)),
            style=None if is_good else "red",
        )
    return table


def _codes(outcomes: Sequence[Outcome]) -> Table:
    table = Table(title="Answers by status and code")
    table.add_column("answer")
    for outcome in outcomes:
        table.add_column(outcome.scenario, justify="right")
    for code in sorted({code for outcome in outcomes for code in outcome.codes}):
        table.add_row(code, *(f"{outcome.codes.get(code, 0):,}" for outcome in outcomes))
    table.add_row("(hung up on)", *(f"{outcome.hang_ups:,}" for outcome in outcomes))
    return table
