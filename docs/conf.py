"""Configure the Sphinx build (`python -m nox -s docs`): Markdown pages, and a reference from the docstrings."""

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
# In docstrings, single backquotes mean code.
default_role = "code"


def setup(app: Any) -> None:
    """Register the functions below; Sphinx calls this."""
    # Pygments has no lexer for HAProxy; the tests find the settings by this name.
    app.add_lexer("haproxy", import_module("pygments.lexers.special").TextLexer)
    app.connect("autodoc-process-docstring", remove_rules)
    app.connect("autodoc-process-docstring", keep_colons, priority=499)  # napoleon's is 500
    app.connect("doctree-read", unlink_builtins)


def remove_rules(app: Any, what: str, name: str, module: Any, options: Any, lines: list[str]) -> None:
    """Remove the rules of a module from the reference: they are for readers of the source."""
    if what == "module":
        rules = [number for number, line in enumerate(lines) if line.startswith("Rule 1")]
        del lines[rules[0] if rules else len(lines) :]


def keep_colons(app: Any, what: str, name: str, attribute: Any, options: Any, lines: list[str]) -> None:
    """Keep colons in docstrings of attributes: in the first line napoleon would read the part before it as a type."""
    if what in {"attribute", "property"}:
        lines[:0] = ["..", ""]  # an empty comment


def unlink_builtins(app: Any, page: Any) -> None:
    """Remove links from builtins in signatures: Sphinx would link `bytes` to attributes of that name."""
    for node in [*page.findall()]:
        if node.tagname == "pending_xref" and node["reftarget"] in vars(builtins):
            node.replace_self(node.children)
