"""Real processes, killed and cut off in the middle."""

from __future__ import annotations
