"""The operators' commands against a real ledger."""

from __future__ import annotations

import json
from typing import Any

import psycopg
import pytest
from click.testing import CliRunner, Result

from sidecar.cli import cli
from sidecar.errors import LedgerUnavailable, Refusal, SchemaMismatch


@pytest.fixture(autouse=True)
def _settings(monkeypatch: pytest.MonkeyPatch, postgres_url: str, redis_url: str) -> None:
    monkeypatch.setenv("CREDITS_POSTGRES_URL", postgres_url)
    monkeypatch.setenv("CREDITS_REDIS_URL", redis_url)


def run(*arguments: str) -> Result:
    result = CliRunner().invoke(cli, arguments)
    if result.exception and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result


def answer(*arguments: str) -> Any:
    return json.loads(run(*arguments, "--json").output)


def test_an_account_is_made_changed_and_shown() -> None:
    made = answer("account", "create", "acme", "--name", "Acme Inc.", "--overdraft", "5")
    assert (made["name"], made["overdraft_limit"]) == ("Acme Inc.", 5_000_000)
    changed = answer("account", "set", "acme", "--overdraft", "0.5", "--low-balance", "2")
    assert (changed["name"], changed["overdraft_limit"]) == ("Acme Inc.", 500_000)
    assert answer("account", "show", "acme") == changed


def test_creating_an_account_again_changes_nothing() -> None:
    made = answer("account", "create", "acme", "--name", "Acme")
    assert answer("account", "create", "acme") == made


def test_an_account_that_does_not_exist_is_not_made_by_a_change() -> None:
    for arguments in (
        ["account", "set", "acme", "--name", "x"],
        ["account", "show", "acme"],
        ["account", "suspend", "acme", "--reason", "x"],
        ["grant", "acme", "--credits", "1"],
        ["balance", "acme"],
    ):
        with pytest.raises(Refusal) as refused:
            run(*arguments)
        assert refused.value.code == "account_not_found"
    assert answer("account", "list")["data"] == []


def test_accounts_are_listed_in_pages_newest_first() -> None:
    for name in ("a", "b", "c"):
        run("account", "create", name)
    first = answer("account", "list", "--limit", "2")
    assert [row["account"] for row in first["data"]] == ["c", "b"]
    rest = answer("account", "list", "--cursor", first["next_cursor"])
    assert [row["account"] for row in rest["data"]] == ["a"]
    table = run("account", "list", "--limit", "1").output
    assert "--cursor" in table


def test_an_account_is_suspended_resumed_and_closed() -> None:
    run("account", "create", "acme")
    suspended = answer("account", "suspend", "acme", "--reason", "payment failed")
    assert (suspended["status"], suspended["status_reason"]) == ("suspended", "payment failed")
    assert answer("account", "resume", "acme", "--reason", "paid")["status"] == "active"
    text = run("account", "close", "acme", "--reason", "asked to").output
    assert "closed: asked to" in text


def test_a_grant_is_given_once_under_its_id() -> None:
    run("account", "create", "acme")
    arguments = ["grant", "acme", "--credits", "2.5", "--id", "order-1", "--category", "paid"]
    assert run(*arguments).output == "Granted 2.5 credits (paid) to acme as order-1.\n"
    assert answer(*arguments)["granted"] == 2_500_000
    with pytest.raises(Refusal) as refused:
        run("grant", "acme", "--amount", "1", "--id", "order-1")
    assert refused.value.code == "id_conflict"
    assert answer("balance", "acme")["balances"]["ledger"] == 2_500_000


def test_a_grant_without_an_id_gets_one_and_expires_when_told() -> None:
    run("account", "create", "acme")
    first = answer("grant", "acme", "--amount", "7", "--expires", "2099-01-01")
    second = answer("grant", "acme", "--amount", "7", "--priority", "0")
    assert first["id"] != second["id"]
    assert first["expires_at_ms"] == 4_070_908_800_000
    assert (second["expires_at_ms"], second["priority"]) == (None, 0)


def test_the_balance_shows_the_account_and_its_grants() -> None:
    run("account", "create", "acme", "--name", "[red]Acme[/red]")
    run("grant", "acme", "--credits", "12.5", "--id", "spring", "--category", "promo")
    text = run("balance", "acme").output
    assert "[red]Acme[/red]" in text
    assert "spring" in text
    assert "12.5" in text
    assert "never" in text


def test_what_the_command_line_changed_is_in_the_log_of_actions(postgres_url: str) -> None:
    run("account", "create", "acme")
    run("grant", "acme", "--credits", "1")
    with psycopg.connect(postgres_url) as connection:
        rows = connection.execute("SELECT action, remote FROM control_actions").fetchall()
    assert sorted(rows) == [("add_grant", "command line"), ("put_account", "command line")]


def test_a_bad_value_is_refused_like_over_http() -> None:
    with pytest.raises(Refusal) as refused:
        run("account", "create", "not an account")
    assert refused.value.code == "invalid_request"
    run("account", "create", "acme")
    with pytest.raises(Refusal) as refused:
        run("grant", "acme", "--amount", "0")
    assert (refused.value.code, refused.value.param) == ("invalid_request", "amount")


def test_a_ledger_that_is_away_is_said_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CREDITS_POSTGRES_URL", "postgresql://postgres@127.0.0.1:1/credits")
    with pytest.raises(LedgerUnavailable):
        run("balance", "acme")


def test_migrate_brings_an_empty_database_up_and_may_be_repeated(
    monkeypatch: pytest.MonkeyPatch, empty_postgres_url: str
) -> None:
    monkeypatch.setenv("CREDITS_POSTGRES_URL", empty_postgres_url)
    with pytest.raises(SchemaMismatch, match="credit-sidecar migrate"):
        run("balance", "acme")
    first = run("migrate").output
    assert first.startswith("The ledger's schema is at revision ")
    assert run("migrate").output == first
    assert answer("account", "list")["data"] == []
