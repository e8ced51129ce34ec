"""TLS contexts of the tests, with an authority of their own.

Rule: a client's context trusts that authority alone. To read those of the system takes 50 ms each time.
"""

from __future__ import annotations

import ssl
from typing import Final

import trustme

AUTHORITY: Final = trustme.CA()
"""An authority made for the tests of this process."""
LOOPBACK: Final = AUTHORITY.issue_cert("127.0.0.1")


def server_context(certificate: trustme.LeafCert = LOOPBACK) -> ssl.SSLContext:
    """Return a server's context with this certificate."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    certificate.configure_cert(context)  # pyright: ignore[reportUnknownMemberType]  (trustme types it by another package)
    return context


def client_context(authority: trustme.CA | None = AUTHORITY) -> ssl.SSLContext:
    """Return a client's context that verifies, and trusts this authority alone."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    if authority is not None:
        authority.configure_trust(context)  # pyright: ignore[reportUnknownMemberType]  (trustme types it by another package)
    return context


NO_AUTHORITY: Final = client_context(None)
"""For clients that speak no TLS."""
