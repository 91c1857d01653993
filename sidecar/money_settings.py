"""The settings of the money side: Stripe, what is sold, and the alerts to the product."""

from __future__ import annotations

from dataclasses import dataclass, field

from sidecar.kinds import FLAG, HTTP_URL, SECRET, SECRETS, SIGNING_SECRETS, Secret, about, whole


@dataclass(frozen=True, slots=True)
class MoneySettings:
    """What has to do with money; `Settings` has these too."""

    stripe_webhook_secret: tuple[Secret, ...] = field(
        default=(),
        metadata=about(
            SECRETS, "Signing secrets of the Stripe webhook; any may match, so they can rotate."
        ),
    )
    stripe_secret_key: Secret = field(
        default=Secret(""), metadata=about(SECRET, "The key for calls to the Stripe API.")
    )
    stripe_api_base: str = field(
        default="https://api.stripe.com",
        metadata=about(HTTP_URL, "Where the Stripe API is; another one is for tests."),
    )
    stripe_metadata_topups: bool = field(
        default=True,
        metadata=about(
            FLAG, "Credit payments made elsewhere, without an order, by the metadata they carry."
        ),
    )
    stripe_payload_days: int = field(
        default=90,
        metadata=about(
            whole(1, 3_650),
            "How many days the bodies of Stripe's events are kept: they hold personal data.",
        ),
    )
    stripe_automatic_tax: bool = field(
        default=False,
        metadata=about(FLAG, "Let Stripe Tax add the tax to what Checkout sells."),
    )
    auto_top_up_interval_seconds: int = field(
        default=60,
        metadata=about(
            whole(0, 86_400), "Least time between two charges of one account by auto top-up."
        ),
    )
    top_up_url: str = field(
        default="",
        metadata=about(HTTP_URL, "Where to buy credits; shown with `insufficient_credits`."),
    )
    alert_url: str = field(
        default="",
        metadata=about(
            HTTP_URL, "Where a worker sends alerts, as signed webhooks; unset: nowhere."
        ),
    )
    alert_secret: tuple[Secret, ...] = field(
        default=(),
        metadata=about(
            SIGNING_SECRETS, "Secrets that sign alerts; all of them do, so they can rotate."
        ),
    )
