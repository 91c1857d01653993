"""The SQL of revision 0001. Never edited once it is released: later changes are new revisions."""

from __future__ import annotations

from typing import Final

_LEDGER: Final = """
CREATE TABLE ledger (
    id integer PRIMARY KEY CONSTRAINT ledger_is_one CHECK (id = 1),
    ledger_id uuid NOT NULL,
    shards integer NOT NULL CONSTRAINT ledger_shards_in_range CHECK (shards BETWEEN 1 AND 999),
    created_ms bigint NOT NULL
)
"""

_SHARDS: Final = """
CREATE TABLE shards (
    shard integer PRIMARY KEY,
    epoch integer NOT NULL DEFAULT 0,
    cursor text NOT NULL DEFAULT '0-0',
    flushed_events bigint NOT NULL DEFAULT 0,
    last_batch bigint NOT NULL DEFAULT 0,
    last_hash bytea NOT NULL DEFAULT '\\x'::bytea,
    state text NOT NULL DEFAULT 'open'
        CONSTRAINT shards_state_known CHECK (state IN ('open', 'lost'))
) WITH (fillfactor = 20)
"""

_ACCOUNTS: Final = """
CREATE TABLE accounts (
    account text PRIMARY KEY,
    account_no bigint NOT NULL GENERATED ALWAYS AS IDENTITY UNIQUE,
    shard integer NOT NULL REFERENCES shards,
    name text,
    status text NOT NULL DEFAULT 'active' CONSTRAINT accounts_status_known
        CHECK (status IN ('active', 'grace', 'suspended', 'closed')),
    status_reason text,
    overdraft_limit bigint NOT NULL DEFAULT 0 CONSTRAINT accounts_overdraft_in_range
        CHECK (overdraft_limit BETWEEN 0 AND 9007199254740991),
    low_balance_threshold bigint,
    stripe_customer text,
    outage_allowance bigint NOT NULL DEFAULT 0 CONSTRAINT accounts_outage_in_range
        CHECK (outage_allowance BETWEEN 0 AND 9007199254740991),
    granted_total bigint NOT NULL DEFAULT 0 CONSTRAINT accounts_granted_in_range
        CHECK (granted_total BETWEEN 0 AND 9007199254740991),
    generation integer NOT NULL DEFAULT 0,
    created_ms bigint NOT NULL,
    updated_ms bigint NOT NULL
)
"""

_LEDGER_ACCOUNTS: Final = """
CREATE TABLE ledger_accounts (
    no bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    name text NOT NULL UNIQUE,
    kind text NOT NULL CONSTRAINT ledger_accounts_kind_known
        CHECK (kind IN ('source', 'suspense', 'available', 'lent', 'spent', 'expired')),
    account text REFERENCES accounts,
    generation integer,
    balance numeric(38, 0) NOT NULL DEFAULT 0
) WITH (fillfactor = 70)
"""

_TRANSFERS: Final = """
CREATE TABLE transfers (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    at_ms bigint NOT NULL,
    debit_account bigint NOT NULL REFERENCES ledger_accounts,
    credit_account bigint NOT NULL REFERENCES ledger_accounts,
    amount bigint NOT NULL CONSTRAINT transfers_amount_positive CHECK (amount > 0),
    kind text NOT NULL CONSTRAINT transfers_kind_known CHECK (kind IN (
        'grant', 'adjustment', 'lend', 'usage', 'refund', 'expire', 'return', 'suspense')),
    reference text,
    account text,
    shard integer,
    batch bigint,
    CONSTRAINT transfers_two_accounts CHECK (debit_account <> credit_account)
)
"""

_GRANTS: Final = """
CREATE TABLE grants (
    grant_no bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    account text NOT NULL REFERENCES accounts,
    id text NOT NULL,
    amount bigint NOT NULL CONSTRAINT grants_amount_in_range
        CHECK (amount BETWEEN 1 AND 9007199254740991),
    category text NOT NULL CONSTRAINT grants_category_known
        CHECK (category IN ('paid', 'promo', 'allowance', 'adjustment')),
    priority integer NOT NULL CONSTRAINT grants_priority_in_range
        CHECK (priority BETWEEN 0 AND 100),
    expires_at_ms bigint CONSTRAINT grants_expiry_in_range
        CHECK (expires_at_ms BETWEEN 0 AND 999999999999998),
    reference text,
    transfer bigint NOT NULL REFERENCES transfers,
    created_ms bigint NOT NULL,
    used bigint NOT NULL DEFAULT 0,
    expired bigint NOT NULL DEFAULT 0,
    returned bigint NOT NULL DEFAULT 0,
    CONSTRAINT grants_account_id_key UNIQUE (account, id),
    CONSTRAINT grants_counters_not_negative
        CHECK (used >= 0 AND expired >= 0 AND returned >= 0),
    CONSTRAINT grants_not_overspent CHECK (used + expired + returned <= amount)
) WITH (fillfactor = 70)
"""

