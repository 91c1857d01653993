"""A control listener for tests, and a client that holds its token."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import httpx
from sqlalchemy import Engine, text

from sidecar.control.app import build
from sidecar.kinds import Secret
from sidecar.settings import Settings
from tests.integration.listener import served

TOKEN = "admin-token-of-the-test"
WEBHOOK_SECRET = "whsec_of_the_test"


@contextlib.contextmanager
def control_listener(postgres_url: str, redis_url: str, **settings: Any) -> Iterator[httpx.Client]:
    """Serve the control application; yields a client with the admin token."""
    given = {
        "postgres_url": postgres_url,
        "redis_url": redis_url,
        "admin_token": Secret(TOKEN),
        "stripe_webhook_secret": (Secret(WEBHOOK_SECRET),),
    }
    headers = {"Authorization": f"Bearer {TOKEN}"}
    with (
        served(build(Settings(**(given | settings)))) as url,
        httpx.Client(base_url=url, headers=headers, timeout=30, trust_env=False) as client,
    ):
        yield client


def error_of(response: httpx.Response) -> dict[str, Any]:
    """Return the error object of an answer, after checking its shape."""
    body = response.json()
    assert set(body) == {"error"}
    error: dict[str, Any] = body["error"]
    assert {"code", "type", "message", "param"} <= set(error)
    assert error["message"]
    return error


def refused(response: httpx.Response, status: int, code: str, param: str | None = None) -> None:
    """Assert that an answer is this refusal."""
    assert (response.status_code, error_of(response)["code"]) == (status, code), response.text
    if param is not None:
        assert error_of(response)["param"] == param


@contextlib.contextmanager
def unchanged(control: httpx.Client, engine: Engine) -> Iterator[None]:
    """Assert at the end that the ledger is as it was and that the listener goes on."""
    before = _contents(engine)
    yield
    assert _contents(engine) == before
    assert control.get("/v1/accounts/acme").status_code == 200


def _contents(engine: Engine) -> list[Any]:
    tables = ("accounts", "grants", "adjustments", "transfers", "refills", "control_actions")
    with engine.connect() as c:
        return [c.execute(text(f"SELECT * FROM {table} ORDER BY 1")).all() for table in tables]
