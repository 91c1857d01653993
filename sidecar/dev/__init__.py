"""What only `credit-sidecar dev` and the tests use: embedded servers and a fake Stripe."""

from __future__ import annotations
