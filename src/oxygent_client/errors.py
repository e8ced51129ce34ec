"""The public names of the error tree; `oxygent_client._errors` draws it."""

from oxygent_client._errors import *  # noqa: F403  (one list, in one place: the tree's own `__all__`)
from oxygent_client._errors import __all__ as __all__
