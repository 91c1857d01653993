"""HTTP of the fake: keys, forms, idempotency, and the page where customers pay."""

from __future__ import annotations

import base64
import contextlib
import hashlib
import html
import json
from collections.abc import AsyncIterator, Callable
from typing import Any, Final

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import HTMLResponse, RedirectResponse, Response
from starlette.routing import Route

from sidecar.dev.fake_stripe import checkout, lists, payments
from sidecar.dev.fake_stripe.delivery import Delivery
from sidecar.dev.fake_stripe.failures import StripeFailure
from sidecar.dev.fake_stripe.forms import Form, parse
from sidecar.dev.fake_stripe.state import API_VERSION, Answer, Cause, Object, State
from sidecar.web import json_answer

Verb = Callable[[Request, Form, Cause], Object]

_PAGE: Final = """<!doctype html>
<html lang="en"><meta charset="utf-8"><meta name="viewport" content="width=device-width">
<title>Pay (fake Stripe)</title>
<style>body{{font:16px/1.5 system-ui;max-width:30rem;margin:4rem auto;padding:0 1rem}}
button,select{{font:inherit;padding:.5rem 1rem;margin:.5rem 0}}</style>
<h1>Pay {amount} {currency}</h1>
<p>This is a fake Stripe on a development machine. No money moves.</p>
<form method="post"><label>Card <select name="payment_method">{cards}</select></label>
<p><button type="submit">Pay</button></p></form>
{cancel}</html>"""


class FakeStripe:
    """The handlers, around one state."""

    def __init__(self, state: State) -> None:
        self._state = state

    def routes(self) -> list[Route]:
        """Return what is answered."""
        state = self._state
        posts: dict[str, Verb] = {
            "/v1/payment_intents": lambda _, form, cause: payments.create(state, form, cause),
            "/v1/payment_intents/{id}/confirm": lambda request, form, cause: payments.confirm(
                state, request.path_params["id"], form, cause
            ),
            "/v1/payment_intents/{id}/cancel": lambda request, form, cause: payments.cancel(
                state, request.path_params["id"], form, cause
            ),
            "/v1/checkout/sessions": self._create_session,
            "/v1/checkout/sessions/{id}/expire": lambda request, form, cause: checkout.public(
                checkout.expire(state, request.path_params["id"], form, cause)
            ),
        }
        gets: dict[str, Verb] = {
            "/v1/payment_intents/{id}": self._retrieve("payment_intent"),
            "/v1/charges/{id}": self._retrieve("charge"),
            "/v1/checkout/sessions/{id}": self._retrieve("checkout.session"),
            "/v1/events": self._list_events,
            "/v1/events/{id}": lambda request, _, __: lists.find_event(
                state, request.path_params["id"]
            ),
        }
        return [
            Route("/healthz", self._healthz),
            Route("/pay/{id}", self._pay, methods=["GET", "POST"]),
            *(Route(path, self._api(verb), methods=["POST"]) for path, verb in posts.items()),
            *(Route(path, self._api(verb), methods=["GET"]) for path, verb in gets.items()),
            Route("/{path:path}", self._unknown, methods=["GET", "POST", "DELETE"]),
        ]

    def _api(self, verb: Verb) -> Any:
        async def handle(request: Request) -> Response:
            request_id = self._state.new_id("req")
            body = (await request.body()).decode("utf-8", "replace")
            status, answer, replayed = self._answer(verb, request, body, request_id)
            headers = {"Request-Id": request_id, "Stripe-Version": API_VERSION}
            if replayed:
                headers["Idempotent-Replayed"] = "true"
            return json_answer(answer, status, headers)

        return handle

    def _answer(
        self, verb: Verb, request: Request, body: str, request_id: str
    ) -> tuple[int, Object, bool]:
        """Return status, body, and whether it is the first answer of an idempotency key again."""
        key = request.headers.get("idempotency-key") if request.method == "POST" else None
        digest = hashlib.sha256(f"{request.url.path}\n{body}".encode()).hexdigest()
        try:
            livemode = _livemode(request.headers.get("authorization"))
            known = self._known(key, digest)
            if known is not None:
                return known.status, known.body, True
            form = Form(parse(body if request.method == "POST" else request.url.query))
            thing = verb(request, form, Cause(request_id, key, livemode))
            answer = Answer(digest, 200, json.loads(json.dumps(thing)))
        except StripeFailure as failure:
            answer = Answer(digest, failure.status, {"error": failure.error})
            if not failure.is_kept:
                return answer.status, answer.body, False
        if key:
            self._state.answers[key] = answer
        return answer.status, answer.body, False

    def _known(self, key: str | None, digest: str) -> Answer | None:
        known = self._state.answers.get(key or "")
        if known is not None and known.digest != digest:
            raise StripeFailure(
                "Keys for idempotent requests can only be used with the same parameters they were "
                f"first used with. Try using a key other than '{key}'.",
                kind="idempotency_error",
            )
        return known

    def _retrieve(self, kind: str) -> Verb:
        def retrieve(request: Request, form: Form, _: Cause) -> Object:
            form.finish()
            return checkout.public(self._state.get(kind, request.path_params["id"]))

        return retrieve

    def _create_session(self, request: Request, form: Form, cause: Cause) -> Object:
        url_base = str(request.base_url).rstrip("/")
        return checkout.public(checkout.create(self._state, url_base, form, cause))

    def _list_events(self, request: Request, form: Form, _: Cause) -> Object:
        created = request.query_params.get("created")
        equals = Form({"created": created}).integer("created") if created else None
        if created:
            form.text("created")
        return lists.list_events(self._state, form, equals)

    async def _pay(self, request: Request) -> Response:
        id = request.path_params["id"]
        body = (await request.body()).decode("utf-8", "replace")
        try:
            session = self._state.get("checkout.session", id)
            if request.method == "GET":
                return HTMLResponse(_page(session))
            card = Form(parse(body)).text("payment_method") or checkout.DEFAULT_CARD
            paid = checkout.pay(self._state, id, card, Cause(livemode=session["livemode"]))
        except StripeFailure as failure:
            return json_answer({"error": failure.error}, failure.status)
        url = paid["success_url"].replace("{CHECKOUT_SESSION_ID}", id)
        return RedirectResponse(url, status_code=303)

    async def _healthz(self, _: Request) -> Response:
        return json_answer({"status": "ok"})

    async def _unknown(self, request: Request) -> Response:
        message = f"Unrecognized request URL ({request.method}: {request.url.path})."
        failure = StripeFailure(message, status=404)
        return json_answer({"error": failure.error}, failure.status)


