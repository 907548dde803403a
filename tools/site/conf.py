"""What Sphinx is told about the site; tools/site/build.py gathers its pages beside a copy of this file."""

import os

from docutils import nodes
from sphinx.application import Sphinx

project = "Pyncette"
author = "The Pyncette maintainers"
release = os.environ["PYNCETTE_RELEASE"]

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx_markdown_builder"]
myst_heading_anchors = 4
suppress_warnings = [
    "myst.header",  # the examples' page begins with what GitHub shows as a title
    "ref.python",  # a type that is documented under its public name and where it is defined is one type
]
autodoc_preserve_defaults = True
autodoc_member_order = "bysource"
autodoc_typehints = "signature"
autodoc_typehints_format = "short"
python_maximum_signature_line_length = 80
python_use_unqualified_type_names = True

markdown_anchor_sections = True
markdown_anchor_signatures = True

pygments_style = "friendly"
pygments_dark_style = "github-dark"
html_theme = "furo"
html_title = f"Pyncette {release}"
html_copy_source = False
html_show_copyright = False


def setup(app: Sphinx) -> None:
    app.connect("doctree-resolved", _spell_out)


def _spell_out(app: Sphinx, doctree: nodes.document, docname: str) -> None:
    """Turn the ``*`` and ``/`` among the parameters of a function into plain text: the Markdown builder skips abbreviations."""
    if app.builder.name == "markdown":
        for mark in list(doctree.findall(nodes.abbreviation)):
            mark.replace_self(nodes.Text(mark.astext()))
