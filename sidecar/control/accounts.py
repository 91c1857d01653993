"""Accounts, grants and adjustments: what operators make, change and look at."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any, Final

import msgspec
from sqlalchemy import Connection, exists, select
from starlette.responses import Response

from persistence import accounts, grants, tables
from persistence.accounts import AccountRow
from persistence.cursors import Page
from persistence.database import now_ms
from persistence.grants import AdjustmentRow, GrantRequest, GrantRow
from persistence.places import Place, places_of
from sidecar.billing import customers, operators
from sidecar.control import queries
from sidecar.control.actions import record
from sidecar.control.answers import page_answer
from sidecar.control.balances import Balance, RedisReader
from sidecar.control.decode import invalid, set_fields
from sidecar.control.ledger import Ledger, account_not_found
from sidecar.control.requests import AccountBody, AdjustmentBody, GrantBody, ReasonBody
from sidecar.control.resources import Call, Handler
from sidecar.domain import AccountStatus
from sidecar.web import json_answer

ACCOUNT_COLUMNS: Final = (
    "account",
    "name",
    "status",
    "status_reason",
    "overdraft_limit",
    "low_balance_threshold",
    "stripe_customer",
    "outage_allowance",
    "created_ms",
    "updated_ms",
    "balances",
)


class AccountHandlers:
    """What is done at `/v1/accounts` and to one account."""

    def __init__(self, ledger: Ledger, redis: RedisReader) -> None:
        self._ledger = ledger
        self._redis = redis

    def put(self, call: Call[AccountBody]) -> Response:
        """Create or change an account."""
        changes = set_fields(call.body)

        def work(c: Connection) -> AccountRow:
            before = accounts.get_account(c, call.path["account"], for_update=True)
            after = accounts.put_account(c, call.path["account"], changes)
            if before is None or _differs(before, after):
                record(c, call, "put_account")
                if after.stripe_customer is not None:
                    customers.wake_events(c, after.stripe_customer, now_ms())
            return after

        return self._answer(self._ledger.run(work))

    def get(self, call: Call[bytes]) -> Response:
        """Return one account, with what Redis says of it."""

        def work(c: Connection) -> AccountRow:
            row = accounts.get_account(c, call.path["account"])
            if row is None:
                raise account_not_found()
            return row

        return self._answer(self._ledger.run(work))

    def list_page(self, call: Call[bytes]) -> Response:
        """Return a page of accounts, each as `get` returns it."""
        limit, cursor = queries.limit(call.query), call.query.get("cursor")
        page = self._ledger.run(lambda c: accounts.list_accounts(c, limit, cursor))
        shown = Page(self._shown(page.rows), page.next_cursor)
        return page_answer(shown, ACCOUNT_COLUMNS, call.headers.get("accept"))

    def set_status(self, action: str, status: AccountStatus) -> Handler:
        """Return the handler by which an operator says that an account is to be `status`.

        What it may do is derived of that and of other facts: one that is resumed may be in grace.
        """

        def handle(call: Call[ReasonBody]) -> Response:
            def work(c: Connection) -> AccountRow:
                account, at_ms = call.path["account"], now_ms()
                is_resumed = status is AccountStatus.ACTIVE
                forgiven = operators.forgive(c, account, at_ms) if is_resumed else 0
                before = _locked(c, account)
                operators.decide(c, account, status, call.body.reason, at_ms)
                after = _locked(c, account)
                if forgiven or _differs(before, after):
                    record(c, call, action)
                return after

            return self._answer(self._ledger.run(work))

        return handle

    def _answer(self, row: AccountRow) -> Response:
        return json_answer(self._shown([row])[0])

    def _shown(self, rows: Sequence[AccountRow]) -> list[dict[str, Any]]:
        names = [row.account for row in rows]
        balances = self._redis.balances(self._ledger.run(lambda c: places_of(c, names)))
        return [_object(row, balances.get(row.account)) for row in rows]


class GrantHandlers:
    """What adds credits to an account and takes them away."""

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger

    def add_grant(self, call: Call[GrantBody]) -> Response:
        """Add a grant; the same again returns it as it now is."""
        request = GrantRequest(account=call.path["account"], **msgspec.structs.asdict(call.body))

        def work(c: Connection) -> GrantRow:
            _locked(c, request.account)
            is_new = grants.find_grant(c, request.account, request.id) is None
            row = grants.add_grant(c, request)
            if is_new:
                record(c, call, "add_grant")
            return row

        return json_answer(grant_object(self._ledger.run(work)))

    def add_adjustment(self, call: Call[AdjustmentBody]) -> Response:
        """Add or take credits; the same again returns what was done."""
        account, body = call.path["account"], call.body
        if body.amount == 0:
            raise invalid("amount must not be 0.", "amount")

        def work(c: Connection) -> AdjustmentRow:
            _locked(c, account)
            is_new = not _has_adjustment(c, account, body.id)
            row = grants.add_adjustment(c, account, body.id, body.amount, body.reason)
            if is_new:
                record(c, call, "add_adjustment")
            return row

        shown = asdict(self._ledger.run(work))
        shown.pop("transfer")
        return json_answer(shown)


def grant_object(row: GrantRow) -> dict[str, Any]:
    """Return a grant as it is shown; `remaining` is by the ledger, what is held counts too."""
    return {
        "account": row.account,
        "id": row.id,
        "granted": row.amount,
        "remaining": row.remaining,
        "category": row.category.value,
        "priority": row.priority,
        "expires_at_ms": row.expires_at_ms,
        "reference": row.reference,
        "created_ms": row.created_ms,
    }


def place_of(c: Connection, account: str) -> Place:
    """Return where an account is in Redis. Raises `Refusal` (404)."""
    places = places_of(c, [account])
    if not places:
        raise account_not_found()
    return places[0]


def _locked(c: Connection, account: str) -> AccountRow:
    # Locked: what is found to be new stays so until this transaction has made it.
    row = accounts.get_account(c, account, for_update=True)
    if row is None:
        raise account_not_found()
    return row


def _has_adjustment(c: Connection, account: str, id: str) -> bool:
    known = tables.adjustments.c
    query = select(exists().where(known.account == account, known.id == id))
    return bool(c.scalar(query))


def _differs(before: AccountRow, after: AccountRow) -> bool:
    ignored = {"updated_ms": 0, "ledger": 0}
    return asdict(before) | ignored != asdict(after) | ignored


def _object(row: AccountRow, balance: Balance | None) -> dict[str, Any]:
    shown: dict[str, Any] = {name: getattr(row, name) for name in ACCOUNT_COLUMNS[:-1]}
    shown["balances"] = {
        "ledger": row.ledger,
        "available": None if balance is None else balance.available,
        "held": None if balance is None else balance.held,
    }
    return shown
