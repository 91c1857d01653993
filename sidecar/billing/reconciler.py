"""The reconciler: what Stripe has and no webhook brought is stored in the inbox, and applied there.

It finds, and never applies: whatever it finds goes the same way as a delivery. Three passes:

- `events`: those since the last good pass, and an hour before it; Stripe keeps them for 30 days;
- `objects`: payments, refunds, disputes, warnings, invoices and subscriptions that were made
  lately, against our rows: for what was answered 200 and lost all the same;
- `subscriptions`: all that are not over are fetched and compared with what is known of them.
"""

from __future__ import annotations

import hashlib
import itertools
import json
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any, Final

from sqlalchemy import Engine

from persistence.database import in_transaction
from sidecar.billing import inbox_rows
from sidecar.billing.errors import DeliveryRefused, StripeRefused
from sidecar.billing.handlers import HANDLERS
from sidecar.billing.reconciled import COMPARISONS, Comparison, known_subscriptions
from sidecar.billing.reconciled import is_as_known as is_subscription_as_known
from sidecar.billing.stripe_api import API_VERSION, Object, StripeApi
from sidecar.billing.webhook import StripeEvent, parse_event

LATE_MS: Final = 600_000
"""Something that is found this long after it happened: webhooks do not arrive."""

_BATCH: Final = 100
_PATHS: Final = {
    "payment_intent": "/v1/payment_intents",
    "checkout.session": "/v1/checkout/sessions",
    "charge": "/v1/charges",
    "refund": "/v1/refunds",
    "dispute": "/v1/disputes",
    "invoice": "/v1/invoices",
    "subscription": "/v1/subscriptions",
    "radar.early_fraud_warning": "/v1/radar/early_fraud_warnings",
}

Progress = Callable[[str, int, int], None]
"""Is told a pass, how many were looked at so far, and how many of them were missing."""


@dataclass(slots=True)
class Report:
    """What one pass looked at, and what was missing: by type, and how much of it late."""

    name: str
    seen: int = 0
    missing: dict[str, list[str]] = field(default_factory=dict)
    late: int = 0

    @property
    def found(self) -> int:
        """How many were missing."""
        return sum(len(ids) for ids in self.missing.values())


class Reconciler:
    """Finds what is missing. `is_dry`: nothing is stored. Belongs to one thread."""

    def __init__(
        self,
        engine: Engine,
        api: StripeApi,
        now_ms: Callable[[], int],
        *,
        livemode: bool,
        is_dry: bool = False,
        progress: Progress = lambda *_: None,
    ) -> None:
        self._engine = engine
        self._api = api
        self._now_ms = now_ms
        self._livemode = livemode
        self._is_dry = is_dry
        self._progress = progress

    def events(self, since_ms: int) -> Report:
        """Store the events since an instant that are not in the inbox, the oldest ones last.

        Raises `StripeAway`, `StripeRefused` and `LedgerUnavailable`; what was stored stays so.
        """
        report = Report("events")
        found = self._api.every("/v1/events", created={"gte": since_ms // 1000})
        for batch in _batches(found):
            report.seen += len(batch)
            ours = {event["id"]: event for event in batch if event["type"] in HANDLERS}
            for id in self._missing(list(ours)):
                self._store(report, self._current(ours[id]), id)
            self._progress(report.name, report.seen, report.found)
        return report

    def objects(self, since_ms: int) -> Report:
        """Store, as events, the objects made since an instant that our rows do not show as theirs.

        Raises as `events`; a kind that Stripe refuses to list keeps no other one from being seen.
        """
        report = Report("objects")
        refused = []
        for comparison in COMPARISONS:
            try:
                self._compare(report, comparison, since_ms)
            except StripeRefused as error:
                refused.append(error)
        if refused:
            raise refused[0]
        return report

    def subscriptions(self) -> Report:
        """Fetch every subscription that is not over, and store those that are not as is known.

        Raises as `events`.
        """
        report = Report("subscriptions")
        with self._engine.connect() as c:
            known = known_subscriptions(c)
        for id, facts in known.items():
            report.seen += 1
            try:
                found = self._api.get(f"/v1/subscriptions/{id}")
            except StripeRefused as error:
                if not error.is_missing:
                    raise
                continue  # of another Stripe account, or of test data that was deleted
            if not is_subscription_as_known(found, facts):
                self._store(report, self._made("customer.subscription.updated", found), id)
            self._progress(report.name, report.seen, report.found)
        return report

    def _compare(self, report: Report, comparison: Comparison, since_ms: int) -> None:
        for batch in _batches(self._listed(comparison, since_ms)):
            report.seen += len(batch)
            for one in self._different(comparison, batch):
                self._store(report, self._made(comparison.event_type, one), one["id"])
            self._progress(report.name, report.seen, report.found)

    def _listed(self, comparison: Comparison, since_ms: int) -> Iterator[Object]:
        since = {"gte": since_ms // 1000}
        found = self._api.every(comparison.path, created=since, **comparison.parameters)
        return (one for one in found if comparison.is_of_interest(one))

    def _missing(self, ids: list[str]) -> list[str]:
        with self._engine.connect() as c:
            known = inbox_rows.known_ids(c, ids)
        return [id for id in ids if id not in known]

    def _different(self, comparison: Comparison, batch: list[Object]) -> list[Object]:
        with self._engine.connect() as c:
            known = comparison.known(c, [one["id"] for one in batch])
        return [one for one in batch if not comparison.is_as_known(one, known.get(one["id"]))]

    def _current(self, event: Object) -> Object:
        """Return an event whose object has the shape that is read here.

        Events keep the shape of the version that the Stripe account had by default. One whose
        object is gone is all that there is.
        """
        thing = event["data"]["object"]
        path = _PATHS.get(thing.get("object", ""))
        if event.get("api_version") == API_VERSION or path is None:
            return event
        try:
            fetched = self._api.get(f"{path}/{thing['id']}")
        except StripeRefused as error:
            if not error.is_missing:
                raise
            return event
        return event | {"api_version": API_VERSION, "data": {"object": fetched}}

    def _made(self, kind: str, thing: Object) -> Object:
        """Return an event that says how an object is now. The same state has the same id."""
        text = json.dumps([kind, thing], sort_keys=True)
        return {
            "id": f"reconciled_{hashlib.sha256(text.encode()).hexdigest()[:32]}",
            "object": "event",
            "api_version": API_VERSION,
            "created": int(thing.get("created") or 0),
            "livemode": self._livemode,
            "type": kind,
            "data": {"object": thing},
        }

    def _store(self, report: Report, event: Object, id: str) -> None:
        now_ms = self._now_ms()
        if not self._is_dry and not self._is_stored(event, now_ms):
            return
        report.missing.setdefault(event["type"], []).append(id)
        if now_ms - event["created"] * 1000 > LATE_MS:
            report.late += 1

    def _is_stored(self, event: Object, now_ms: int) -> bool:
        read = _read(event)
        if read is None:
            return False
        store = lambda c: inbox_rows.store(c, read, now_ms, source="reconciler")  # noqa: E731
        return in_transaction(self._engine, store)


def _read(event: Object) -> StripeEvent | None:
    try:
        return parse_event(json.dumps(event).encode())
    except DeliveryRefused:
        return None


def _batches(things: Iterable[Object]) -> Iterator[list[Any]]:
    rest = iter(things)
    while batch := list(itertools.islice(rest, _BATCH)):
        yield batch
