"""The control listener: accounts, grants, statements, the Stripe webhook. Postgres; reads Redis.

`resources` is HTTP, `app` the composition root; `accounts`, `statements`, `explain` and
`stripe_inbox` hold what each path does. Handlers are blocking and run in threads.
"""
