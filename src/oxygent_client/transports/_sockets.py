"""Shut down sockets below the HTTP libraries.

Rule: an event loop hands out a socket that is a mere view of its own (`asyncio.trsock.TransportSocket`,
    `uvloop.PseudoSocket`, trio's) and differs in what it can. All have `fileno`, which is -1 once it is closed; what
    else is needed is done on a duplicate.
"""

from __future__ import annotations

import socket
from typing import Any

__all__ = ["shut_down"]


def shut_down(view: Any) -> None:
    """End the connection at once, in both directions: the remote sees that, and here it reads as closed.

    The socket stays open, and is its library's to close. Does nothing if it is closed or was never connected.
    """
    try:
        with socket.fromfd(view.fileno(), view.family, view.type) as same:
            same.shutdown(socket.SHUT_RDWR)
    except OSError:
        pass
