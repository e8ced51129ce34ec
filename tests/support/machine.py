"""The environment variables of this process, before `tests/conftest.py` removes some."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Mapping

AS_FOUND: Final[Mapping[str, str]] = dict(os.environ)
"""For downloads: the machine's network may need its proxies and certificates."""
NETWORK: Final = tuple(
    name for name in AS_FOUND if name.lower().endswith(("_proxy", "ssl_cert_file", "ssl_cert_dir", "sslkeylogfile"))
)
"""The variables for proxies and certificates. No test uses a network."""
