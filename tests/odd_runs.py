"""Runs that are not like the paper's, and what their figures show."""

import numpy as np
from made_up import complete

from fedmi_jax.report import figures, style

LONG = "a class with a very long name"


def pages(name, data):
    with style.styled():
        return figures.ALL[name].draw({data.attrs["name"]: data} if name in figures.ACROSS else data)


def alike(clients, classes, **how):
    """All clients hold the same classes."""
    own = (tuple(range(classes)),) * clients
    return complete("iid", **{"true": classes, "own": own, "seeds": 1, "rounds": 2} | how)


def apart(kind, clients, each, **how):
    """No two clients hold the same class."""
    own = tuple(tuple(range(each * k, each * (k + 1))) for k in range(clients))
    return complete(kind, **{"true": clients * each, "own": own, "seeds": 1, "rounds": 2} | how)


def renamed(ds):
    """With class names of 32 characters."""
    names = {dim: [f"{LONG} {c:02}" for c in ds[dim].values] for dim in ("class", "true_class")}
    return ds.assign_coords({f"{dim}_name": (dim, of) for dim, of in names.items()})


def deep(ds, layers):
    """With so many convolutions, each like one of the three."""
    like = {f"conv{i}": f"conv{(i - 1) % 3 + 1}" for i in range(1, layers + 1)}
    masks = {f"mask_{k}": ds[f"mask_{of}"].rename({f"channel_{of}": f"channel_{k}"}) for k, of in like.items()}
    whole = ds.drop_vars([name for name in ds.variables if "conv" in str(name)]).sel(layer=list(like.values()))
    whole = whole.drop_dims([f"channel_conv{i}" for i in (1, 2, 3)], errors="ignore")
    return whole.assign_coords(layer=list(like)).assign(masks)


def titles(figures_):
    return [axes.get_title() for figure in figures_ for axes in style.shown(figure) if axes.get_title()]


def row_names(figure):
    return [tick.get_text() for tick in figure.axes[0].get_yticklabels()]


def small_print(monkeypatch):
    """Of the figures by their names, filled in when they are drawn; they are not saved."""
    said = {}

    def save(figure, path):
        said[path.stem] = figure.get_supxlabel().replace("\n", " ")
        return path

    monkeypatch.setattr(style, "save", save)
    return said


def shown_texts(figure):
    """(text, box) of all that can be read; ticks outside their axis are not drawn."""
    from matplotlib.text import Text

    figure.draw_without_rendering()
    hidden = set()
    for axes in figure.axes:
        for axis in (axes.xaxis, axes.yaxis):
            low, high = sorted(axis.get_view_interval())
            ticks = [*axis.get_major_ticks(), *axis.get_minor_ticks()]
            hidden |= {tick.label1 for tick in ticks if not (axes.axison and low <= tick.get_loc() <= high)}
            hidden |= set() if axes.axison else {axis.label}
    found = [one for one in figure.findobj(Text) if one.get_visible() and one.get_text() and one not in hidden]
    return [(one.get_text(), one.get_window_extent()) for one in found]


def touching(figure, gap=0):
    """Pairs of texts whose boxes overlap, or are less than so many points apart, and texts that leave the page."""
    said, found = zip(*shown_texts(figure), strict=True)
    left, bottom, right, top = np.array([box.extents for box in found]).T
    wide = np.minimum(right[:, None], right) - np.maximum(left[:, None], left)
    high = np.minimum(top[:, None], top) - np.maximum(bottom[:, None], bottom)
    pairs = np.argwhere(np.triu((wide > 0.5 - gap * figure.dpi / 72) & (high > 0.5), 1))
    page = figure.bbox.extents
    out = (left < -1) | (bottom < -1) | (right > page[2] + 1) | (top > page[3] + 1)
    return [(said[i], said[j]) for i, j in pairs] + [said[i] for i in np.flatnonzero(out)]
