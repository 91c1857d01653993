"""A short flood of the webhook, with the hot path measured beside it, is exact."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

from loadtests.figures import ROOT


def test_a_flood_of_the_webhook_loses_and_invents_nothing(tmp_path: Path) -> None:
    figures = tmp_path / "figures.json"
    command = [
        sys.executable, "-m", "loadtests.webhook_flood",
        "--pairs", "1", "--seconds", "1", "--rate", "60",
        "--senders", "4", "--deliveries", "60", "--json", str(figures),
    ]  # fmt: skip
    done = subprocess.run(
        command, cwd=ROOT, capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    report = json.loads(figures.read_text())
    assert report["problems"] == []
    proved = report["proved"]
    assert proved["discrepancies"] == 0
    assert proved["acknowledged"] == proved["ledger"] > 0
    assert proved["top_ups"] > 0
    quiet, flooded = report["windows"]
    assert (quiet["flood"], flooded["kind"]) == (None, "flooded")
    assert {"new top-up: 200", "bad signature: 400"} <= set(flooded["flood"]["answers"])
