"""Remove the credentials that a request carried from everything the server returns.

Rule 1: everything of the remote's that is shown goes through the `SentSecrets` of its `Context`.
Rule 2: it is complete by construction: each `HTTPRequest` notes what it carries when it is made, so what a policy, a
    cluster or a redirect adds is known; a transport notes its proxy, and what a client of the user's own adds.
Rule 3: a value is looked for in every usual spelling (`oxygent_client._core.spellings`).
"""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Collection, Iterator, Mapping
from typing import Any, Final
from urllib.parse import unquote, urlsplit

import attrs

from oxygent_client._core.errors import OxyError, StatusError
from oxygent_client._core.redaction import KEPT_HEADERS, SCRUBBED, is_secret, scrub_text
from oxygent_client._core.spellings import Needles, needles, replaced
from oxygent_client._core.text import escape_text

__all__ = ["SentSecrets"]

TOLD: Final = KEPT_HEADERS | frozenset(
    "baggage content-length host traceparent tracestate x-correlation-id x-request-id x-trace-id".split()
)
"""Headers whose values may stand in an error: by some of them a person finds the request in a server's log."""
OUR_WORDS: Final = 8
"""Characters below which a secret stays in a text of our own, which may have the word by itself."""
LOOKED_AT: Final = 4096
"""Characters of a text that are looked at, more than are shown, so that a secret in it is there as a whole."""


@attrs.define(eq=False, repr=False)
class SentSecrets:
    """The secrets of one run or exchange. Cheap until something is to be shown."""

    _noted: dict[tuple[str, str, bool], None] = attrs.field(factory=dict[tuple[str, str, bool], None], init=False)
    """URLs, without a name, and headers; the last says whether a header is one whatever it is called."""
    _needles: Needles | None = attrs.field(default=None, init=False)
    _ours: Needles | None = attrs.field(default=None, init=False)

    def note(self, url: str = "", headers: Mapping[str, str] = {}, marked: Collection[str] = ()) -> None:
        """From now on, what a request to `url` with these headers carries is known.

        `marked` are the names, in lower case, of headers that are credentials whatever they are called.
        """
        known = len(self._noted)
        self._noted["", url, False] = None
        for name, value in headers.items():
            self._noted[name.lower(), value, name.lower() in marked] = None
        if len(self._noted) > known:
            self._needles = self._ours = None

    def clean(self, text: str) -> str:
        """A text of the remote's without what was sent, and what looks like a credential by itself."""
        if self._needles is None:
            self._needles = needles(self.values())
        return scrub_text(replaced(text, self._needles, SCRUBBED))

    def shown(self, text: object, limit: int, *, lines: bool = False) -> str:
        """At most `limit` characters of a remote's text as it may be shown: clean, and safe for a terminal."""
        return escape_text(self.clean(str(text)[: max(limit, LOOKED_AT)]), limit, lines=lines)

    def strip_text(self, text: str) -> str:
        """A text of our own, which may quote the remote, without what was sent; short values may be our words."""
        if self._ours is None:
            self._ours = needles((value for value in self.values() if len(value) >= OUR_WORDS), short=False)
        return replaced(text, self._ours, SCRUBBED)

    def strip_error(self, error: OxyError) -> None:
        """Take what was sent out of an error's texts; `partial`, `output` and `events` stay as received."""
        error.args = tuple(self.strip_text(each) if isinstance(each, str) else each for each in error.args)
        if isinstance(error, StatusError):
            error.body = self.strip_text(error.body)

    def __reduce__(self) -> tuple[Any, ...]:
        return SentSecrets, ()  # what was sent here is no affair of a copy elsewhere

    def values(self) -> set[str]:
        """All of them, as they were sent and by their parts; not in other spellings."""
        found = set[str]()
        for name, value, is_marked in [*self._noted]:
            found.update(_of_header(name, value, is_marked=is_marked) if name else _of_url(value))
        return found - {""}


def _of_url(url: str) -> Iterator[str]:
    parts = urlsplit(url)
    userinfo = parts.netloc.rpartition("@")[0]
    plain = unquote(userinfo)
    yield from (userinfo, plain, *userinfo.split(":", 1), *plain.split(":", 1))
    yield base64.b64encode(plain.encode("utf-8", "replace")).decode()  # as the header that HTTP libraries make of it
    for field in parts.query.split("&"):
        # Some frameworks part fields by `;`, and a field without `=` is all there is of it.
        for part in {field, *field.split(";")}:
            name, equals, value = part.partition("=")
            yield value if equals else name


def _of_header(name: str, value: str, *, is_marked: bool) -> Iterator[str]:
    if name in TOLD and not is_marked:
        return
    yield value
    scheme, _, given = value.partition(" ")
    yield given
    if scheme.lower() == "basic":
        plain = _decoded(given)
        yield from (plain, *plain.split(":", 1))
    if "cookie" in name:
        yield from (part.partition("=")[2].strip(' "') for part in value.split(";"))
    elif is_secret(name, value):
        # `Digest username="ada", response="..."`
        yield from (part.partition("=")[2].strip('"') for part in re.split(r"[\s,;]+", given))


def _decoded(given: str) -> str:
    try:
        return base64.b64decode(given).decode("utf-8", "replace")
    except (binascii.Error, ValueError):
        return ""
