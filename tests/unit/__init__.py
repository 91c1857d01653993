"""No input or output: functions and values alone."""

from __future__ import annotations
