"""What `credit-sidecar doctor` looks at: Redis, Postgres, and what runs between them."""
