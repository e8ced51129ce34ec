"""Show a run in a notebook: the tree of its calls and its result, as text and HTML.

Rule 1: what is shown is the run's trace, which is redacted; it is escaped and cut. The HTML has no script or link.
Rule 2: what is shown follows the run until its end, a few times a second.
"""

from __future__ import annotations

import html
import time
from collections.abc import Callable, Mapping
from importlib import import_module
from typing import Any, ClassVar, Final

import attrs

from oxygent_client._core.text import escape_text
from oxygent_client._core.trace import Trace
from oxygent_client._protocol.messages import as_text
from oxygent_client.telemetry._observers import Notification

MAX_CALLS: Final = 500
"""The number of calls that are shown."""
MAX_TEXT: Final = 4000
"""The number of characters of a result."""
MAX_LINE: Final = 200
REFRESH_SECONDS: Final = 0.2


def mime_bundle(trace: Trace) -> dict[str, str]:
    """Return a run as text and as HTML, by MIME type."""
    status = "not started" if trace.status == "running" and trace.began is None else trace.status
    title = escape_text(f"Run {trace.trace_id}: {status}", MAX_LINE)
    tree = "\n".join(trace.to_tree().split("\n")[:MAX_CALLS])
    result = escape_text(trace.error or _shown(trace.output), MAX_TEXT, lines=True)
    return {
        "text/plain": "\n".join(filter(None, (title, tree, result))),
        "text/html": f"<div><b>{html.escape(title)}</b>{_pre(tree)}{_pre(result)}</div>",
    }


def _shown(output: Any) -> str:
    return "" if output is None else as_text(output)


def _pre(text: str) -> str:
    return f'<pre style="white-space:pre-wrap">{html.escape(text)}</pre>' if text else ""


@attrs.define(eq=False)
class LiveDisplay:
    """One output of a notebook that follows a run. It is an observer of the run."""

    wants_events: ClassVar[bool] = True

    _bundle: Callable[[], Callable[[], Mapping[str, str]] | None]
    """A weak reference to the method that returns the display: the run refers to its observers."""
    _update: Callable[..., object] = attrs.field(init=False)
    _shown_at: float = attrs.field(factory=time.monotonic, init=False)

    def __attrs_post_init__(self) -> None:
        bundle = self._bundle()
        display: Any = import_module("IPython.display").display
        self._update = display(bundle and bundle(), raw=True, display_id=True).update

    def note(self, notification: Notification, /) -> None:
        """As `Observer.note`."""
        is_due = "event" in notification.fields and time.monotonic() >= self._shown_at + REFRESH_SECONDS
        bundle = self._bundle()
        if bundle is not None and (is_due or notification.event == "ended"):
            self._shown_at = time.monotonic()
            self._update(bundle(), raw=True)
