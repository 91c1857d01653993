"""HTML by hand: text that is escaped unless it is markup already, tables, small forms."""

from __future__ import annotations

import html
from collections.abc import Iterable, Sequence
from typing import Final

_STYLE: Final = """
:root{color-scheme:light dark}
body{font:15px/1.45 system-ui,sans-serif;max-width:72rem;margin:2rem auto;padding:0 1rem}
table{border-collapse:collapse;width:100%;margin:.5rem 0 1.5rem}
th,td{text-align:left;padding:.3rem .6rem;border-bottom:1px solid #8884;vertical-align:top}
form{display:inline}
button,select{font:inherit;padding:.15rem .5rem;margin:.1rem}
code{font-size:.85em}
.note{opacity:.75}
"""


class Markup(str):
    """Text that is HTML already."""

    __slots__ = ()


def text(value: object) -> Markup:
    """Return a value as HTML: escaped, unless it is markup; nothing for None."""
    if isinstance(value, Markup):
        return value
    return Markup(html.escape("" if value is None else str(value)))


def tag(name: str, value: object, /, **attributes: str) -> Markup:
    """Return an element around a value; its attributes are escaped."""
    given = "".join(f' {key}="{html.escape(each)}"' for key, each in attributes.items())
    return Markup(f"<{name}{given}>{text(value)}</{name}>")


def join(values: Iterable[object]) -> Markup:
    """Return values one after the other."""
    return Markup("".join(text(value) for value in values))


def table(heads: Sequence[str], rows: Iterable[Sequence[object]]) -> Markup:
    """Return a table, or a note that there is nothing."""
    body = [tag("tr", join(tag("td", cell) for cell in row)) for row in rows]
    if not body:
        return tag("p", "None yet.")
    head = tag("tr", join(tag("th", each) for each in heads))
    return tag("table", join([tag("thead", head), tag("tbody", join(body))]))


def button(label: str, action: str, **fields: str) -> Markup:
    """Return a form of one button, which posts these fields; without an action, to its page."""
    hidden = join(
        Markup(f'<input type="hidden" name="{html.escape(name)}" value="{html.escape(value)}">')
        for name, value in fields.items()
    )
    return _form(action, hidden, label)


def choice(label: str, action: str, name: str, options: Iterable[str]) -> Markup:
    """Return a form of a selection and a button."""
    select = tag("select", join(tag("option", option) for option in options), name=name)
    return _form(action, select, label)


def document(title: str, *parts: object) -> str:
    """Return a whole page, which needs nothing from elsewhere."""
    return (
        '<!doctype html><html lang="en"><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width">'
        f"<title>{text(title)}</title><style>{_STYLE}</style>"
        f"{tag('h1', title)}{join(parts)}</html>"
    )


def _form(action: str, fields: Markup, label: str) -> Markup:
    content = join([fields, tag("button", label, type="submit")])
    where = {"action": action} if action else {}
    return tag("form", content, method="post", **where)
