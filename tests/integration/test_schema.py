"""The schema: made, checked, and guarded against change."""

from __future__ import annotations

import datetime as dt

import pytest
import redis
import sqlalchemy as sa
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from sqlalchemy import Engine
from sqlalchemy.exc import DBAPIError

from persistence import money_tables, plan_tables, schema, stripe_tables, top_up_tables
from persistence.database import make_engine, sqlstate
from persistence.partitions import ensure_partitions, first_id
from persistence.tables import metadata
from sidecar.errors import LedgerUnavailable, SchemaMismatch
from tests.integration.ledger_world import World

for _module in (money_tables, plan_tables, stripe_tables, top_up_tables):
    assert _module.metadata is metadata


def test_the_tables_are_what_the_migrations_make(engine: Engine) -> None:
    with engine.connect() as connection:
        options = {"include_object": _not_a_partition}
        context = MigrationContext.configure(connection, opts=options)
        assert compare_metadata(context, metadata) == []


def _not_a_partition(
    item: object, name: str | None, kind: str, reflected: bool, compared: object
) -> bool:
    return not (reflected and (name or "").startswith("usage_events_") and compared is None)


def test_migrating_twice_changes_nothing(empty_postgres_url: str) -> None:
    assert schema.upgrade(empty_postgres_url, shards=4) == schema.head()
    engine = make_engine(empty_postgres_url)
    query = sa.text("SELECT ledger_id, shards, (SELECT count(*) FROM shards) FROM ledger")
    with engine.connect() as connection:
        before = connection.execute(query).one()
    schema.upgrade(empty_postgres_url, shards=8)
    with engine.connect() as connection:
        assert connection.execute(query).one() == before
    assert tuple(before)[1:] == (4, 4)
    engine.dispose()


def test_an_empty_database_is_refused_and_the_command_is_named(empty_postgres_url: str) -> None:
    engine = make_engine(empty_postgres_url)
    with pytest.raises(SchemaMismatch, match="credit-sidecar migrate"):
        schema.check(engine)
    engine.dispose()


def test_a_newer_schema_is_refused(engine: Engine, postgres_url: str) -> None:
    schema.check(engine)
    with engine.begin() as connection:
        connection.execute(sa.text("UPDATE alembic_version SET version_num = '9999'"))
    with pytest.raises(SchemaMismatch, match="newer"):
        schema.check(engine)
    with pytest.raises(SchemaMismatch, match="newer"):
        schema.upgrade(postgres_url)


def test_a_database_that_is_away_is_a_fault_of_its_own() -> None:
    url = "postgresql://postgres@127.0.0.1:1/nowhere"
    engine = make_engine(url)
    with pytest.raises(LedgerUnavailable):
        schema.check(engine)
    with pytest.raises(LedgerUnavailable):
        schema.upgrade(url)


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE transfers SET amount = 1",
        "DELETE FROM transfers",
        "TRUNCATE transfers CASCADE",
        "UPDATE usage_events SET amount = 0",
        "DELETE FROM usage_events",
        "TRUNCATE usage_events",
        "UPDATE flush_batches SET events = 0",
        "DELETE FROM flush_batches",
        "UPDATE adjustments SET reason = 'x'",
        "DELETE FROM adjustments",
        "UPDATE grants SET amount = amount + 1",
        "DELETE FROM grants",
    ],
)
def test_rows_of_the_ledger_cannot_be_changed(
    statement: str, engine: Engine, redis_client: redis.Redis
) -> None:
    from persistence.grants import add_adjustment

    world = World(engine, redis_client)
    account = world.funded()
    world.run(lambda c: add_adjustment(c, "acme", "a1", 5, "a present"))
    world.sender.run_once()
    account.debit("d1", 10)
    world.flush()
    with pytest.raises(DBAPIError) as refused, engine.begin() as connection:
        connection.execute(sa.text(statement))
    assert sqlstate(refused.value) == "23001"
    world.assert_sound()


def test_the_owner_of_the_tables_has_no_privilege_to_change_rows(
    postgres_server: str, empty_postgres_url: str
) -> None:
    owner = f"owner_{empty_postgres_url.partition('credits_test_')[2][:12]}"
    admin = make_engine(postgres_server)
    name = sa.make_url(empty_postgres_url).database
    with admin.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        connection.execute(sa.text(f"CREATE ROLE {owner} LOGIN"))
        connection.execute(sa.text(f"ALTER DATABASE {name} OWNER TO {owner}"))
    try:
        url = sa.make_url(empty_postgres_url).set(username=owner)
        schema.upgrade(url.render_as_string(hide_password=False))
        engine = make_engine(url.render_as_string(hide_password=False))
        with pytest.raises(DBAPIError) as refused, engine.begin() as connection:
            connection.execute(sa.text("DELETE FROM transfers"))
        engine.dispose()
        assert sqlstate(refused.value) == "42501"
    finally:
        with admin.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
            connection.execute(sa.text(f"DROP DATABASE {name} WITH (FORCE)"))
            connection.execute(sa.text(f"DROP ROLE {owner}"))
            connection.execute(sa.text(f"CREATE DATABASE {name}"))
        admin.dispose()


def test_partitions_stand_ready_for_the_months_to_come(engine: Engine) -> None:
    today = dt.date(2031, 11, 15)
    with engine.begin() as connection:
        made = ensure_partitions(connection, today)
    assert made == [
        "usage_events_2031_10",
        "usage_events_2031_11",
        "usage_events_2031_12",
        "usage_events_2032_01",
        "usage_events_2032_02",
    ]
    with engine.begin() as connection:
        assert ensure_partitions(connection, today) == []


def test_a_month_that_the_default_partition_has_begun_stays_there(engine: Engine) -> None:
    day = dt.date(2040, 1, 1)
    insert = sa.text(
        "INSERT INTO usage_events (event_id, seq, amount, total, at_ms, batch, generation, shard,"
        " late, degraded, final, account, operation, id, allocations)"
        " VALUES (:id, 1, 0, 0, 0, 1, 1, 0, false, false, true, 'a', 'debit', 'd', '{}')"
    )
    with engine.begin() as connection:
        connection.execute(insert, {"id": first_id(day)})
        made = ensure_partitions(connection, day)
    assert "usage_events_2040_01" not in made
    assert "usage_events_2040_02" in made
