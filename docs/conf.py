"""How the documentation is built (`python -m nox -s docs`): Markdown pages, and a reference from the docstrings."""

import builtins
from importlib import import_module
from typing import Any

from oxygent_client import __version__

project = "oxygent-client"
author = "The oxygent-client authors"
project_copyright = author
version = release = __version__

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
html_theme = "furo"
html_title = f"oxygent-client {__version__}"
exclude_patterns = ["_build", "examples"]
nitpicky = False

myst_enable_extensions = ["colon_fence"]
myst_heading_anchors = 3

autodoc_member_order = "bysource"
autodoc_typehints = "signature"
autodoc_default_options = {"members": True, "show-inheritance": True}
napoleon_numpy_docstring = False
# Docstrings are written for a reader of the source: single backquotes there mean code.
default_role = "code"


def setup(app: Any) -> None:
    """Called by Sphinx."""
    # Pygments has no lexer for HAProxy; the tests find the settings by this word.
    app.add_lexer("haproxy", import_module("pygments.lexers.special").TextLexer)
    app.connect("autodoc-process-docstring", leave_rules)
    app.connect("autodoc-process-docstring", leave_colons, priority=499)  # napoleon's is 500
    app.connect("doctree-read", leave_builtins)


def leave_rules(app: Any, what: str, name: str, module: Any, options: Any, lines: list[str]) -> None:
    """Keep the rules of a module out of the reference: they are for who reads the source."""
    if what == "module":
        rules = [number for number, line in enumerate(lines) if line.startswith("Rule 1")]
        del lines[rules[0] if rules else len(lines) :]


def leave_colons(app: Any, what: str, name: str, attribute: Any, options: Any, lines: list[str]) -> None:
    """Let a colon in an attribute's docstring be one: in the first line napoleon takes what is before it for a type."""
    if what in {"attribute", "property"}:
        lines[:0] = ["..", ""]  # a comment that holds nothing


def leave_builtins(app: Any, page: Any) -> None:
    """Make no link of `bytes` in a signature: Sphinx would link it to attributes of that name."""
    for node in [*page.findall()]:
        if node.tagname == "pending_xref" and node["reftarget"] in vars(builtins):
            node.replace_self(node.children)