_ADJUSTMENTS: Final = """
CREATE TABLE adjustments (
    account text NOT NULL REFERENCES accounts,
    id text NOT NULL,
    amount bigint NOT NULL CONSTRAINT adjustments_amount_in_range
        CHECK (amount BETWEEN -9007199254740991 AND 9007199254740991 AND amount <> 0),
    reason text NOT NULL,
    transfer bigint NOT NULL REFERENCES transfers,
    created_ms bigint NOT NULL,
    PRIMARY KEY (account, id)
)
"""

_GENERATIONS: Final = """
CREATE TABLE generations (
    account text NOT NULL REFERENCES accounts,
    gen integer NOT NULL,
    shard integer NOT NULL,
    epoch integer NOT NULL,
    state text NOT NULL DEFAULT 'open' CONSTRAINT generations_state_known
        CHECK (state IN ('open', 'frozen', 'closed')),
    seq bigint NOT NULL DEFAULT 0,
    refill_no bigint NOT NULL DEFAULT 0,
    applied_refill_no bigint NOT NULL DEFAULT 0,
    lent bigint NOT NULL DEFAULT 0,
    spent bigint NOT NULL DEFAULT 0,
    expired bigint NOT NULL DEFAULT 0,
    returned bigint NOT NULL DEFAULT 0,
    overage bigint NOT NULL DEFAULT 0,
    suspended bigint NOT NULL DEFAULT 0,
    dropped bigint NOT NULL DEFAULT 0,
    restored bigint NOT NULL DEFAULT 0,
    available_no bigint NOT NULL REFERENCES ledger_accounts,
    lent_no bigint NOT NULL REFERENCES ledger_accounts,
    spent_no bigint NOT NULL REFERENCES ledger_accounts,
    expired_no bigint NOT NULL REFERENCES ledger_accounts,
    created_ms bigint NOT NULL,
    frozen_ms bigint,
    PRIMARY KEY (account, gen),
    CONSTRAINT generations_not_overspent
        CHECK (spent + expired + returned <= lent + overage),
    CONSTRAINT generations_not_negative
        CHECK (lent >= 0 AND expired >= 0 AND returned >= 0 AND seq >= 0),
    CONSTRAINT generations_refills_in_order
        CHECK (applied_refill_no BETWEEN 0 AND refill_no)
) WITH (fillfactor = 70)
"""

_REFILLS: Final = """
CREATE TABLE refills (
    account text NOT NULL,
    gen integer NOT NULL,
    refill_no bigint NOT NULL,
    kind text NOT NULL CONSTRAINT refills_kind_known
        CHECK (kind IN ('open', 'grant', 'take', 'status', 'restore')),
    amount bigint NOT NULL CONSTRAINT refills_amount_not_negative CHECK (amount >= 0),
    payload jsonb NOT NULL,
    created_ms bigint NOT NULL,
    applied_ms bigint,
    PRIMARY KEY (account, gen, refill_no),
    FOREIGN KEY (account, gen) REFERENCES generations
)
"""

# Fixed-length columns come first: the flusher packs them in one call, and rows need no padding.
_USAGE_EVENTS: Final = """
CREATE TABLE usage_events (
    event_id uuid NOT NULL,
    seq bigint NOT NULL,
    amount bigint NOT NULL,
    total bigint NOT NULL,
    at_ms bigint NOT NULL,
    batch bigint NOT NULL,
    generation integer NOT NULL,
    shard integer NOT NULL,
    late boolean NOT NULL,
    degraded boolean NOT NULL,
    final boolean NOT NULL,
    account text NOT NULL,
    operation text NOT NULL,
    id text NOT NULL,
    allocations bigint[] NOT NULL,
    model text,
    price_version text,
    of text,
    reason text,
    usage jsonb,
    scopes jsonb,
    metadata jsonb,
    PRIMARY KEY (event_id)
) PARTITION BY RANGE (event_id)
"""

_FLUSH_BATCHES: Final = """
CREATE TABLE flush_batches (
    shard integer NOT NULL REFERENCES shards,
    batch_no bigint NOT NULL,
    epoch integer NOT NULL,
    first_id text NOT NULL,
    last_id text NOT NULL,
    events integer NOT NULL,
    inserted integer NOT NULL,
    amount numeric(38, 0) NOT NULL,
    at_ms bigint NOT NULL,
    prev_hash bytea NOT NULL,
    hash bytea NOT NULL,
    PRIMARY KEY (shard, batch_no)
)
"""

_DUPLICATE_EVENTS: Final = """
CREATE TABLE duplicate_events (
    account text NOT NULL,
    generation integer NOT NULL,
    seq bigint NOT NULL,
    event_id uuid NOT NULL,
    amount bigint NOT NULL,
    shard integer NOT NULL,
    batch bigint NOT NULL,
    PRIMARY KEY (account, generation, seq)
)
"""

_DEAD_LETTERS: Final = """
CREATE TABLE dead_letters (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    shard integer NOT NULL,
    stream_id text NOT NULL,
    raw bytea NOT NULL,
    reason text NOT NULL CONSTRAINT dead_letters_reason_known CHECK (reason IN (
        'unreadable', 'unknown_generation', 'gap', 'regression', 'refused')),
    error text NOT NULL,
    account text,
    generation integer,
    seq bigint,
    amount bigint,
    created_ms bigint NOT NULL,
    resolved_ms bigint
)
"""

