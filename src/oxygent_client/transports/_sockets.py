"""Look at sockets below the HTTP libraries, and shut them down.

Rule: event loops hand out views of their sockets (`asyncio.trsock.TransportSocket`, `uvloop.PseudoSocket`, trio's) with
    different methods. All have `fileno`, which is -1 once the socket is closed; the rest is done on a duplicate.
"""

from __future__ import annotations

import select
import socket
from collections.abc import Callable
from typing import Any, Final

_POLL: Final[Callable[[], Any] | None] = getattr(select, "poll", None)
"""Windows has none."""


def is_readable(view: Any, poll: Callable[[], Any] | None = _POLL) -> bool:
    """Return whether a read of this open connection would not wait.

    It is asked before an idle connection is used again: the remote may have closed it since the event loop looked.
    """
    if poll is None:
        return bool(select.select([view], [], [], 0)[0])
    poller = poll()
    poller.register(view, select.POLLIN)
    return bool(poller.poll(0))


def shut_down(view: Any) -> None:
    """Shut down a connection in both directions: the remote sees its end at once, and here it reads as closed.

    The socket stays open; its library closes it. A socket that is closed or was never connected is ignored.
    """
    try:
        with socket.fromfd(view.fileno(), view.family, view.type) as same:
            same.shutdown(socket.SHUT_RDWR)
    except OSError:
        pass
