"""Remove the credentials that a request carried from everything the server returns.

Rule 1: all remote text that is shown or logged goes through the `SentSecrets` of its `Context`.
Rule 2: each `HTTPRequest` notes its credentials when it is created, so those that a policy, a cluster or a redirect
    adds are known; a transport notes those of its proxy, and those that the user's own HTTP client adds.
Rule 3: a secret is found in every usual spelling (`oxygent_client._core.spellings`).
"""

from __future__ import annotations

import base64
import re
from collections.abc import Collection, Iterator, Mapping
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Final, cast
from urllib.parse import unquote, urlsplit

import attrs

from oxygent_client._core.errors import OxyError, StatusError
from oxygent_client._core.redaction import KEPT_HEADERS, SCRUBBED, for_display, is_secret, scrub_json, scrub_text

if TYPE_CHECKING:
    from oxygent_client._core.spellings import Needles

PUBLIC_HEADERS: Final = KEPT_HEADERS | frozenset(
    "baggage content-length host traceparent tracestate x-correlation-id x-request-id x-trace-id".split()
)
"""Headers whose values may appear in an error, for example to find the request in a server's log."""
SHORTEST_IN_OUR_TEXT: Final = 8
"""A shorter secret, in characters, stays in our own texts: it may be an ordinary word there."""


@attrs.define(eq=False, repr=False)
class SentSecrets:
    """The secrets that one run or exchange has sent. Costs little until a text is shown."""

    _noted: frozenset[tuple[str, str]] = attrs.field(default=frozenset[tuple[str, str]](), init=False)
    """Name and value of headers that may hold a secret; a URL has an empty name."""
    _needles: Needles | None = attrs.field(default=None, init=False)
    """For remote texts."""
    _own_needles: Needles | None = attrs.field(default=None, init=False)
    """For our own texts: without short secrets."""

    def note(self, url: str = "", headers: Mapping[str, str] = {}, marked: Collection[str] = ()) -> None:
        """Note the secrets of a request to `url` with these headers.

        `marked` are the lower-case names of headers that hold a credential, whatever their name.
        """
        found: list[tuple[str, str]] = []
        if "@" in url or "?" in url:  # no other part of a URL is secret
            found.append(("", url))
        if marked or not PUBLIC_HEADERS.issuperset(headers):
            for name, value in headers.items():
                key = name.lower()
                if key not in PUBLIC_HEADERS or key in marked:
                    found.append((key, value))
        if not self._noted.issuperset(found):
            self._noted = self._noted.union(found)
            self._needles = self._own_needles = None

    def clean(self, text: str) -> str:
        """Redact a remote text: the secrets that were sent, and whatever looks like a credential."""
        return scrub_text(self._remote_needles().replace_in(text, SCRUBBED))

    def clean_json(self, value: Any) -> Any:
        """Redact a JSON value of a remote, as `clean` a text: its texts and keys, and values with names of secrets."""
        wanted = self._remote_needles()
        return scrub_json(_replaced(value, wanted) if wanted else value)

    def _remote_needles(self) -> Needles:
        if self._needles is None:
            from oxygent_client._core.spellings import needles

            self._needles = needles(self.values())
        return self._needles

    def shown(self, text: object, limit: int, *, lines: bool = False) -> str:
        """Redact and escape a remote text for display, cut to `limit` characters."""
        return for_display(str(text), limit, self.clean, lines=lines)

    def strip_text(self, text: str) -> str:
        """Redact the secrets that were sent in a text of our own, which may quote the remote."""
        if self._own_needles is None:
            from oxygent_client._core.spellings import needles

            self._own_needles = needles(
                (value for value in self.values() if len(value) >= SHORTEST_IN_OUR_TEXT), short=False
            )
        return self._own_needles.replace_in(text, SCRUBBED)

    def strip_error(self, error: OxyError) -> None:
        """Redact the secrets that were sent in an error's texts; `partial`, `output` and `events` stay as received."""
        error.args = tuple(self.strip_text(each) if isinstance(each, str) else each for each in error.args)
        if isinstance(error, StatusError):
            error.body = self.strip_text(error.body)

    def __reduce__(self) -> tuple[Any, ...]:
        return SentSecrets, ()  # secrets do not leave the process

    def values(self) -> set[str]:
        """All secrets as sent, and their parts; not in other spellings."""
        found = set[str]()
        for name, value in self._noted:
            found.update(_of_header(name, value) if name else _of_url(value))
        return found - {""}


def _replaced(value: Any, wanted: Needles) -> Any:
    """A JSON value without the secrets; it is nested no deeper than `Limits.depth`."""
    if isinstance(value, str):
        return wanted.replace_in(value, SCRUBBED)
    if isinstance(value, dict):
        fields = cast("dict[str, Any]", value)
        return {wanted.replace_in(key, SCRUBBED): _replaced(item, wanted) for key, item in fields.items()}
    return [_replaced(item, wanted) for item in cast("list[Any]", value)] if isinstance(value, list) else value


def _of_url(url: str) -> Iterator[str]:
    parts = urlsplit(url)
    userinfo = parts.netloc.rpartition("@")[0]
    plain = unquote(userinfo)
    yield from (userinfo, plain, *userinfo.split(":", 1), *plain.split(":", 1))
    yield base64.b64encode(plain.encode("utf-8", "replace")).decode()  # as in the header that HTTP libraries add
    for field in parts.query.split("&"):
        # Some frameworks separate fields by `;`. A field without `=` counts as a whole.
        for part in {field, *field.split(";")}:
            name, equals, value = part.partition("=")
            yield value if equals else name


def _of_header(name: str, value: str) -> Iterator[str]:
    yield value
    scheme, _, given = value.partition(" ")
    yield given
    if scheme.lower() == "basic":
        with suppress(ValueError):  # `binascii.Error` is one
            plain = base64.b64decode(given).decode("utf-8", "replace")
            yield from (plain, *plain.split(":", 1))
    if "cookie" in name:
        yield from (part.partition("=")[2].strip(' "') for part in value.split(";"))
    elif is_secret(name, value):
        # `Digest username="ada", response="..."`
        yield from (part.partition("=")[2].strip('"') for part in re.split(r"[\s,;]+", given))
