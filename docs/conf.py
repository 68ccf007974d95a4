"""The documentation as a site: `make docs`."""

import gradmod

project = "gradmod"
author = "the gradmod authors"
version = release = gradmod.__version__
extensions = [
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx.ext.doctest",
    "sphinx.ext.mathjax",
    "sphinx.ext.napoleon",
    "sphinx.ext.viewcode",
]
html_theme = "furo"
html_title = "gradmod"
exclude_patterns = ["images"]
myst_enable_extensions = ["dollarmath", "deflist"]
myst_heading_anchors = 3
autodoc_member_order = "bysource"
autodoc_typehints = "description"
autodoc_typehints_format = "short"
napoleon_google_docstring = True
napoleon_numpy_docstring = False
# Files of the repository that pages point to are copied beside the site; nothing is looked up in the network.
suppress_warnings = ["myst.xref_missing"]


def equations_as_they_are(app, what, name, obj, options, lines):
    """Indented lines of a docstring's text are equations and code: shown as they are written."""
    text = lines[:]
    lines.clear()
    in_text = True
    for number, line in enumerate(text):
        in_text = in_text and line.strip() not in ("Args:", "Returns:", "Raises:", "Attributes:")
        begins = line.startswith("    ") and number > 0 and not text[number - 1].strip()
        earlier = next((other for other in reversed(text[:number]) if other.strip()), "")
        if in_text and begins and not earlier.startswith(" "):
            lines.extend(["::", ""])
        lines.append(line)
        ends = line.startswith("    ") and number + 1 < len(text) and text[number + 1].strip()
        if in_text and ends and not text[number + 1].startswith(" "):
            lines.append("")


def setup(app):
    """Read docstrings before napoleon does."""
    app.connect("autodoc-process-docstring", equations_as_they_are, priority=100)
