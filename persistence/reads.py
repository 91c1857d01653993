"""What people ask of the ledger: usage, transfers and grants of an account, and one id explained.

Every list is newest first and has an index behind it; none recomputes history.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Final

import sqlalchemy as sa
from sqlalchemy import ColumnElement, Connection

from persistence.cursors import Page, decode_cursor, page_of
from persistence.tables import adjustments, grants, ledger_accounts, transfers, usage_events
from sidecar.domain import MAX_AMOUNT, USAGE_OPERATIONS, is_id
from sidecar.errors import ErrorCode, Refusal

SCOPE_KINDS: Final = ("key", "user", "session")

_USAGE: Final = tuple(operation.value for operation in USAGE_OPERATIONS)
_EXPLAIN_ROWS: Final = 1_000


@dataclass(frozen=True, slots=True)
class Filters:
    """Which rows of a list: instants in Unix ms, `since_ms` inclusive, `until_ms` exclusive.

    `scope` is `<kind>:<value>`, such as `user:u1`. What a list does not have does not filter it.
    """

    since_ms: int | None = None
    until_ms: int | None = None
    model: str | None = None
    scope: str | None = None


NO_FILTERS: Final = Filters()


@dataclass(frozen=True, slots=True)
class Explanation:
    """What the ledger knows of one id, oldest first; all empty when it never saw it."""

    events: list[dict[str, Any]]
    transfers: list[dict[str, Any]]
    grants: list[dict[str, Any]]


def usage_rows(
    connection: Connection,
    account: str,
    *,
    filters: Filters = NO_FILTERS,
    limit: int = 100,
    cursor: str | None = None,
) -> Page[dict[str, Any]]:
    """Return usage events as the contract shows them. Raises `Refusal` (422) for a bad filter."""
    e = usage_events.c
    query = sa.select(*_usage_columns()).where(
        e.account == account,
        e.operation.in_(_USAGE),
        *_within(e.at_ms, filters),
        *_usage_filters(filters),
    )
    key = (e.at_ms, e.seq, e.generation)
    if cursor:
        query = query.where(sa.tuple_(*key) < sa.tuple_(*_literals(decode_cursor(cursor, 3))))
    query = query.order_by(*(column.desc() for column in key)).limit(limit + 1)
    rows = _with_grant_ids(connection, connection.execute(query).all())
    return page_of(rows, limit, lambda row: (row["at_ms"], row["seq"], row["generation"]))


def transfer_rows(
    connection: Connection,
    account: str,
    *,
    filters: Filters = NO_FILTERS,
    limit: int = 100,
    cursor: str | None = None,
) -> Page[dict[str, Any]]:
    """Return the account's transfers, with the names of both ledger accounts."""
    (before,) = decode_cursor(cursor, 1) if cursor else (MAX_AMOUNT,)
    t = transfers.c
    query = _transfers(t.account == account, t.id < before, *_within(t.at_ms, filters)).order_by(
        t.id.desc()
    )
    rows = [dict(row._mapping) for row in connection.execute(query.limit(limit + 1))]
    return page_of(rows, limit, lambda row: (row["id"],))


def grant_rows(
    connection: Connection,
    account: str,
    *,
    filters: Filters = NO_FILTERS,
    limit: int = 100,
    cursor: str | None = None,
) -> Page[dict[str, Any]]:
    """Return the account's grants; `remaining` is what the ledger says, what is held included."""
    (before,) = decode_cursor(cursor, 1) if cursor else (MAX_AMOUNT,)
    g = grants.c
    query = (
        sa.select(*_grant_columns())
        .where(g.account == account, g.grant_no < before, *_within(g.created_ms, filters))
        .order_by(g.grant_no.desc())
        .limit(limit + 1)
    )
    rows = [dict(row._mapping) for row in connection.execute(query)]
    page = page_of(rows, limit, lambda row: (row["grant_no"],))
    return Page([_public_grant(row) for row in page.rows], page.next_cursor)


def explain(connection: Connection, account: str, id: str) -> Explanation:
    """Return the events of an id and refunds of it, and the transfers and grants behind them.

    The id may also be a grant's or an adjustment's.
    """
    events = _events_of(connection, account, id)
    moves = _batch_transfers(connection, account, events) + _named_transfers(
        connection, account, id
    )
    numbers = {number for event in events for number in event.allocations[::2]}
    return Explanation(
        events=_with_grant_ids(connection, events),
        transfers=sorted(moves, key=lambda row: int(row["id"])),
        grants=_grants_of(connection, account, id, numbers),
    )


def parse_scope(scope: str) -> tuple[str, str]:
    """Return kind and value of `<kind>:<value>`, or refuse (422)."""
    kind, separator, value = scope.partition(":")
    if kind not in SCOPE_KINDS or not separator or not is_id(value):
        raise Refusal(
            ErrorCode.INVALID_REQUEST,
            "A scope is key:<value>, user:<value> or session:<value>.",
            param="scope",
        )
    return kind, value


def _within(at_ms: ColumnElement[int], filters: Filters) -> list[ColumnElement[bool]]:
    clauses = []
    if filters.since_ms is not None:
        clauses.append(at_ms >= filters.since_ms)
    if filters.until_ms is not None:
        clauses.append(at_ms < filters.until_ms)
    return clauses


