"""Credit Sidecar: the hold/settle layer that sits beside an inference server."""

from __future__ import annotations

__version__ = "0.1.0"
