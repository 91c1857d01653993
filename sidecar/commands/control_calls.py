"""Calls of the control API without its server: the same checks, answers and log of actions.

A command then needs Postgres alone, and does exactly what the HTTP call would do.
"""

from __future__ import annotations

import asyncio
import dataclasses
import secrets
from collections.abc import Mapping
from typing import Any

import httpx

from persistence import schema
from persistence.database import make_engine
from sidecar.control.app import build
from sidecar.errors import ErrorCode, LedgerUnavailable, Refusal
from sidecar.kinds import Secret
from sidecar.settings import Settings

_REMOTE = ("command line", 0)


class ControlCalls:
    """Makes calls with the settings of the ledger."""

    def __init__(self, settings: Settings) -> None:
        settings.require("postgres_url")
        # Whoever has the ledger's URL may do all of this: the token only satisfies the listener.
        token = Secret(secrets.token_hex(16))
        self._settings = dataclasses.replace(settings, admin_token=token)

    def call(
        self,
        method: str,
        path: str,
        body: Mapping[str, Any] | None = None,
        params: Mapping[str, Any] | None = None,
    ) -> dict[str, Any]:
        """Return the JSON answer.

        Raises `Refusal`, `SchemaMismatch`, and `LedgerUnavailable` for a 503.
        """
        self._check_schema()
        response = asyncio.run(self._call(method, path, body, params or {}))
        answer: dict[str, Any] = response.json()
        if response.is_success:
            return answer
        error = answer["error"]
        if response.status_code == 503:
            raise LedgerUnavailable(error["message"])
        raise Refusal(ErrorCode(error["code"]), error["message"], param=error["param"])

    def _check_schema(self) -> None:
        engine = make_engine(self._settings.postgres_url, pool_size=1)
        try:
            schema.check(engine)
        finally:
            engine.dispose()

    async def _call(
        self, method: str, path: str, body: Mapping[str, Any] | None, params: Mapping[str, Any]
    ) -> httpx.Response:
        app = build(self._settings)
        headers = {"Authorization": f"Bearer {self._settings.admin_token}"}
        transport = httpx.ASGITransport(app, client=_REMOTE)
        async with (
            app.router.lifespan_context(app),
            httpx.AsyncClient(
                transport=transport, base_url="http://control", headers=headers
            ) as client,
        ):
            return await client.request(method, path, json=body, params=params)
