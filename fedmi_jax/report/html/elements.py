"""HTML as a tree of elements. A name out of a file is text of the tree, so that it can never become markup."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any
from xml.etree import ElementTree
from xml.etree.ElementTree import Element

Child = Element | str | None


def el(tag: str, *children: Child | Iterable[Child], **attributes: str | bool | None) -> Element:
    """An element. None among the children or the attributes is left out, True is an attribute without a value.

    In the names of attributes `_` stands for `-`, and one at the end is dropped (`class_`, `for_`).
    """
    found = Element(tag)
    for name, value in attributes.items():
        if value is not None and value is not False:
            found.set(name.rstrip("_").replace("_", "-"), "" if value is True else str(value))
    for child in children:
        parts = [child] if child is None or isinstance(child, str | Element) else child
        for part in parts:
            _append(found, part)
    return found


def _append(parent: Element, child: Child) -> None:
    if isinstance(child, Element):
        parent.append(child)
    elif child and len(parent):
        parent[-1].tail = (parent[-1].tail or "") + child
    elif child:
        parent.text = (parent.text or "") + child


def text(element: Element) -> str:
    """The element as HTML, whatever is text in it escaped."""
    return ElementTree.tostring(element, encoding="unicode", method="html")


def script_json(values: Any) -> str:
    """JSON for a script element: no `<` in it, so that nothing in it can end the element or begin another."""
    written = json.dumps(values, allow_nan=False, separators=(",", ":"))
    return written.replace("<", "\\u003c")


def table(
    head: Iterable[Child], rows: Iterable[Iterable[Child]], caption: str | None = None, **attributes: str | None
) -> Element:
    """A table whose first column names its rows."""
    columns = [el("th", cell, scope="col") for cell in head]
    body = [el("tr", [_cell(i, cell) for i, cell in enumerate(row)]) for row in rows]
    said = el("caption", caption) if caption else None
    whole = el("table", said, el("thead", el("tr", columns)), el("tbody", body), **attributes)
    return el("div", whole, class_="scroll", tabindex="0", role="region", aria_label=caption or "table")


def _cell(column: int, cell: Child) -> Element:
    if isinstance(cell, Element) and cell.tag in ("td", "th"):
        return cell
    return el("td", cell) if column else el("th", cell, scope="row")
