"""Random histories against a reference model."""

from __future__ import annotations
