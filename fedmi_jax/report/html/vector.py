"""Figures as they stand in a page: matplotlib's SVG without what belongs to a file of its own, in half the bytes.

Shapes that figures refer to, letters above all, are kept once for the whole page.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NamedTuple
from xml.etree import ElementTree
from xml.etree.ElementTree import Element

from fedmi_jax.analysis.runs import Runs
from fedmi_jax.report import figures
from fedmi_jax.report.html.elements import el

_NAMESPACE = re.compile(r"\{[^}]*\}")
_LONG = re.compile(r"(-?\d+\.\d{2})\d+")
_ROUNDED = ("d", "x", "y", "points", "width", "height")
"""Attributes that are lengths on the page: a hundredth of a point is less than a screen shows."""


Shapes = dict[str, Element]


class Drawn(NamedTuple):
    """A figure of the report."""

    name: str
    """As of the file that `fedmi figures` writes."""
    says: str
    run: str
    """The experiment that it is a figure of; empty: one of the paper's, of all that there are."""
    picture: Element


def drawn(runs: Runs) -> tuple[list[Drawn], Element, list[str]]:
    """Every figure that `fedmi figures` draws of these runs, in its order; the shapes that they share, to stand in the
    page once; and, one line each, what could not be drawn."""
    shapes: Shapes = {}
    with TemporaryDirectory() as folder:
        files, problems = figures.draw_all(runs, Path(folder), (), ("svg",))
        found = [Drawn(path.stem, *_about(path.stem, runs), inline(path.read_text("utf-8"), shapes)) for path in files]
    shared = el("defs", shapes.values())
    return found, el("svg", shared, class_="shapes", width="0", height="0", aria_hidden="true"), problems


def _about(stem: str, runs: Runs) -> tuple[str, str]:
    """The figure's first sentence, and its experiment: of NAME and RUN in NAME-RUN the longest that fit."""
    name = max((n for n in figures.NAMES if f"{stem}-".startswith(f"{n}-")), key=len)
    of = (run for run in runs if name in figures.PER_RUN and f"{stem}-".startswith(f"{name}-{run}-"))
    says = " ".join((figures.ALL[name].draw.__doc__ or "").split("\n\n")[0].split())
    return says, max(of, key=len, default="")


def inline(svg: str, shapes: Shapes) -> Element:
    """A figure's svg element for a page. What it refers to goes into `shapes`, {as HTML: element}, unless it is
    there already."""
    root = ElementTree.fromstring(svg)
    _plain(root)
    names = _taken_out(root, shapes)
    for one in root.iter():
        _point_to(one, names)
    box = root.get("viewBox", "0 0 1 1")
    width = box.split()[2]
    root.attrib = {"viewBox": box, "style": f"max-width: {1.34 * float(width):.0f}px"}
    return root


def _plain(element: Element) -> None:
    """Without namespaces, comments, descriptions of the file, names that nothing refers to, and needless digits."""
    element.tag = _NAMESPACE.sub("", str(element.tag))
    element.text = element.tail = None
    element.attrib = {_NAMESPACE.sub("", name): value for name, value in element.attrib.items()}
    if element.tag in ("g", "image"):
        element.attrib.pop("id", None)
    for name in _ROUNDED:
        if name in element.attrib:
            element.set(name, _LONG.sub(r"\1", " ".join(element.attrib[name].split())))
    for child in list(element):
        if not isinstance(child.tag, str) or _NAMESPACE.sub("", child.tag) in ("metadata", "style"):
            element.remove(child)
        else:
            _plain(child)


def _taken_out(root: Element, shapes: Shapes) -> dict[str, str]:
    """Move everything that has a name out of the figure's definitions; {name in the figure: name in the page}."""
    names = {}
    for parent in list(root.iter()):
        for definitions in parent.findall("defs"):
            parent.remove(definitions)
            for shape in definitions:
                own = shape.attrib.pop("id", "")
                names[own] = _shared(shape, shapes)
    return names


def _shared(shape: Element, shapes: Shapes) -> str:
    """Its name in the page."""
    key = ElementTree.tostring(shape, encoding="unicode", method="html")
    if key not in shapes:
        shape.set("id", f"s{len(shapes)}")
        shapes[key] = shape
    return shapes[key].attrib["id"]


def _point_to(element: Element, names: dict[str, str]) -> None:
    for attribute, value in element.attrib.items():
        if attribute == "href" and value[1:] in names:
            element.set(attribute, f"#{names[value[1:]]}")
        elif (clip := re.fullmatch(r"url\(#(.*)\)", value)) and clip[1] in names:
            element.set(attribute, f"url(#{names[clip[1]]})")


def section(found: Sequence[Drawn], runs: Runs) -> list[Element]:
    """The figures with their captions. Those of several experiments are folded, for a browser takes seconds to lay out
    hundreds of them."""
    groups = {run: [_figure(one) for one in found if one.run == run] for run in ("", *runs)}
    groups = {run: el("div", own, class_="drawings") for run, own in groups.items() if own}
    if len(runs) == 1:
        return list(groups.values())
    titles = {run: f"{run or 'The paper’s figures'} ({len(of)})" for run, of in groups.items()}
    return [el("details", el("summary", titles[run]), of) for run, of in groups.items()]


def _figure(one: Drawn) -> Element:
    one.picture.set("role", "img")
    one.picture.set("aria-label", f"{one.name}: {one.says}")
    name = el("strong", one.name)
    return el("figure", el("div", one.picture, class_="plate"), el("figcaption", name, f" {one.says}"), class_="drawn")
