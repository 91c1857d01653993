"""Stripe, played for development and tests: a small HTTP server with real behaviour.

Customers and their cards, payments, refunds, disputes, Checkout, subscriptions and invoices with
Stripe's shapes, events and errors, on a clock that can be moved; idempotency keys, faults, and
signed webhooks that are retried, doubled, reordered or lost as told. In memory only. Run it with
`python -m sidecar.dev.fake_stripe` and open it in a browser; the product never imports it.

A request: `app` (HTTP), `api` (keys, `faults`, `idempotency`, `expand`), `routes` (path to verb),
`forms` (what was sent), `failures` (what is refused), `lists` (pages of what there is).
The verbs: `customers`, `cards`, `payments`, `charges`, `balance`, `refunds`, `disputes`,
`catalogue`, `checkout`, `portal`, `invoices`; `subscriptions` (begin, end), `changes` (update).
Billing: `terms` and `items` (what is subscribed to), `periods` (the calendar), `discounts`,
`invoicing` (how money is collected), `lifecycle` (what follows for a subscription), `renewals`
(what time does). Under them `state` keeps objects and events, `clock` the agenda, `shapes` say
how new objects look, and `delivery` sends the webhooks.
From outside: `control` is JSON under `/_fake/`; `pages` are for people: `page` with its `buttons`,
Checkout and the portal, in `markup`.
"""
