"""Lists as answers: a JSON page, or CSV that a spreadsheet opens without running any of it."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from typing import Any, Final

import msgspec
from starlette.responses import Response

from persistence.cursors import Page
from sidecar.web import json_answer

NEXT_CURSOR_HEADER: Final = "X-Next-Cursor"
"""Where a CSV answer, which has no room for it, says where the next page begins."""

_FORMULA: Final = ("=", "+", "-", "@", "\t", "\r", "\n")
_encode: Final = msgspec.json.Encoder().encode


def page_answer(page: Page[dict[str, Any]], columns: Sequence[str], accept: str | None) -> Response:
    """Return a page as JSON, or as CSV with `columns` when the caller prefers that."""
    if not prefers_csv(accept):
        rows = [{column: row[column] for column in columns} for row in page.rows]
        return json_answer({"data": rows, "next_cursor": page.next_cursor})
    headers = {NEXT_CURSOR_HEADER: page.next_cursor} if page.next_cursor else {}
    return Response(_csv(page.rows, columns), 200, headers, media_type="text/csv")


def prefers_csv(accept: str | None) -> bool:
    """Tell whether an `Accept` header asks for CSV at least as much as for JSON."""
    weights = _weights(accept or "")
    csv_weight = weights.get("text/csv", 0.0)
    return csv_weight > 0 and csv_weight >= weights.get("application/json", 0.0)


def _weights(accept: str) -> dict[str, float]:
    weights: dict[str, float] = {}
    for part in accept.split(","):
        kind, *parameters = (piece.strip().lower() for piece in part.split(";"))
        weight = next((p.removeprefix("q=") for p in parameters if p.startswith("q=")), "1")
        try:
            weights[kind] = float(weight)
        except ValueError:
            weights[kind] = 0.0
    return weights


def _csv(rows: Sequence[Mapping[str, Any]], columns: Sequence[str]) -> str:
    text = io.StringIO()
    writer = csv.writer(text)
    writer.writerow(columns)
    writer.writerows([_cell(row[column]) for column in columns] for row in rows)
    return text.getvalue()


def _cell(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int):
        return str(value)
    text = value if isinstance(value, str) else _encode(value).decode()
    # A text that a spreadsheet would take for a formula is made a plain one by an apostrophe.
    return f"'{text}" if text.startswith(_FORMULA) else text
