"""The hash chain of the flush batches: written by the flusher, recomputed in SQL by the audit.

A batch's hash is sha256(hash before || sha256(its usage rows) || sha256(its transfers)). Rows are
lines of fields, in the order of the event ids; transfers in the order of their ids. What the lines
hold is all that has to do with credits: who, when, how much, of which grants, at which price.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from typing import Final

from persistence.events import DEGRADED, FINAL, LATE
from persistence.usage_copy import UsageRow

_SEPARATOR: Final = "\x1f"


def batch_hash(previous: bytes, rows: bytes, transfers: bytes) -> bytes:
    """Return the hash of a batch from the one before it and its two digests."""
    return hashlib.sha256(previous + rows + transfers).digest()


def rows_digest(rows: Iterable[UsageRow]) -> bytes:
    """Return the digest of the usage rows that a batch inserted."""
    ordered = sorted(rows, key=lambda row: row.event_id)
    return hashlib.sha256("".join(map(_line, ordered)).encode()).digest()


def transfers_digest(transfers: Iterable[tuple[int, int, int, int, str]]) -> bytes:
    """Return the digest of transfers: id, debit, credit, amount and kind of each, by id."""
    lines = (_SEPARATOR.join(map(str, row)) + "\n" for row in sorted(transfers))
    return hashlib.sha256("".join(lines).encode()).digest()


def _line(row: UsageRow) -> str:
    event, details, flags = row.event, row.details, row.event.flags
    version = details.price_version
    return (
        f"{row.event_id.hex()}\x1f{event.account}\x1f{event.generation}\x1f{event.seq}\x1f"
        f"{event.operation.value}\x1f{event.id}\x1f{event.at_ms}\x1f{event.amount}\x1f"
        f"{event.total}\x1f{flags & (LATE | DEGRADED | FINAL)}\x1f"
        f"{str(event.allocations)[1:-1].replace(' ', '')}\x1f{details.model or ''}\x1f"
        f"{'' if version is None else version}\x1f{details.of or ''}\n"
    )


RECOMPUTE: Final = """
WITH row_digests AS (
    SELECT shard, batch, count(*) AS inserted, sum(amount) AS amount,
        sha256(convert_to(string_agg(concat_ws(E'\\x1f',
            replace(event_id::text, '-', ''), account, generation, seq, operation, id, at_ms,
            amount, total, late::int + 2 * degraded::int + 4 * final::int,
            array_to_string(allocations, ','), coalesce(model, ''), coalesce(price_version, ''),
            coalesce(of, '')) || E'\\n', '' ORDER BY event_id), 'UTF8')) AS digest
    FROM usage_events GROUP BY shard, batch
), transfer_digests AS (
    SELECT shard, batch,
        sha256(convert_to(string_agg(concat_ws(E'\\x1f', id, debit_account, credit_account, amount,
            kind) || E'\\n', '' ORDER BY id), 'UTF8')) AS digest
    FROM transfers WHERE batch IS NOT NULL GROUP BY shard, batch
), links AS (
    SELECT b.shard, b.batch_no, b.prev_hash, b.hash, b.inserted, b.amount,
        lag(b.hash, 1, '\\x'::bytea) OVER (PARTITION BY b.shard ORDER BY b.batch_no) AS before,
        lag(b.batch_no, 1, 0::bigint) OVER (PARTITION BY b.shard ORDER BY b.batch_no) AS no_before,
        sha256(b.prev_hash || coalesce(r.digest, sha256('')) || coalesce(t.digest, sha256('')))
            AS computed,
        coalesce(r.inserted, 0) AS rows_found, coalesce(r.amount, 0) AS amount_found
    FROM flush_batches b
    LEFT JOIN row_digests r ON r.shard = b.shard AND r.batch = b.batch_no
    LEFT JOIN transfer_digests t ON t.shard = b.shard AND t.batch = b.batch_no
)
SELECT shard, batch_no FROM links
WHERE hash <> computed OR prev_hash <> before OR batch_no <> no_before + 1
    OR inserted <> rows_found OR amount <> amount_found
UNION ALL
SELECT s.shard, s.last_batch FROM shards s
LEFT JOIN flush_batches b ON b.shard = s.shard AND b.batch_no = s.last_batch
WHERE s.last_batch > 0 AND (b.hash IS NULL OR b.hash <> s.last_hash)
UNION ALL
SELECT r.shard, r.batch FROM row_digests r
WHERE NOT EXISTS (
    SELECT FROM flush_batches b WHERE b.shard = r.shard AND b.batch_no = r.batch)
"""
"""Batches whose hash, predecessor or contents are not what the chain says: none, if all is well."""
