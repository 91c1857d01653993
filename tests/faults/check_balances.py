"""Do Redis, the ledger and both listeners say the same of every account, and is the audit clean?"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Sequence
from typing import Any, Final

import httpx

from persistence.audit import audit
from tests.faults.check_usage import Verdict
from tests.faults.stack import ADMIN_TOKEN, Stack
from tests.faults.truth import Truth

_OF_WHAT_IS_LOST: Final = {"refunds_within_charges"}
_TIMEOUT_SECONDS: Final = 10.0
_AUDIT_SECONDS: Final = 120.0


def check_balances(stack: Stack, accounts: Sequence[str], truth: Truth, verdict: Verdict) -> None:
    """Compare what the sidecars and the control API say with the ledger. Nothing may be moving."""
    headers = {"Authorization": f"Bearer {ADMIN_TOKEN}"}
    with httpx.Client(trust_env=False, timeout=_TIMEOUT_SECONDS, headers=headers) as client:
        for account in accounts:
            said = {"control": _control(client, stack, account)}
            for sidecar in stack.sidecars:
                said[sidecar.name] = _sidecar(client, sidecar.port, account)
            check_said(account, said, truth.balances[account], verdict)


def check_said(
    account: str, said: dict[str, tuple[int, int]], balance: int, verdict: Verdict
) -> None:
    """Compare what everybody says of an account: available and held."""
    if len(set(said.values())) > 1:
        verdict.problems.append(f"{account} is said to have available and held: {said}")
    for name, (available, held) in said.items():
        if available + held != balance:
            verdict.problems.append(
                f"{account} has {balance} by the ledger, but {name} says {available} + {held}"
            )
        if held < 0:
            verdict.problems.append(f"{account} holds {held} by {name}")


def check_audit(stack: Stack, verdict: Verdict) -> None:
    """Audit without a process of its own: each line must be zero."""
    with stack.redis() as nodes:
        report = audit(stack.engine, nodes, wait_s=5.0)
    for line in report.lines:
        is_excused = bool(verdict.lost) and line.name in _OF_WHAT_IS_LOST
        if not line.is_ok and not is_excused:
            verdict.problems.append(f"audit: {line.name} {line.discrepancies}: {line.samples}")


def check_audit_command(stack: Stack, *, is_excused: bool) -> list[str]:
    """Run `credit-sidecar audit --json` as an operator does; return what it found.

    `is_excused`: charges are lost, as was promised, and their refunds may be there.
    """
    done = subprocess.run(
        [sys.executable, "-m", "sidecar", "audit", "--json"],
        env={
            "CREDITS_REDIS_URL": stack.redis_url,
            "CREDITS_POSTGRES_URL": stack.postgres.url(),
        },
        capture_output=True,
        text=True,
        timeout=_AUDIT_SECONDS,
        check=False,
    )
    if done.returncode in (0, 1) and done.stdout:
        wrong = {line["name"] for line in json.loads(done.stdout)["lines"] if not line["ok"]}
        if not wrong - (_OF_WHAT_IS_LOST if is_excused else set()):
            return []
    return [f"`credit-sidecar audit` ended with {done.returncode}: {done.stdout} {done.stderr}"]


def _control(client: httpx.Client, stack: Stack, account: str) -> tuple[int, int]:
    url = f"http://127.0.0.1:{stack.control.port}/v1/accounts/{account}"
    balances = _json(client.get(url)).get("balances", {})
    return balances.get("available"), balances.get("held")


def _sidecar(client: httpx.Client, port: int, account: str) -> tuple[int, int]:
    url = f"http://127.0.0.1:{port}/v1/balance"
    fields = _json(client.get(url, params={"account": account}))
    return fields["available"], fields["held"]


def _json(answer: httpx.Response) -> dict[str, Any]:
    fields: dict[str, Any] = answer.raise_for_status().json()
    return fields