def build(delivery: Delivery | None = None) -> Starlette:
    """Return the application; without a `delivery` no webhook is sent."""
    state = State()
    if delivery is not None:
        state.publish = delivery.publish

    @contextlib.asynccontextmanager
    async def lifespan(_: Any) -> AsyncIterator[None]:
        yield
        if delivery is not None:
            await delivery.close()

    return Starlette(routes=FakeStripe(state).routes(), lifespan=lifespan)


def _livemode(authorization: str | None) -> bool:
    """Return the mode of the key that a request came with. Raises `StripeFailure` (401)."""
    scheme, _, value = (authorization or "").partition(" ")
    key = value
    if scheme.lower() == "basic":
        try:
            key = base64.b64decode(value).decode().partition(":")[0]
        except ValueError:
            key = ""
    if scheme.lower() not in ("basic", "bearer") or not key.startswith(("sk_", "rk_")):
        raise StripeFailure(
            "You did not provide an API key, or none that begins with sk_. Use Bearer auth "
            "(Authorization: Bearer YOUR_SECRET_KEY).",
            status=401,
        )
    return key.startswith(("sk_live_", "rk_live_"))


def _page(session: Object) -> str:
    if session["status"] != "open":
        return f"<!doctype html><p>This session is {html.escape(session['status'])}.</p>"
    cards = "".join(f"<option>{html.escape(card)}</option>" for card in payments.CARDS)
    cancel_url = session["cancel_url"]
    cancel = f'<p><a href="{html.escape(cancel_url)}">Cancel</a></p>' if cancel_url else ""
    return _PAGE.format(
        amount=f"{session['amount_total'] / 100:.2f}",
        currency=html.escape(session["currency"].upper()),
        cards=cards,
        cancel=cancel,
    )