def _usage_filters(filters: Filters) -> list[ColumnElement[bool]]:
    clauses: list[ColumnElement[bool]] = []
    if filters.model is not None:
        clauses.append(usage_events.c.model == filters.model)
    if filters.scope is not None:
        kind, value = parse_scope(filters.scope)
        clauses.append(usage_events.c.scopes[kind].astext == value)
    return clauses


def _literals(values: Sequence[int]) -> list[ColumnElement[int]]:
    return [sa.literal(value, sa.BigInteger) for value in values]


def _usage_columns() -> list[ColumnElement[Any]]:
    e = usage_events.c
    return [
        e.event_id, e.id, e.operation, e.amount, e.at_ms, e.model, e.usage, e.price_version,
        e.scopes, e.metadata, e.late, e.degraded, e.final, e.of, e.reason, e.allocations,
        e.generation, e.seq, e.shard, e.batch,
    ]  # fmt: skip


def _grant_columns() -> list[ColumnElement[Any]]:
    g = grants.c
    remaining = g.amount - g.used - g.expired - g.returned
    return [
        g.grant_no, g.id, g.amount.label("granted"), remaining.label("remaining"), g.used,
        g.expired, g.returned, g.category, g.priority, g.expires_at_ms, g.reference, g.created_ms,
    ]  # fmt: skip


def _public_grant(row: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in row.items() if name != "grant_no"}


def _with_grant_ids(connection: Connection, rows: Sequence[sa.Row[Any]]) -> list[dict[str, Any]]:
    ids = _grant_ids(connection, {n for row in rows for n in row.allocations[::2] if n})
    return [_usage_row(row, ids) for row in rows]


def _usage_row(row: sa.Row[Any], grant_ids: dict[int, str]) -> dict[str, Any]:
    values = dict(row._mapping)
    flat = values.pop("allocations")
    del values["shard"], values["batch"]
    values["event_id"] = str(values["event_id"])
    # What was charged beyond all grants has no grant: its id is null.
    values["grants"] = [
        {"id": grant_ids.get(number), "amount": amount}
        for number, amount in zip(flat[::2], flat[1::2], strict=True)
    ]
    return values


def _grant_ids(connection: Connection, numbers: Iterable[int]) -> dict[int, str]:
    wanted = list(numbers)
    if not wanted:
        return {}
    query = sa.select(grants.c.grant_no, grants.c.id).where(grants.c.grant_no.in_(wanted))
    return {row.grant_no: row.id for row in connection.execute(query)}


def _events_of(connection: Connection, account: str, id: str) -> Sequence[sa.Row[Any]]:
    e = usage_events.c
    query = (
        sa.select(*_usage_columns())
        .where(e.account == account, sa.or_(e.id == id, e.of == id), e.operation.in_(_USAGE))
        .order_by(e.at_ms, e.generation, e.seq)
        .limit(_EXPLAIN_ROWS)
    )
    return connection.execute(query).all()


def _transfers(*clauses: ColumnElement[bool]) -> sa.Select[Any]:
    t, debit, credit = transfers.c, ledger_accounts.alias("debit"), ledger_accounts.alias("credit")
    return (
        sa.select(
            t.id,
            t.at_ms,
            debit.c.name.label("debit_account"),
            credit.c.name.label("credit_account"),
            t.amount,
            t.kind,
            t.reference,
        )
        .join(debit, debit.c.no == t.debit_account)
        .join(credit, credit.c.no == t.credit_account)
        .where(*clauses)
    )


def _batch_transfers(
    connection: Connection, account: str, events: Sequence[sa.Row[Any]]
) -> list[dict[str, Any]]:
    t = transfers.c
    batches = {(event.shard, event.batch) for event in events}
    query = _transfers(
        t.account == account,
        t.batch.in_({batch for _, batch in batches}),
        sa.tuple_(t.shard, t.batch).in_(list(batches)),
    )
    return [dict(row._mapping) for row in connection.execute(query)] if batches else []


def _named_transfers(connection: Connection, account: str, id: str) -> list[dict[str, Any]]:
    """Return what a grant or adjustment of this id moved: in or out, and lent."""
    numbers = [
        connection.scalar(sa.select(table.c.transfer).filter_by(account=account, id=id))
        for table in (grants, adjustments)
    ]
    found = sorted({number for number in numbers if number is not None})
    if not found:
        return []
    t = transfers.c
    lent = (
        sa.select(t.id)
        .where(t.account == account, t.id > found[0], t.kind == "lend", t.reference == id)
        .order_by(t.id)
        .limit(1)
    )
    query = _transfers(sa.or_(t.id.in_(found), t.id.in_(lent)))
    return [dict(row._mapping) for row in connection.execute(query)]


def _grants_of(
    connection: Connection, account: str, id: str, numbers: set[int]
) -> list[dict[str, Any]]:
    g = grants.c
    query = (
        sa.select(*_grant_columns())
        .where(g.account == account, sa.or_(g.id == id, g.grant_no.in_(numbers)))
        .order_by(g.grant_no)
    )
    return [_public_grant(dict(row._mapping)) for row in connection.execute(query)]
