"""The composition root of `credit-sidecar control`, and the map of its paths."""

from __future__ import annotations

import contextlib
import time
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from typing import Any, Final

from prometheus_client import CollectorRegistry
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route as PathRoute

from persistence.database import make_engine
from sidecar.billing.webhook import WebhookReader
from sidecar.control.accounts import AccountHandlers, GrantHandlers
from sidecar.control.balances import RedisReader
from sidecar.control.health import HealthHandlers
from sidecar.control.ledger import Ledger
from sidecar.control.money_routes import MoneyHandlers, money_handlers, money_routes
from sidecar.control.queries import INSTANTS, PAGING, USAGE
from sidecar.control.requests import AccountBody, AdjustmentBody, GrantBody, ReasonBody
from sidecar.control.resources import THREADS, Gatekeeper, Route, resources
from sidecar.control.statements import StatementHandlers
from sidecar.control.stripe_inbox import StripeHandlers
from sidecar.domain import AccountStatus
from sidecar.errors import ErrorCode, Refusal
from sidecar.metrics import ControlMetrics
from sidecar.nodes import RedisNodes
from sidecar.settings import Settings
from sidecar.web import refusal_answer

_ACCOUNT: Final = "/v1/accounts/{account}"
_STATEMENT: Final = (*PAGING, *INSTANTS)


@dataclass(frozen=True, slots=True)
class Handlers:
    """What the paths do."""

    accounts: AccountHandlers
    grants: GrantHandlers
    statements: StatementHandlers
    stripe: StripeHandlers
    health: HealthHandlers
    money: MoneyHandlers


def build(settings: Settings) -> Starlette:
    """Return the application of `credit-sidecar control`.

    Raises `SettingsError` when a setting is missing. A ledger that cannot be reached is no error
    here: the listener is not ready then.
    """
    settings.require("postgres_url", "admin_token")
    registry = CollectorRegistry()
    metrics = ControlMetrics(registry)
    engine = make_engine(
        settings.postgres_url, application_name="credit-sidecar control", pool_size=THREADS
    )
    timeout_s = settings.redis_timeout_ms / 1000
    nodes = RedisNodes.of_url(settings.redis_url, timeout_s=timeout_s)
    ledger, redis = Ledger(engine), RedisReader(nodes)
    reader = WebhookReader(settings.stripe_webhook_secret, settings.stripe_secret_key, time.time)
    handlers = Handlers(
        AccountHandlers(ledger, redis),
        GrantHandlers(ledger),
        StatementHandlers(ledger, redis),
        StripeHandlers(ledger, reader, metrics),
        HealthHandlers(ledger, registry),
        money_handlers(settings, engine, ledger),
    )
    routes = routes_of(handlers, has_webhook=reader.is_configured)

    @contextlib.asynccontextmanager
    async def lifespan(_: Any) -> AsyncIterator[None]:
        yield
        engine.dispose()
        nodes.close()

    return application(routes, Gatekeeper((settings.admin_token,), metrics), lifespan)


def application(routes: Sequence[Route], gatekeeper: Gatekeeper, lifespan: Any) -> Starlette:
    """Return the ASGI application that serves `routes`."""
    app = Starlette(
        routes=[PathRoute(path, one) for path, one in resources(routes, gatekeeper).items()],
        exception_handlers={HTTPException: _not_found},
        lifespan=lifespan,
    )
    app.router.redirect_slashes = False
    return app


def routes_of(handlers: Handlers, *, has_webhook: bool) -> list[Route]:
    """Return every method of every path; the webhook only when there is a secret to check with."""
    routes = [
        *_account_routes(handlers.accounts, handlers.grants),
        *_statement_routes(handlers.statements),
        *_stripe_routes(handlers.stripe),
        *money_routes(handlers.money),
        *_probe_routes(handlers.health),
    ]
    if has_webhook:
        receive = handlers.stripe.receive
        routes.append(
            Route("POST", "/stripe/webhook", receive, body=bytes, query=None, is_open=True)
        )
    return routes


def _account_routes(accounts: AccountHandlers, grants: GrantHandlers) -> list[Route]:
    statuses = {
        "suspend": AccountStatus.SUSPENDED,
        "resume": AccountStatus.ACTIVE,
        "close": AccountStatus.CLOSED,
    }
    return [
        Route("GET", "/v1/accounts", accounts.list_page, query=PAGING),
        Route("GET", _ACCOUNT, accounts.get),
        Route("PUT", _ACCOUNT, accounts.put, body=AccountBody),
        Route("POST", f"{_ACCOUNT}/grants", grants.add_grant, body=GrantBody),
        Route("POST", f"{_ACCOUNT}/adjustments", grants.add_adjustment, body=AdjustmentBody),
        *(
            Route(
                "POST",
                f"{_ACCOUNT}/{action}",
                accounts.set_status(f"{action}_account", status),
                body=ReasonBody,
            )
            for action, status in statuses.items()
        ),
    ]


def _statement_routes(statements: StatementHandlers) -> list[Route]:
    return [
        Route("GET", f"{_ACCOUNT}/usage", statements.usage, query=(*_STATEMENT, *USAGE)),
        Route("GET", f"{_ACCOUNT}/transfers", statements.transfers, query=_STATEMENT),
        Route("GET", f"{_ACCOUNT}/grants", statements.grants, query=_STATEMENT),
        Route("GET", f"{_ACCOUNT}/holds", statements.holds, query=(*_STATEMENT, *USAGE)),
        # An id may have slashes in it.
        Route("GET", _ACCOUNT + "/explain/{id:path}", statements.explain),
    ]


def _stripe_routes(stripe: StripeHandlers) -> list[Route]:
    return [
        Route("GET", "/v1/stripe/events", stripe.list_page, query=(*PAGING, "status")),
        Route("POST", "/v1/stripe/events/{id}/replay", stripe.replay),
    ]


def _probe_routes(health: HealthHandlers) -> list[Route]:
    return [
        Route("GET", path, handler, query=None, is_open=True, is_probe=True)
        for path, handler in (
            ("/healthz", health.healthz),
            ("/readyz", health.readyz),
            ("/metrics", health.metrics),
        )
    ]


async def _not_found(_: Request, __: Exception) -> Response:
    return refusal_answer(Refusal(ErrorCode.NOT_FOUND, "There is nothing at this path."))
