"""`dev --story`: the whole life of an account, on the real processes, and the audit after it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from tests.conftest import free_port


def test_the_whole_story_comes_out_right_and_the_audit_finds_nothing(tmp_path: Path) -> None:
    environment = {
        name: value for name, value in os.environ.items() if not name.startswith("CREDITS_")
    }
    ports = ["--port", str(free_port()), "--control-port", str(free_port())]
    command = [sys.executable, "-m", "sidecar", "dev", "--story", "--data-dir", str(tmp_path)]
    done = subprocess.run(
        [*command, *ports], env=environment, capture_output=True, text=True, timeout=300
    )
    told = done.stdout
    assert done.returncode == 0, told + done.stderr
    assert "All 13 steps came out right" in told
    assert "Every line is zero." in told
    for status in ("grace · ", "suspended · "):
        assert status in told
