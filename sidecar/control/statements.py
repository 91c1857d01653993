"""Statements of an account: its usage, transfers, grants and open holds, and one id explained."""

from __future__ import annotations

import zlib
from typing import Any, Final

from sqlalchemy import Connection, select
from starlette.responses import Response

from persistence import accounts, reads
from persistence.cursors import Page, decode_cursor, page_of
from persistence.places import Place
from persistence.reads import Explanation, Filters
from persistence.tables import grants
from sidecar.control import queries
from sidecar.control.accounts import place_of
from sidecar.control.answers import page_answer
from sidecar.control.balances import RedisReader
from sidecar.control.ledger import Ledger, account_not_found
from sidecar.control.resources import Call
from sidecar.errors import ErrorCode, Refusal
from sidecar.records import HoldRecord
from sidecar.web import json_answer

USAGE_COLUMNS: Final = (
    "event_id", "id", "operation", "amount", "at_ms", "model", "usage", "price_version", "scopes",
    "metadata", "late", "degraded", "final", "of", "reason", "grants", "generation", "seq",
)  # fmt: skip
TRANSFER_COLUMNS: Final = (
    "id", "at_ms", "debit_account", "credit_account", "amount", "kind", "reference",
)  # fmt: skip
GRANT_COLUMNS: Final = (
    "id", "granted", "remaining", "used", "expired", "returned", "category", "priority",
    "expires_at_ms", "reference", "created_ms",
)  # fmt: skip
HOLD_COLUMNS: Final = (
    "id", "status", "amount", "held", "charged", "refunded", "created_ms", "expires_at_ms",
    "model", "price_version", "scopes", "metadata", "grants",
)  # fmt: skip


class StatementHandlers:
    """What is listed of one account."""

    def __init__(self, ledger: Ledger, redis: RedisReader) -> None:
        self._ledger = ledger
        self._redis = redis

    def usage(self, call: Call[bytes]) -> Response:
        """Return a page of usage events."""
        return self._list(call, reads.usage_rows, USAGE_COLUMNS)

    def transfers(self, call: Call[bytes]) -> Response:
        """Return a page of double-entry rows."""
        return self._list(call, reads.transfer_rows, TRANSFER_COLUMNS)

    def grants(self, call: Call[bytes]) -> Response:
        """Return a page of grants."""
        return self._list(call, reads.grant_rows, GRANT_COLUMNS)

    def holds(self, call: Call[bytes]) -> Response:
        """Return a page of the holds that are open in Redis now."""
        limit, cursor = queries.limit(call.query), call.query.get("cursor")
        before = decode_cursor(cursor, 2) if cursor else None
        filters = queries.filters(call.query)
        place = self._ledger.run(lambda c: place_of(c, call.path["account"]))
        holds = [
            hold
            for hold in sorted(self._redis.open_holds(place), key=_newest_last, reverse=True)
            if _fits(hold, filters) and (before is None or _newest_last(hold) < before)
        ]
        page = page_of(holds[: limit + 1], limit, _newest_last)
        ids = self._ledger.run(lambda c: _grant_ids(c, page.rows))
        shown = Page([_hold(hold, ids) for hold in page.rows], page.next_cursor)
        return page_answer(shown, HOLD_COLUMNS, call.headers.get("accept"))

    def explain(self, call: Call[bytes]) -> Response:
        """Return everything that is known of one id. 404 when nothing is."""
        account, id = call.path["account"], call.path["id"]

        def work(c: Connection) -> tuple[Place, Explanation]:
            return place_of(c, account), reads.explain(c, account, id)

        place, known = self._ledger.run(work)
        hold = self._hold_of(place, id, known)
        ids = self._ledger.run(lambda c: _grant_ids(c, [hold] if hold else []))
        shown: dict[str, Any] = {"id": id}
        if hold is not None:
            shown["hold"] = _hold(hold, ids)
        shown |= {"events": known.events, "transfers": known.transfers, "grants": known.grants}
        return json_answer(shown | _price(shown))

    def _list(self, call: Call[bytes], read: Any, columns: tuple[str, ...]) -> Response:
        account, filters = call.path["account"], queries.filters(call.query)
        limit, cursor = queries.limit(call.query), call.query.get("cursor")
        if cursor is not None:
            decode_cursor(cursor, 3 if read is reads.usage_rows else 1)

        def work(c: Connection) -> Page[dict[str, Any]]:
            if accounts.get_account(c, account) is None:
                raise account_not_found()
            page: Page[dict[str, Any]] = read(
                c, account, filters=filters, limit=limit, cursor=cursor
            )
            return page

        return page_answer(self._ledger.run(work), columns, call.headers.get("accept"))

    def _hold_of(self, place: Place, id: str, known: Explanation) -> HoldRecord | None:
        is_known = bool(known.events or known.transfers or known.grants)
        try:
            hold = self._redis.find_hold(place, id)
        except Refusal:
            if is_known:
                return None
            raise
        if hold is None and not is_known:
            raise Refusal(ErrorCode.NOT_FOUND, "Nothing is known of this id.", param="id")
        return hold


def _newest_last(hold: HoldRecord) -> list[int]:
    return [hold.created_at_ms, zlib.crc32(hold.id.encode())]


def _fits(hold: HoldRecord, filters: Filters) -> bool:
    kind, _, value = (filters.scope or "").partition(":")
    return (
        (filters.since_ms is None or hold.created_at_ms >= filters.since_ms)
        and (filters.until_ms is None or hold.created_at_ms < filters.until_ms)
        and (filters.model is None or hold.context.get("model") == filters.model)
        and (filters.scope is None or hold.context.get("scopes", {}).get(kind) == value)
    )


def _grant_ids(c: Connection, holds: list[HoldRecord]) -> dict[int, str]:
    numbers = {number for hold in holds for number, _ in hold.allocations}
    query = select(grants.c.grant_no, grants.c.id).where(grants.c.grant_no.in_(numbers))
    return {number: id for number, id in c.execute(query)} if numbers else {}


def _hold(hold: HoldRecord, grant_ids: dict[int, str]) -> dict[str, Any]:
    return {
        "id": hold.id,
        "status": hold.state,
        "amount": hold.amount,
        "held": hold.held,
        "charged": hold.charged,
        "refunded": hold.refunded,
        "created_ms": hold.created_at_ms,
        "expires_at_ms": hold.expires_at_ms,
        "model": hold.context.get("model"),
        "price_version": hold.price_version or None,
        "scopes": hold.context.get("scopes", {}),
        "metadata": hold.context.get("metadata", {}),
        # What is held beyond all grants, by overdraft, has no grant: its id is null.
        "grants": [
            {"id": grant_ids.get(number), "amount": amount} for number, amount in hold.allocations
        ],
    }


def _price(shown: dict[str, Any]) -> dict[str, Any]:
    priced = [shown["hold"]] if "hold" in shown else []
    for row in (*priced, *shown["events"]):
        if row["price_version"]:
            return {"price": {"model": row["model"], "price_version": row["price_version"]}}
    return {}
