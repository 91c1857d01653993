"""The hot path: HTTP → price → Lua → answer. Redis only; nothing here may reach Postgres or Stripe.

Read it in this order: `app` (HTTP), `requests` (what is accepted), `operations` (a request to a
script call and its reply to an answer), `decide` (the order of things), `store` (Redis).
"""
