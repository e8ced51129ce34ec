"""Redaction rules: which JSON members, headers and texts are secret.

Rule 1: pure. A value is redacted if its key is the name of a secret, and in a text whatever looks like a credential. If
    in doubt, redact.
Rule 2: a value without secrets is returned unchanged, as the same object.
Rule 3: redaction replaces the value; its key or name stays.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from typing import Any, Final, TypeAlias, cast

from oxygent_client._core.patterns import compiled
from oxygent_client._core.secret_names import is_count_name, is_secret_name
from oxygent_client._core.text import escape_text

Redactor: TypeAlias = Callable[[str], str]
"""Removes the secrets from a text."""

SCRUBBED: Final = "[scrubbed]"
SEARCHED: Final = 4096
"""Characters of a text that are searched, more than are shown, so that a secret at the cut is found as a whole."""

KEPT_HEADERS: Final = frozenset(
    """
    accept accept-encoding accept-ranges age allow cache-control connection content-encoding content-language
    content-type date expires retry-after server transfer-encoding user-agent vary x-accel-buffering
    """.split()
)
"""Headers of requests and responses whose values are not secret. Any other header may be, whatever its name."""

INBOUND: Final = "_headers"
"""Key in `shared_data` under which the framework stores the headers of a request: all of them count as secret."""

CREDENTIALS: Final[tuple[tuple[str, Callable[[re.Match[str]], str]], ...]] = (
    (r"(?<=://)[^\s/?#@\"'<>]++(?=@)", lambda _: SCRUBBED),
    (
        r"(?i)\b(bearer )(?:(?=[\w.~+/=-]*\d)[\w.~+/=-]{8,}+|[\w.~+/=-]{20,}+)",
        lambda match: match[1] + SCRUBBED,
    ),
    (r"(?<![\w.-])(?=[\w.-]*eyJ)[\w.-]++", lambda match: _without_web_tokens(match[0])),
    (
        r"(?<![\w.-])([\w.-]++)=([^\s&;,\"'<>\\]++)",  # in a query, form or cookie
        lambda match: f"{match[1]}={SCRUBBED}" if is_secret(match[1], match[2]) else match[0],
    ),
)
"""Patterns of credentials in a text. Each is linear: it never starts again within text that it read without a match."""
WEB_TOKEN: Final = r"(?<!\w)eyJ[\w-]{5}"  # noqa: S105  (a pattern)
"""The beginning of the first of the three parts of a JSON web token."""
END_OF_KEY: Final = r"""["']\s*+:\s*+"""
PLAIN_VALUE: Final = r"""(?:null|true|false|""|''|(-?\d++(?:\.\d++)?+))\s*+(?:[,}\]]|\Z)"""
"""A value that is not a secret, or (the group) a number."""

DEEPEST: Final = 128
"""How deep JSON is searched, in levels. Deeper JSON is too deep for a run as well, and is redacted as a whole."""


def is_secret(key: str, value: Any) -> bool:
    """Whether `value` is a secret, by the name of its `key`."""
    if value is None or value is True or value is False or value == "":
        return False
    if not is_secret_name(key):
        return key == INBOUND
    is_number = isinstance(value, int | float) or (isinstance(value, str) and value.isdigit())
    return not (is_number and is_count_name(key))


def scrub_json(value: Any) -> Any:
    """Redact the secrets in a JSON value; returns the same object if there is nothing to redact."""
    try:
        return _clean(value, DEEPEST)
    except RecursionError:
        return SCRUBBED


def scrub_text(text: str) -> str:
    """Redact the credentials in a text, also in JSON inside it; the same object if there is nothing to redact."""
    try:
        return _clean_text(text, DEEPEST)
    except RecursionError:
        return json.dumps(SCRUBBED)


def for_display(text: str, limit: int, clean: Redactor = scrub_text, *, lines: bool = False) -> str:
    """Redact a remote text by `clean` and escape it, cut to `limit` characters, in one line unless `lines`."""
    return escape_text(clean(text[: max(limit, SEARCHED)]), limit, lines=lines)


NO_KEYS: Final = frozenset[str]()
"""For `map_json`: redact by no key."""


def map_json(text: Callable[[str], str], key: Callable[[str], str], redacted: frozenset[str], value: Any) -> Any:
    """Apply `text` to the texts of a JSON value and `key` to its keys; replace the values of the keys in `redacted`.

    A loop, since a value may be nested deeper than Python's recursion limit.
    """
    root: list[Any] = [value]
    waiting: list[Any] = [root]  # our copies of containers, whose members are still the originals
    while waiting:
        container = waiting.pop()
        if isinstance(container, dict):
            members: list[tuple[Any, Any]] = [*cast("dict[Any, Any]", container).items()]
        else:
            members = [*enumerate(cast("list[Any]", container))]
        for at, item in members:
            if isinstance(item, str):
                container[at] = text(item)
            elif isinstance(item, list):
                container[at] = [*cast("list[Any]", item)]
                waiting.append(container[at])
            elif isinstance(item, dict):
                container[at] = _map_keys(cast("dict[str, Any]", item), key, redacted)
                waiting.append(container[at])
    return root[0]


def _map_keys(fields: dict[str, Any], key: Callable[[str], str], redacted: frozenset[str]) -> dict[str, Any]:
    mapped: dict[str, Any] = {}
    for name, item in fields.items():
        new = key(name)
        if new == name or new not in fields:
            mapped[new] = SCRUBBED if name.casefold() in redacted else item
    return mapped


def _clean(value: Any, depth: int) -> Any:
    if not depth:
        raise RecursionError
    if isinstance(value, str):
        return _clean_text(value, depth)
    if isinstance(value, dict):
        fields = cast("dict[str, Any]", value)
        clean = {key: SCRUBBED if is_secret(key, item) else _clean(item, depth - 1) for key, item in fields.items()}
        return clean if any(clean[key] is not item for key, item in fields.items()) else fields
    if isinstance(value, list):
        items = cast("list[Any]", value)
        cleaned = [_clean(item, depth - 1) for item in items]
        return cleaned if any(new is not item for new, item in zip(cleaned, items, strict=True)) else items
    return value


def _clean_text(text: str, depth: int) -> str:
    redacted = text
    if text.lstrip()[:1] in {"{", "["}:
        read = _read(text)
        if read is not None:
            document, is_exact = read
            clean = _clean(document, depth - 1)
            # JSON in ASCII, since a lone surrogate cannot be encoded otherwise.
            return text if clean is document and is_exact else json.dumps(clean)
        redacted = _broken(text)
    for pattern, replacement in CREDENTIALS:
        redacted = compiled(pattern).sub(replacement, redacted)
    return text if redacted == text else redacted


def _read(text: str) -> tuple[Any, bool] | None:
    """The JSON document in `text`, and whether it has all members that the text has; None if it is not JSON."""
    is_exact = True

    def members(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        nonlocal is_exact
        fields = dict(pairs)
        is_exact = is_exact and len(fields) == len(pairs)  # of members with one name only the last is kept
        return fields

    try:
        return json.loads(text, object_pairs_hook=members), is_exact
    except ValueError:
        return None


def _broken(text: str) -> str:
    """Redact text that starts like JSON but is not valid, perhaps since it was cut off: keep it up to the first secret.

    Keys are found by their ends, each after the one before, so that no part of the text is read twice.
    """
    start = 0
    for match in compiled(END_OF_KEY).finditer(text):
        key = _key(text[start : match.start()], match[0][0])
        start = match.end()
        value = compiled(PLAIN_VALUE).match(text, start)
        shown: object = "x" if value is None else 1 if value[1] else None
        if is_secret(key, shown):
            return f'{text[:start]}"{SCRUBBED}"'
    return text


def _key(before: str, quote_: str) -> str:
    """The key at the end of `before`; all of `before` if its opening quote is missing.

    In JSON within JSON both of its quotes are escaped, in the same way.
    """
    key = before.rstrip("\\")
    escape = before[len(key) :]
    head, opening, name = key.rpartition(escape + quote_)
    return name if opening and not head.endswith("\\") else key


def _without_web_tokens(word: str) -> str:
    """Redact the JSON web tokens in a word."""
    parts, clean = word.split("."), list[str]()
    at = 0
    while at < len(parts):
        begins = compiled(WEB_TOKEN).search(parts[at]) if at + 2 < len(parts) and parts[at + 1] else None
        clean.append(parts[at] if begins is None else parts[at][: begins.start()] + SCRUBBED)
        at += 1 if begins is None else 3
    return ".".join(clean)
