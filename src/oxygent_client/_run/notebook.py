"""Show a run in a notebook: the tree of its calls and its result, as text and HTML.

Rule 1: remote text is redacted, escaped and cut before it is shown. The HTML has no script, style sheet or link.
Rule 2: what is shown follows the run until its end, a few times a second.
"""

from __future__ import annotations

import html
import time
from collections.abc import Callable, Mapping
from importlib import import_module
from typing import Any, ClassVar, Final

import attrs

from oxygent_client._core.sent_secrets import SentSecrets
from oxygent_client._run.call_tree import CallTree
from oxygent_client.telemetry._observers import Notification

MAX_TEXT: Final = 4000
"""The number of characters of a result."""
REFRESH_SECONDS: Final = 0.2
_COLORS: Final = {"…": "#b58900", "✓": "#2aa198", "✗": "#dc322f"}


def mime_bundle(title: str, tree: CallTree, result: str, sent: SentSecrets, *, is_over: bool) -> dict[str, str]:
    """Return a run as text and as HTML, by MIME type."""
    lines = [*tree.lines(is_over=is_over, shown=lambda name: sent.shown(name, MAX_TEXT) or "?")]
    title = sent.shown(title, MAX_TEXT)
    result = sent.shown(result, MAX_TEXT, lines=True)
    more = [f"({tree.hidden} more calls)"] if tree.hidden else []
    plain = [title, *(f"{indent}{mark} {name}" for indent, mark, name in lines), *more, *([result] if result else [])]
    rich = [
        f"<b>{html.escape(title)}</b>",
        *(
            f'{indent}<span style="color:{_COLORS[mark]}">{mark}</span> {html.escape(name)}'
            for indent, mark, name in lines
        ),
        *more,
    ]
    body = "\n".join(rich)
    tail = f'<pre style="white-space:pre-wrap">{html.escape(result)}</pre>' if result else ""
    return {"text/plain": "\n".join(plain), "text/html": f"<div><pre>{body}</pre>{tail}</div>"}


@attrs.define(eq=False)
class LiveDisplay:
    """One output of a notebook that follows a run. It is an observer of the run."""

    wants_events: ClassVar[bool] = True

    _bundle: Callable[[], Callable[[], Mapping[str, str]] | None]
    """A weak reference to the method that returns what is shown: the run refers to its observers."""
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
