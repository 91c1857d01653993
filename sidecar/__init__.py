"""Credit Sidecar: the hold/settle layer that sits beside an inference server."""

__version__ = "0.1.0"
