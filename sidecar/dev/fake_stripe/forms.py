"""Form-encoded parameters as Stripe takes them: `metadata[account]`, `line_items[0][quantity]`."""

from __future__ import annotations

import operator
import re
from collections.abc import Callable
from typing import Any, Final
from urllib.parse import parse_qsl

from sidecar.dev.fake_stripe.failures import StripeFailure

_NAME: Final = re.compile(r"^([^\[\]]+)((?:\[[^\[\]]*\])*)$")
_INTEGER: Final = re.compile(r"^-?[0-9]{1,15}\Z")
_DECIMAL: Final = re.compile(r"^[0-9]{1,12}(\.[0-9]{1,12})?\Z")
_METADATA_KEYS: Final = 50
_COMPARISONS: Final[dict[str, Callable[[int, int], bool]]] = {
    "gt": operator.gt,
    "gte": operator.ge,
    "lt": operator.lt,
    "lte": operator.le,
}


def parse(text: str) -> dict[str, Any]:
    """Return the tree of a form. Raises `StripeFailure` for names that are no path."""
    tree: dict[str, Any] = {}
    for name, value in parse_qsl(text, keep_blank_values=True):
        match = _NAME.match(name)
        if match is None:
            raise StripeFailure(f"Invalid parameter name: {name}", param=name)
        steps = [match.group(1), *re.findall(r"\[([^\[\]]*)\]", match.group(2))]
        _put(tree, steps, value, name)
    return tree


def _put(tree: dict[str, Any], steps: list[str], value: str, name: str) -> None:
    *above, last = steps
    for step in above:
        tree = tree.setdefault(step, {})
        if not isinstance(tree, dict):
            raise StripeFailure(f"Invalid object: {name}", param=name)
    # `types[]=a&types[]=b` is a list without numbers.
    tree[last or str(len(tree))] = value


class Form:
    """The parameters of one object, each taken once; what is left at the end is refused."""

    def __init__(self, tree: dict[str, Any], path: str = "") -> None:
        self._tree = dict(tree)
        self._path = path

    def name_of(self, name: str) -> str:
        """Return a parameter's full name, as the caller wrote it."""
        return f"{self._path}[{name}]" if self._path else name

    def text(self, name: str) -> str | None:
        """Take a string; None when it is not given, or blank."""
        value = self._tree.pop(name, None)
        if isinstance(value, dict):
            raise self._invalid(name, "Invalid string")
        return value or None

    def required(self, name: str) -> str:
        """Take a string that must be given."""
        value = self.text(name)
        if value is None:
            full = self.name_of(name)
            raise StripeFailure(
                f"Missing required param: {full}.", param=full, code="parameter_missing"
            )
        return value

    def integer(self, name: str, least: int = 0) -> int | None:
        """Take an integer of at least `least`; None when it is not given."""
        value = self.text(name)
        if value is None:
            return None
        if not _INTEGER.match(value) or int(value) < least:
            raise self._invalid(name, f"Invalid integer: {value}", code="parameter_invalid_integer")
        return int(value)

    def flag(self, name: str) -> bool:
        """Take a boolean; false when it is not given."""
        value = self.text(name) or "false"
        if value not in ("true", "false"):
            raise self._invalid(name, f"Invalid boolean: {value}")
        return value == "true"

    def has(self, name: str) -> bool:
        """Return whether a parameter is given and not taken yet."""
        return name in self._tree

    def peek(self, name: str) -> Any:
        """Return a parameter as it was sent, without taking it."""
        return self._tree.get(name)

    @property
    def is_empty(self) -> bool:
        """Whether nothing is left to take."""
        return not self._tree

    def decimal(self, name: str) -> float | None:
        """Take a number that is not negative; None when it is not given."""
        value = self.text(name)
        if value is None:
            return None
        if not _DECIMAL.match(value):
            raise self._invalid(name, f"Invalid decimal: {value}")
        return float(value)

    def choice(self, name: str, *allowed: str) -> str:
        """Take one of some words; the first one when it is not given."""
        value = self.text(name) or allowed[0]
        if value not in allowed:
            raise self._invalid(name, f"Invalid {name}: must be one of {', '.join(allowed)}")
        return value

    def instants(self, name: str) -> Callable[[int], bool]:
        """Take a filter of instants: `created=5` or `created[gte]=5`; without one, all pass."""
        if not isinstance(self._tree.get(name), dict):
            equals = self.integer(name)
            return lambda instant: equals is None or instant == equals
        part = self.part(name)
        bounds = {word: part.integer(word) for word in _COMPARISONS}
        part.finish()
        return lambda instant: all(
            _COMPARISONS[word](instant, bound)
            for word, bound in bounds.items()
            if bound is not None
        )

    def changed_metadata(self, current: dict[str, str]) -> dict[str, str]:
        """Take a change of metadata: a blank value takes its key away, blank metadata all."""
        if self._tree.get("metadata") == "":
            del self._tree["metadata"]
            return {}
        given = {**self._subtree("metadata", keep=True)}
        changed = {key: value for key, value in current.items() if given.get(key) != ""}
        return changed | self.metadata()

    def ignore(self, *names: str) -> None:
        """Take parameters that change nothing here."""
        for name in names:
            self._tree.pop(name, None)

    def metadata(self) -> dict[str, str]:
        """Take the metadata: strings, at most 50, keys to 40 and values to 500 characters."""
        tree = self._subtree("metadata")
        for key, value in tree.items():
            if not isinstance(value, str) or len(key) > 40 or len(value) > 500:
                raise self._invalid("metadata", "Metadata values can have up to 500 characters")
        if len(tree) > _METADATA_KEYS:
            raise self._invalid("metadata", "Metadata can have up to 50 keys")
        # A blank value means: without this key.
        return {key: value for key, value in tree.items() if value}

    def part(self, name: str) -> Form:
        """Take an object; an empty one when it is not given."""
        return Form(self._subtree(name), self.name_of(name))

    def parts(self, name: str) -> list[Form]:
        """Take a list of objects."""
        tree, full = self._subtree(name), self.name_of(name)
        return [
            Form(value if isinstance(value, dict) else {"": value}, f"{full}[{index}]")
            for index, value in tree.items()
        ]

    def texts(self, name: str) -> list[str]:
        """Take a list of strings."""
        return [str(value) for value in self._subtree(name).values()]

    def finish(self) -> None:
        """Refuse what was not taken."""
        for name in self._tree:
            full = self.name_of(name)
            raise StripeFailure(
                f"Received unknown parameter: {full}", param=full, code="parameter_unknown"
            )

    def _subtree(self, name: str, keep: bool = False) -> dict[str, Any]:
        value = self._tree.get(name) or {}
        if not keep:
            self._tree.pop(name, None)
        if not isinstance(value, dict):
            raise self._invalid(name, "Invalid object")
        return value

    def _invalid(self, name: str, message: str, **fields: Any) -> StripeFailure:
        return StripeFailure(message, param=self.name_of(name), **fields)
