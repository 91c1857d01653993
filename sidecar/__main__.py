"""`python -m sidecar` is `credit-sidecar`."""

from __future__ import annotations

from sidecar.cli import main

main()
