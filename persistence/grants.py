"""Grants and adjustments: how credits come into an account, and how operators take them away."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any, Final

import sqlalchemy as sa
from sqlalchemy import Connection

from persistence.accounts import AccountRow, get_account
from persistence.database import now_ms
from persistence.errors import AccountUnknown, GrantConflict, TotalExceeded
from persistence.generations import RefillKind, add_refill, generation_accounts
from persistence.tables import accounts, adjustments, grants
from persistence.transfers import Transfer, TransferKind, ledger_account, post
from sidecar.domain import MAX_AMOUNT, NEVER_EXPIRES, Category, burn_order, is_id
from sidecar.errors import ErrorCode, Refusal

DEFAULT_PRIORITY: Final = 50


@dataclass(frozen=True, slots=True)
class GrantRequest:
    """What to add: `amount` in microcredits, `expires_at_ms` None for never."""

    account: str
    id: str
    amount: int
    category: Category
    priority: int = DEFAULT_PRIORITY
    expires_at_ms: int | None = None
    reference: str | None = None


@dataclass(frozen=True, slots=True)
class GrantRow:
    """One grant. `used` is less refunds; `returned` was taken away by adjustments.

    `rolled_group` names the grants whose rest was carried over with it, at most `rolled_keep`.
    """

    grant_no: int
    account: str
    id: str
    amount: int
    category: Category
    priority: int
    expires_at_ms: int | None
    reference: str | None
    transfer: int
    created_ms: int
    used: int
    expired: int
    returned: int
    rolled_group: str | None
    rolled_keep: int | None

    @property
    def remaining(self) -> int:
        """What is left by the ledger: not used, not expired, not taken back; held counts too."""
        return self.amount - self.used - self.expired - self.returned


@dataclass(frozen=True, slots=True)
class AdjustmentRow:
    """One adjustment: positive amounts are also a grant of the same id."""

    account: str
    id: str
    amount: int
    reason: str
    transfer: int
    created_ms: int


def add_grant(connection: Connection, request: GrantRequest) -> GrantRow:
    """Add a grant: its transfer, the loan of it to the present generation, and its refill.

    The same request again returns the same row and moves nothing. Raises `AccountUnknown`,
    `GrantConflict` when the id was used with other contents, `TotalExceeded`, and `Refusal` (422)
    for values out of range.
    """
    _check_grant(request)
    account = _locked(connection, request.account)
    found = find_grant(connection, request.account, request.id)
    if found is not None:
        return _replayed(request, found)
    return _new_grant(connection, request, account, TransferKind.GRANT)


def add_adjustment(
    connection: Connection, account: str, id: str, amount: int, reason: str
) -> AdjustmentRow:
    """Add (`amount` > 0) or take away credits; taking may go below zero. Idempotent by id.

    Raises `AccountUnknown`, `GrantConflict`, `TotalExceeded`, and `Refusal` (422) for an amount
    of 0 or out of range.
    """
    _check_amount(abs(amount))
    _check_id(id)
    row = _locked(connection, account)
    found = _find_adjustment(connection, account, id)
    if found is not None:
        if (found.amount, found.reason) != (amount, reason):
            raise GrantConflict(account, id)
        return found
    if amount > 0:
        transfer = _add(connection, row, id, amount, reason)
    else:
        transfer = _take(connection, row, id, -amount)
    made = AdjustmentRow(account, id, amount, reason, transfer, now_ms())
    connection.execute(adjustments.insert().values(dataclasses.asdict(made)))
    return made


def find_grant(connection: Connection, account: str, id: str) -> GrantRow | None:
    """Return the grant of this id, or None."""
    query = grants.select().where(grants.c.account == account, grants.c.id == id)
    row = connection.execute(query).one_or_none()
    return None if row is None else grant_row(row)


def grant_row(row: sa.Row[Any]) -> GrantRow:
    """Return a row of the table as a value."""
    values = dict(row._mapping)
    values["category"] = Category(values["category"])
    return GrantRow(**values)


def _add(connection: Connection, account: AccountRow, id: str, amount: int, reason: str) -> int:
    request = GrantRequest(account.account, id, amount, Category.ADJUSTMENT, reference=reason)
    if find_grant(connection, account.account, id) is not None:
        raise GrantConflict(account.account, id)
    return _new_grant(connection, request, account, TransferKind.ADJUSTMENT).transfer


def claw_back(
    connection: Connection,
    account: str,
    amount: int,
    *,
    grant_id: str | None,
    id: str,
    reference: str,
) -> int:
    """Take credits back that a payment gave, from its own grant first; return the transfer.

    What that lacks, or all when there is no such grant, goes in burn order, and below zero. Not
    idempotent by itself: the caller has the payment's row locked, and knows what was taken before.
    `reference` is the PaymentIntent. Raises `AccountUnknown`, `TotalExceeded`, and `Refusal` (422)
    for an amount out of range.
    """
    _check_amount(amount)
    row = _locked(connection, account)
    grant = None if grant_id is None else find_grant(connection, account, grant_id)
    refill = {"amount": amount, "grant_no": 0 if grant is None else grant.grant_no, "id": id}
    kind = TransferKind.CLAWBACK
    return _take_away(connection, row, refill, "source:paid", kind, reference)


def _take(connection: Connection, account: AccountRow, id: str, amount: int) -> int:
    refill = {"amount": amount, "grant_no": 0, "id": id}
    kind = TransferKind.ADJUSTMENT
    return _take_away(connection, account, refill, "source:adjustment", kind, id)


def _take_away(
    connection: Connection,
    account: AccountRow,
    refill: dict[str, Any],
    source: str,
    kind: TransferKind,
    reference: str,
) -> int:
    amount: int = refill["amount"]
    if account.ledger - amount < -MAX_AMOUNT:
        raise TotalExceeded(account.account)
    present = generation_accounts(connection, account.account)
    to = ledger_account(connection, source)
    away = Transfer(present.available_no, to, amount, kind, account.account, reference)
    # What Redis gives up for it comes back from the generation when its event is flushed.
    (transfer,) = post(connection, [away], at_ms=now_ms())
    add_refill(connection, account.account, RefillKind.TAKE, 0, refill)
    return transfer


def _new_grant(
    connection: Connection, request: GrantRequest, account: AccountRow, kind: TransferKind
) -> GrantRow:
    if account.granted_total + request.amount > MAX_AMOUNT:
        raise TotalExceeded(request.account)
    present = generation_accounts(connection, request.account)
    reference = request.reference or request.id
    source = ledger_account(connection, f"source:{request.category.value}")
    name, amount = request.account, request.amount
    moves = [Transfer(source, present.available_no, amount, kind, name, reference)]
    if present.is_present:
        lend = TransferKind.LEND
        moves.append(
            Transfer(present.available_no, present.lent_no, amount, lend, name, request.id)
        )
    transfer = post(connection, moves, at_ms=now_ms())[0]
    row = _insert_grant(connection, request, transfer)
    if present.is_present:
        add_refill(connection, name, RefillKind.GRANT, amount, _refill_payload(row))
    total = account.granted_total + amount
    change = accounts.update().where(accounts.c.account == name)
    connection.execute(change.values(granted_total=total, updated_ms=now_ms()))
    return row


def _insert_grant(connection: Connection, request: GrantRequest, transfer: int) -> GrantRow:
    insert = grants.insert().values(
        account=request.account,
        id=request.id,
        amount=request.amount,
        category=request.category.value,
        priority=request.priority,
        expires_at_ms=request.expires_at_ms,
        reference=request.reference,
        transfer=transfer,
        created_ms=now_ms(),
    )
    return grant_row(connection.execute(insert.returning(*grants.c)).one())


def _refill_payload(row: GrantRow) -> dict[str, Any]:
    order = burn_order(row.priority, row.expires_at_ms, row.category, row.grant_no)
    return {"grant_no": row.grant_no, "amount": row.amount, "order": order, "id": row.id}


def _replayed(request: GrantRequest, found: GrantRow) -> GrantRow:
    if (
        GrantRequest(
            found.account,
            found.id,
            found.amount,
            found.category,
            found.priority,
            found.expires_at_ms,
            found.reference,
        )
        != request
    ):
        raise GrantConflict(request.account, request.id)
    return found


def _locked(connection: Connection, account: str) -> AccountRow:
    row = get_account(connection, account, for_update=True)
    if row is None:
        raise AccountUnknown(account)
    return row


def _find_adjustment(connection: Connection, account: str, id: str) -> AdjustmentRow | None:
    query = adjustments.select().where(adjustments.c.account == account, adjustments.c.id == id)
    row = connection.execute(query).one_or_none()
    return None if row is None else AdjustmentRow(**row._mapping)


def _check_grant(request: GrantRequest) -> None:
    _check_amount(request.amount)
    _check_id(request.id)
    if not 0 <= request.priority <= 100:
        raise Refusal(ErrorCode.INVALID_REQUEST, "A priority is 0 … 100.", param="priority")
    expires_at_ms = request.expires_at_ms
    if expires_at_ms is not None and not 0 <= expires_at_ms < NEVER_EXPIRES:
        raise Refusal(
            ErrorCode.INVALID_REQUEST,
            "An expiry is Unix time in ms; leave it out for never.",
            param="expires_at_ms",
        )


def _check_amount(amount: int) -> None:
    if not 1 <= amount <= MAX_AMOUNT:
        raise Refusal(
            ErrorCode.INVALID_REQUEST, "An amount is 1 … 2^53-1 microcredits.", param="amount"
        )


def _check_id(id: str) -> None:
    if not is_id(id):
        raise Refusal(ErrorCode.INVALID_REQUEST, "Not an id.", param="id")
