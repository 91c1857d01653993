"""Load scenarios, latency probe and what they measured."""

from __future__ import annotations
