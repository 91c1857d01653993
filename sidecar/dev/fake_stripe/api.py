"""How a request to the API is answered: key, faults, idempotency, the verb, what it expands."""

from __future__ import annotations

import asyncio
import base64
from typing import Final

from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from sidecar.dev.fake_stripe import idempotency
from sidecar.dev.fake_stripe.call import Call, Verb
from sidecar.dev.fake_stripe.expand import expand
from sidecar.dev.fake_stripe.failures import StripeFailure, server_error
from sidecar.dev.fake_stripe.faults import Fault, Faults
from sidecar.dev.fake_stripe.forms import Form, parse
from sidecar.dev.fake_stripe.idempotency import Answer, Keys
from sidecar.dev.fake_stripe.state import API_VERSION, Cause, State, public
from sidecar.web import json_answer

# Effects whose requests carry their parameters in the body; all others have them in the URL.
_WITH_BODY: Final = ("POST",)


class Api:
    """Everything between HTTP and the verbs, around one state."""

    def __init__(self, state: State, faults: Faults) -> None:
        self._state = state
        self._faults = faults
        self._keys = Keys(state.clock)

    async def answer(self, verb: Verb, request: Request) -> Response:
        """Answer one request with a verb, or with the fault that it meets."""
        request_id = self._state.new_id("req")
        body = (await request.body()).decode("utf-8", "replace")
        fault = self._faults.next(request.method, request.url.path)
        key = request.headers.get("idempotency-key") if request.method == "POST" else None
        answer, is_replay = self._answer(verb, request, body, Cause(request_id, key), fault)
        self._state.clock.catch_up()
        if fault is not None and fault.kind == "timeout_after":
            await self._say_nothing(request, fault, key)
        if fault is not None and fault.kind == "drop":
            return BrokenOff()
        headers = {"Request-Id": request_id, "Stripe-Version": API_VERSION}
        if key:
            headers["Idempotency-Key"] = key
        if is_replay:
            headers["Idempotent-Replayed"] = "true"
        return json_answer(answer.body, answer.status, headers)

    def _answer(
        self, verb: Verb, request: Request, body: str, cause: Cause, fault: Fault | None
    ) -> tuple[Answer, bool]:
        """Return the answer, and whether it is the first one of an idempotency key again."""
        key, digest = cause.idempotency_key, idempotency.digest(request.url.path, body)
        self._state.clock.catch_up()
        try:
            cause = Cause(cause.request_id, key, _livemode(request.headers.get("authorization")))
            refusal = fault.refusal() if fault else None
            if refusal is not None:
                raise refusal
            known = self._keys.known(key, digest)
            if known is not None:
                return known, True
            answer = self._act(verb, request, body, cause, fault)
        except StripeFailure as failure:
            if failure.is_kept and fault is not None and fault.kind == "error_after":
                failure = server_error()
            answer = Answer(digest, failure.status, {"error": failure.error})
            if not failure.is_kept:
                return answer, False
        self._keys.keep(key, answer)
        return answer, False

    def _act(
        self, verb: Verb, request: Request, body: str, cause: Cause, fault: Fault | None
    ) -> Answer:
        state = self._state
        form = Form(parse(body if request.method in _WITH_BODY else request.url.query))
        paths = form.texts("expand")
        id, url_base = request.path_params.get("id", ""), str(request.base_url).rstrip("/")
        state.forced_bank = fault.bank() if fault else None
        try:
            thing = verb(Call(state, form, cause, id, url_base))
        finally:
            state.forced_bank = None
        shown = expand(state, public(thing), paths)
        if fault is not None and fault.kind == "error_after":
            raise server_error()
        return Answer(idempotency.digest(request.url.path, body), 200, shown)

    async def _say_nothing(self, request: Request, fault: Fault, key: str | None) -> None:
        """Wait until the client has gone, or for as long as the fault says."""
        if fault.is_in_use:
            self._keys.begin(key)
        try:
            async with asyncio.timeout(fault.seconds):
                while (await request.receive())["type"] != "http.disconnect":
                    pass
                if fault.is_in_use:
                    await asyncio.Event().wait()
        except TimeoutError:
            return
        finally:
            self._keys.end(key)


class BrokenOff(Response):
    """An answer that ends before it has begun: the connection is closed."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Promise a body and end without it, at which the server closes the connection."""
        headers = [(b"content-length", b"1000"), (b"content-type", b"application/json")]
        await send({"type": "http.response.start", "status": 200, "headers": headers})


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
