"""Public names of the error classes; `_core/errors` defines them."""

from oxygent_client._core.errors import *  # noqa: F403  (one list, in one place: the tree's own `__all__`)
from oxygent_client._core.errors import __all__ as __all__
