"""The shapes of objects when they are new, with their usual fields."""

from __future__ import annotations

import copy
from typing import Any

from sidecar.dev.fake_stripe.state import Cause, Object, State


def new(state: State, prefix: str, shape: Object, cause: Cause, **fields: Any) -> Object:
    """Return an object with a new id, made now, and not kept yet."""
    changing: Object = {
        "id": state.new_id(prefix),
        "created": state.now(),
        "livemode": cause.livemode,
    }
    return changing | copy.deepcopy(shape) | fields
