"""The Stripe side: what Stripe says becomes facts, and facts become credits.

`webhook` reads what Stripe delivered, `inbox_rows` keeps it, `inbox` applies it in a worker,
`topups` and `payments` know what a payment is worth.
"""
