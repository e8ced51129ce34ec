"""The environment variables as this process was given them, before `tests/conftest.py` leaves some out."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Mapping

AS_FOUND: Final[Mapping[str, str]] = dict(os.environ)
"""For what is downloaded: the network of this machine may need its proxies and certificates."""
NETWORK: Final = tuple(
    name for name in AS_FOUND if name.lower().endswith(("_proxy", "ssl_cert_file", "ssl_cert_dir", "sslkeylogfile"))
)
"""Those that say how to reach others. No test reaches others."""
