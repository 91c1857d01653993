"""One request, as the verbs take it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from sidecar.dev.fake_stripe.forms import Form
from sidecar.dev.fake_stripe.state import Cause, Object, State


@dataclass(frozen=True, slots=True)
class Call:
    """The state, what was sent, who sent it, the id in the path, and where the fake is."""

    state: State
    form: Form
    cause: Cause
    id: str = ""
    url_base: str = ""

    def found(self, kind: str) -> Object:
        """Return the object that the path names. Raises `StripeFailure` (404)."""
        return self.state.get(kind, self.id)


Verb = Callable[[Call], Object]


def retrieving(kind: str) -> Verb:
    """Return the verb that shows one object of a kind."""

    def retrieve(call: Call) -> Object:
        call.form.finish()
        return call.found(kind)

    return retrieve


def describing(kind: str, event: str | None) -> Verb:
    """Return the verb that changes the metadata of one object of a kind, and nothing else."""

    def describe(call: Call) -> Object:
        thing = call.found(kind)
        metadata = call.form.changed_metadata(thing["metadata"])
        call.form.finish()
        if event is None:
            thing["metadata"] = metadata
            return thing
        return call.state.change(thing, event, call.cause, metadata=metadata)

    return describe