_REFUSE_CHANGE: Final = """
CREATE FUNCTION credits_refuse_change() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION '% is append-only', TG_TABLE_NAME USING ERRCODE = 'restrict_violation';
END $$
"""

_INDEXES: Final = (
    "CREATE INDEX accounts_stripe_customer ON accounts (stripe_customer)",
    "CREATE INDEX ledger_accounts_account ON ledger_accounts (account)",
    "CREATE INDEX transfers_account ON transfers (account, id)",
    "CREATE INDEX transfers_batch ON transfers (account, batch) WHERE batch IS NOT NULL",
    "CREATE INDEX grants_account_no ON grants (account, grant_no)",
    "CREATE INDEX generations_shard ON generations (shard)",
    "CREATE INDEX refills_pending ON refills (created_ms, account) WHERE applied_ms IS NULL",
    "CREATE INDEX usage_events_account ON usage_events (account, at_ms, seq)",
    "CREATE INDEX usage_events_id ON usage_events (account, id)",
    "CREATE INDEX usage_events_of ON usage_events (account, of) WHERE of IS NOT NULL",
    "CREATE INDEX dead_letters_account ON dead_letters (account, generation, seq)",
    "CREATE INDEX dead_letters_open ON dead_letters (id) WHERE resolved_ms IS NULL",
)

_APPEND_ONLY: Final = ("transfers", "usage_events", "flush_batches", "adjustments")


def _guards(table: str) -> tuple[str, ...]:
    # Row triggers are inherited by partitions, statement triggers are not: TRUNCATE of one
    # partition is refused by the trigger that comes with it (persistence/partitions.py).
    return (
        f"CREATE TRIGGER {table}_append_only BEFORE UPDATE OR DELETE ON {table}"
        " FOR EACH ROW EXECUTE FUNCTION credits_refuse_change()",
        f"CREATE TRIGGER {table}_no_truncate BEFORE TRUNCATE ON {table}"
        " FOR EACH STATEMENT EXECUTE FUNCTION credits_refuse_change()",
        f"REVOKE UPDATE, DELETE, TRUNCATE ON {table} FROM PUBLIC, CURRENT_USER",
    )


# Foreign keys lock the row that they point to, for which its owner must be allowed to update some
# column. This one is generated always, so nothing can be written to it.
_LOCKABLE: Final = "GRANT UPDATE (id) ON transfers TO CURRENT_USER"

# A trigger with a column list costs nothing while only the counters change.
_GRANT_GUARDS: Final = (
    "CREATE TRIGGER grants_fixed BEFORE UPDATE OF grant_no, account, id, amount, category,"
    " priority, expires_at_ms, reference, transfer, created_ms ON grants"
    " FOR EACH ROW EXECUTE FUNCTION credits_refuse_change()",
    "CREATE TRIGGER grants_no_delete BEFORE DELETE ON grants"
    " FOR EACH ROW EXECUTE FUNCTION credits_refuse_change()",
    "CREATE TRIGGER grants_no_truncate BEFORE TRUNCATE ON grants"
    " FOR EACH STATEMENT EXECUTE FUNCTION credits_refuse_change()",
    "REVOKE UPDATE, DELETE, TRUNCATE ON grants FROM PUBLIC, CURRENT_USER",
    "GRANT UPDATE (used, expired, returned) ON grants TO CURRENT_USER",
)

CREATE: Final[tuple[str, ...]] = (
    _LEDGER,
    _SHARDS,
    _ACCOUNTS,
    _LEDGER_ACCOUNTS,
    _TRANSFERS,
    _GRANTS,
    _ADJUSTMENTS,
    _GENERATIONS,
    _REFILLS,
    _USAGE_EVENTS,
    "CREATE TABLE usage_events_default PARTITION OF usage_events DEFAULT",
    _FLUSH_BATCHES,
    _DUPLICATE_EVENTS,
    _DEAD_LETTERS,
    *_INDEXES,
    _REFUSE_CHANGE,
    *(statement for table in _APPEND_ONLY for statement in _guards(table)),
    "CREATE TRIGGER usage_events_default_no_truncate BEFORE TRUNCATE ON usage_events_default"
    " FOR EACH STATEMENT EXECUTE FUNCTION credits_refuse_change()",
    *_GRANT_GUARDS,
    _LOCKABLE,
)

SEED_LEDGER: Final = """
INSERT INTO ledger (id, ledger_id, shards, created_ms)
VALUES (1, gen_random_uuid(), :shards, extract(epoch FROM clock_timestamp()) * 1000)
"""

SEED_SHARDS: Final = "INSERT INTO shards (shard) SELECT generate_series(0, :last)"

SEED_LEDGER_ACCOUNTS: Final = """
INSERT INTO ledger_accounts (name, kind) VALUES
    ('source:paid', 'source'), ('source:promo', 'source'), ('source:allowance', 'source'),
    ('source:adjustment', 'source'), ('suspense', 'suspense')
"""
