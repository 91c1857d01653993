"""Stripe, played for development and tests: a small HTTP server with real behaviour.

Payments, Checkout sessions, charges and events with Stripe's shapes and errors, idempotency keys
checked against parameters, and signed webhooks that are retried. In memory only. Run it with
`python -m sidecar.dev.fake_stripe`; the product never imports it.

`app` is HTTP, `forms` reads what was sent, `failures` what is refused; `state` keeps objects and
events; `payments` and `checkout` are the verbs, `objects` the shapes, `delivery` the webhooks.
"""
