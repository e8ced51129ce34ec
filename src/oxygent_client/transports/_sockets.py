"""Shut down sockets below the HTTP libraries.

Rule: event loops hand out views of their sockets (`asyncio.trsock.TransportSocket`, `uvloop.PseudoSocket`, trio's) with
    different methods. All have `fileno`, which is -1 once the socket is closed; the rest is done on a duplicate.
"""

from __future__ import annotations

import socket
from typing import Any


def shut_down(view: Any) -> None:
    """Shut down a connection in both directions: the remote sees its end at once, and here it reads as closed.

    The socket stays open; its library closes it. A socket that is closed or was never connected is ignored.
    """
    try:
        with socket.fromfd(view.fileno(), view.family, view.type) as same:
            same.shutdown(socket.SHUT_RDWR)
    except OSError:
        pass
