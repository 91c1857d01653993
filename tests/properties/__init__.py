"""Random histories against a reference model.

`CREDITS_TEST_HISTORIES` sets how many histories each machine plays, chosen anew each time; without
it a few are played, the same ones each time.
"""

from __future__ import annotations

import os

from hypothesis import HealthCheck, settings


def histories(steps: int, few: int) -> settings:
    """Return the settings of a state machine: `few` histories of at most `steps` calls."""
    chosen = os.environ.get("CREDITS_TEST_HISTORIES")
    return settings(
        max_examples=int(chosen) if chosen else few,
        stateful_step_count=steps,
        derandomize=chosen is None,
        database=None,
        deadline=None,
        suppress_health_check=list(HealthCheck),
    )
