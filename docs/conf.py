"""How the documentation is built (`python -m nox -s docs`): Markdown pages, and a reference from the docstrings."""

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
autodoc_preserve_defaults = True
napoleon_numpy_docstring = False
# Docstrings are written for a reader of the source: single backquotes there mean code.
default_role = "code"
