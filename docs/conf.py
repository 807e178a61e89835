"""How Sphinx makes the site: `make docs`."""

import os
import re

from docutils import nodes
from docutils.utils.math.latex2mathml import tex2mathml

import fedmi_jax

os.environ.setdefault("JAX_PLATFORMS", "cpu")  # the reference imports modules that start JAX
project, release, author = "fedmi_jax", fedmi_jax.__version__, "the authors of fedmi_jax"
html_title = "fedmi_jax"
html_theme = "furo"
html_copy_source = False
smartquotes = False
extensions = ["myst_parser", "sphinx.ext.autodoc"]
html_math_renderer = "mathml"
exclude_patterns = ["notebooks"]
myst_enable_extensions = ["dollarmath", "colon_fence"]
myst_heading_anchors = 3
# A pattern in the index may be of a page that is still to come.
suppress_warnings = ["toc.empty_glob"]
autodoc_typehints = "none"
autodoc_member_order = "bysource"
autodoc_preserve_defaults = True


def _plain(app, what, name, obj, options, lines):
    """Docstrings here are plain text with `code` in single backticks, in which no other sign is markup."""
    lines[:] = ["".join(map(_escaped, re.split(r"(`[^`]+`)", line))) for line in lines]


def _escaped(part):
    return f"`{part}`" if part.startswith("`") else re.sub(r"([*|_\\])", r"\\\1", part)


def _inside(app, name, source):
    """What is not part of the site, as a folder of results, is named by its place in the repository."""
    source[0] = re.sub(r"(?<!!)\[([^\]]*)\]\(\.\./([^)#]*)[^)]*\)", _place, source[0])


def _place(link):
    label, path = link.groups()
    return f"`{path}`" if label == path else f"{label} (`{path}`)"


def _formula(writer, node):
    """As MathML, which every browser draws by itself: the site needs nothing from elsewhere."""
    writer.body.append(tex2mathml(node.astext(), as_block=isinstance(node, nodes.math_block)))
    raise nodes.SkipNode


def setup(app):
    app.add_html_math_renderer("mathml", (_formula, None), (_formula, None))
    app.connect("autodoc-process-docstring", _plain)
    app.connect("source-read", _inside)
