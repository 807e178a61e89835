"""A result in a notebook: its explorer, and a summary where the bare dataset would list a hundred variables."""

from __future__ import annotations

import html
import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import xarray as xr

    from fedmi_jax.data.datasets import Dataset

HEIGHT = 860
"""Pixels of the frame that the explorer stands in."""


@dataclass(frozen=True)
class View:
    """The circuit explorer of a result; a notebook shows it where it is a cell's last line."""

    name: str
    html: str
    """The whole page."""

    def _repr_html_(self) -> str:
        """In a frame of its own: nothing of the page and of the notebook can meet."""
        page = html.escape(self.html, quote=True)
        look = f"width: 100%; height: {HEIGHT}px; border: 0"
        title = html.escape(f"circuits of {self.name}", quote=True)
        return f'<iframe title="{title}" sandbox="allow-scripts" style="{look}" srcdoc="{page}"></iframe>'

    def __repr__(self) -> str:
        return f"View({self.name!r}, {len(self.html) / 1e6:.1f} MB of HTML; a notebook shows it)"


def view(result: xr.Dataset, dataset: Dataset | None = None) -> View:
    """The circuit explorer of a result, for a notebook: the cell's last line shows it.

    Args: dataset: the images that the result was made of, where they are one's own (`from_arrays`); those that the
    result names are found by themselves. With weights (execution.save_weights) it shows kernels, and which images
    excite a channel most. Raises FedmiError where the images are not the result's.
    """
    from fedmi_jax.report.html import page

    return View(str(result.attrs.get("name", "result")), page.single(result, dataset))


# --- a result as a cell's last line ---


def summarise_results() -> None:
    """Within IPython, show results as a summary, with the dataset folded below it. Elsewhere it does nothing.

    Other datasets are shown as before.
    """
    shell = sys.modules.get("IPython") and sys.modules["IPython"].get_ipython()
    formatters = getattr(getattr(shell, "display_formatter", None), "formatters", {})
    if "text/html" in formatters:
        formatters["text/html"].for_type_by_name("xarray.core.dataset", "Dataset", repr_html)


def repr_html(ds: Any) -> str:
    """A result's summary, and xarray's own view of it; of any other dataset xarray's own view."""
    usual = ds._repr_html_()
    if "schema_version" not in ds.attrs or not {"analysed", "seed", "round", "client"} <= set(ds.variables):
        return usual
    try:
        short = _summary(ds)
    except Exception:  # a selection of a result, which lacks what a summary needs: showing it must not fail
        return usual
    return f"{short}<details><summary>all variables</summary>{usual}</details>"


def _summary(ds: xr.Dataset) -> str:
    from fedmi_jax.report.html import sections
    from fedmi_jax.report.html.elements import el, text

    name = str(ds.attrs.get("name", "result"))
    hint = el("p", el("code", "fedmi_jax.view(result)"), " shows its circuits, ",
              el("code", "fedmi_jax.summary(result)"), " has all figures in short.")  # fmt: skip
    return text(el("div", sections.at_a_glance({name: ds}), hint))
