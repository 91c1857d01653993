"""A short load on two sidecars and two workers over one Redis and one Postgres is exact."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import redis

from loadtests.figures import ROOT


def test_two_sidecars_and_two_workers_charge_exactly_what_clients_were_told(
    redis_url: str, redis_client: redis.Redis, postgres_url: str, tmp_path: Path
) -> None:
    figures = tmp_path / "figures.json"
    command = [
        sys.executable, "-m", "loadtests.run", "mixed", "broke",
        "--duration", "2", "--users", "8", "--accounts-at-most", "4",
        "--sidecars", "2", "--workers", "2",
        "--redis-url", redis_url, "--postgres-url", postgres_url, "--json", str(figures),
    ]  # fmt: skip
    done = subprocess.run(
        command, cwd=ROOT, capture_output=True, text=True, timeout=150, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    outcomes = json.loads(figures.read_text())["outcomes"]
    for outcome in outcomes:
        assert outcome["mismatches"] == []
        assert outcome["audit_status"] == 0
        assert outcome["acknowledged"] == outcome["ledger"] > 0
        assert outcome["codes"]["200 settled"] > 0
    assert outcomes[1]["codes"]["402 insufficient_credits"] > 0
