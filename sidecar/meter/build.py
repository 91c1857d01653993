"""The composition root of the hot path: every part of `credit-sidecar serve`, made and joined."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any, Final

import msgspec
from prometheus_client import CollectorRegistry
from starlette.applications import Starlette
from starlette.routing import Mount

from sidecar.deployment import parse
from sidecar.errors import JournalDamaged
from sidecar.meter.acknowledge import Acknowledger
from sidecar.meter.afterwards import Afterwards
from sidecar.meter.app import MeterApp
from sidecar.meter.debts import Debts
from sidecar.meter.decide import Decider
from sidecar.meter.earlier import Earlier
from sidecar.meter.entries import decode
from sidecar.meter.hand_in import HandIn
from sidecar.meter.journal import Journal
from sidecar.meter.lease import Lease
from sidecar.meter.loader import AccountLoader
from sidecar.meter.looks import Identity, Looker
from sidecar.meter.nodes import Nodes
from sidecar.meter.outage import Outage
from sidecar.meter.room import Room
from sidecar.meter.shelf import Shelf
from sidecar.meter.store import Store
from sidecar.meter.watch import Watch
from sidecar.metrics import JournalMetrics, MeterMetrics
from sidecar.pricing.book import load_book
from sidecar.settings import Settings

_MB: Final = 2**20


@dataclass(frozen=True, slots=True)
class Parts:
    """What the hot path is made of, as far as it is started and stopped."""

    journal: Journal
    loader: AccountLoader
    store: Store
    watch: Watch
    decider: Decider


def build(settings: Settings) -> Starlette:
    """Return the application. Raises `SettingsError` and `JournalError`."""
    registry = CollectorRegistry()
    metrics = MeterMetrics(registry)
    parts = _parts(settings, metrics, _journal(settings, registry))
    api_keys = (settings.api_key,) if settings.api_key else ()
    meter = MeterApp(parts.decider, parts.watch, metrics, registry, api_keys)

    @contextlib.asynccontextmanager
    async def lifespan(_: Any) -> AsyncIterator[None]:
        parts.loader.start()
        await parts.watch.start()
        yield
        await parts.watch.leave(settings.shutdown_grace_ms / 1000)
        await parts.store.close()
        await parts.journal.close()

    return Starlette(routes=[Mount("/", app=meter)], lifespan=lifespan)


def _journal(settings: Settings, registry: CollectorRegistry) -> Journal:
    return Journal.open(
        settings.journal_directory,
        fsync=settings.journal_fsync,
        max_bytes=settings.journal_max_mb * _MB,
        segment_bytes=settings.journal_segment_mb * _MB,
        metrics=JournalMetrics(registry),
    )


def _parts(settings: Settings, metrics: MeterMetrics, journal: Journal) -> Parts:
    book = load_book(settings.price_book)
    timeout_ms = settings.redis_timeout_ms
    nodes = Nodes(
        parse(settings.redis_url), timeout_ms=timeout_ms, connections=settings.redis_connections
    )
    shelf = Shelf(journal)
    allowances: dict[str, int] = {}
    debts = Debts(shelf, allowances, metrics)
    looker = Looker(
        nodes,
        Identity.of(journal.sidecar_id, settings.sidecar_name),
        timeout_ms=timeout_ms,
        is_unsafe_allowed=settings.allow_unsafe_redis,
    )
    lease = Lease(looker, shelf, metrics)
    loader = AccountLoader(nodes, wait_ms=settings.load_wait_ms)
    store = Store(nodes, lease, loader, metrics, allowances, timeout_ms=timeout_ms)
    room = Room(settings.redis_memory_refuse_percent, metrics)
    acknowledger = Acknowledger(journal, shelf, lease, store, room)
    afterwards = Afterwards(store, shelf, acknowledger, debts, metrics)
    _recover(journal, shelf, afterwards)
    outage = Outage(shelf, acknowledger, book, debts, metrics)
    earlier = Earlier(store, lease, shelf)
    url = str(settings.top_up_url)
    decider = Decider(store, acknowledger, earlier, outage, afterwards, book, metrics, url)
    hand_in = HandIn(store, lease, shelf, journal.sidecar_id, metrics)
    alarm = settings.redis_memory_alarm_percent
    watch = Watch(lease, shelf, journal, hand_in, afterwards, debts, metrics, alarm_percent=alarm)
    return Parts(journal, loader, store, watch, decider)


def _recover(journal: Journal, shelf: Shelf, afterwards: Afterwards) -> None:
    """Take over what earlier processes left in the journal."""
    try:
        entries = {number: decode(body) for number, body in journal.recovered}
    except msgspec.MsgspecError as error:
        raise JournalDamaged(f"A record of the journal is not one of ours: {error}") from error
    journal.recovered.clear()
    for number in {entry.done for entry in entries.values() if entry.operation == "void"}:
        if entries.pop(number, None) is not None:
            journal.forget(number)
    for number, entry in entries.items():
        shelf.put(number, entry)
    afterwards.recover(entries)
