"""Redaction rules: which JSON members, headers and texts are secret.

Rule 1: pure, and by rule: a value goes if its key looks secret, and of a text what looks like a credential. What cannot
    be read for certain is treated as if it held a secret.
Rule 2: what holds no secret is not touched: it stays the very same object.
Rule 3: what is scrubbed leaves its place: the key, the name are still there.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from typing import Any, Final, TypeAlias, cast

from oxygent_client._core.secret_names import is_count_name, is_secret_name

__all__ = ["KEPT_HEADERS", "SCRUBBED", "Redactor", "is_secret", "scrub_json", "scrub_text"]

Redactor: TypeAlias = Callable[[str], str]
"""Gives a text without the secrets in it."""

SCRUBBED: Final = "[scrubbed]"

KEPT_HEADERS: Final = frozenset(
    """
    accept accept-encoding accept-ranges age allow cache-control connection content-encoding content-language
    content-type date expires retry-after server transfer-encoding user-agent vary x-accel-buffering
    """.split()
)
"""Headers, of requests and responses, whose values are no secret. Any other may be one, whatever its name."""

INBOUND: Final = "_headers"
"""Where the framework puts a request's headers in `shared_data`: all of them count as secret."""

CREDENTIALS: Final[tuple[tuple[re.Pattern[str], Callable[[re.Match[str]], str]], ...]] = (
    (re.compile(r"(?<=://)[^\s/?#@\"'<>]++(?=@)"), lambda _: SCRUBBED),
    (
        re.compile(r"(?i)\b(bearer )(?:(?=[\w.~+/=-]*\d)[\w.~+/=-]{8,}+|[\w.~+/=-]{20,}+)"),
        lambda match: match[1] + SCRUBBED,
    ),
    (re.compile(r"(?<![\w.-])(?=[\w.-]*eyJ)[\w.-]++"), lambda match: _without_web_tokens(match[0])),
    (
        re.compile(r"(?<![\w.-])([\w.-]++)=([^\s&;,\"'<>\\]++)"),  # in a query, a form, a cookie
        lambda match: f"{match[1]}={SCRUBBED}" if is_secret(match[1], match[2]) else match[0],
    ),
)
"""What in a text looks like a credential. Each pattern is linear: none begins within what it has read in vain."""
WEB_TOKEN: Final = re.compile(r"(?<!\w)eyJ[\w-]{5}")
"""The beginning of a JSON web token: of three parts, the first one."""
END_OF_KEY: Final = re.compile(r"""["']\s*+:\s*+""")
PLAIN_VALUE: Final = re.compile(r"""(?:null|true|false|""|''|(-?\d++(?:\.\d++)?+))\s*+(?:[,}\]]|\Z)""")
"""A value that is no secret, or (the group) a number."""

DEEPEST: Final = 128
"""How deep JSON is looked into (levels); what is deeper is too deep for a run as well, and goes as a whole."""


def is_secret(key: str, value: Any) -> bool:
    """Whether `key` says that `value` is a secret."""
    if value is None or value is True or value is False or value == "":
        return False
    if not is_secret_name(key):
        return key == INBOUND
    is_number = isinstance(value, int | float) or (isinstance(value, str) and value.isdigit())
    return not (is_number and is_count_name(key))


def scrub_json(value: Any) -> Any:
    """`value` without the secrets in it; the very same object if it holds none."""
    try:
        return _clean(value, DEEPEST)
    except RecursionError:
        return SCRUBBED


def scrub_text(text: str) -> str:
    """`text` without the credentials in it; JSON in a text is JSON; the very same object if it holds none."""
    try:
        return _clean_text(text, DEEPEST)
    except RecursionError:
        return json.dumps(SCRUBBED)


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
    clean_text = text
    if text.lstrip()[:1] in {"{", "["}:
        read = _read(text)
        if read is not None:
            document, is_exact = read
            clean = _clean(document, depth - 1)
            # JSON in ASCII: half a surrogate pair could not be written otherwise.
            return text if clean is document and is_exact else json.dumps(clean)
        clean_text = _broken(text)
    for pattern, instead in CREDENTIALS:
        clean_text = pattern.sub(instead, clean_text)
    return text if clean_text == text else clean_text


def _read(text: str) -> tuple[Any, bool] | None:
    """The document in `text`, and whether it holds all that stands there; None if it is none."""
    is_exact = True

    def members(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        nonlocal is_exact
        fields = dict(pairs)
        is_exact = is_exact and len(fields) == len(pairs)  # of members with the same name only the last is read
        return fields

    try:
        return json.loads(text, object_pairs_hook=members), is_exact
    except ValueError:
        return None


def _broken(text: str) -> str:
    """What looked like JSON and is none, perhaps because it was cut off: up to the first secret.

    Keys are looked for by their ends, each in what stands after the one before: so no part of the text is read twice.
    """
    start = 0
    for match in END_OF_KEY.finditer(text):
        key = _key(text[start : match.start()], match[0][0])
        start = match.end()
        value = PLAIN_VALUE.match(text, start)
        shown: object = "x" if value is None else 1 if value[1] else None
        if is_secret(key, shown):
            return f'{text[:start]}"{SCRUBBED}"'
    return text


def _key(before: str, quote_: str) -> str:
    """The key that ends where `before` does; all of `before` where its beginning is not to be seen.

    Its quotes may be escaped, as in JSON within JSON: then both are so in the same way.
    """
    key = before.rstrip("\\")
    escape = before[len(key) :]
    head, opening, name = key.rpartition(escape + quote_)
    return name if opening and not head.endswith("\\") else key


def _without_web_tokens(word: str) -> str:
    """A word without the JSON web tokens in it."""
    parts, clean = word.split("."), list[str]()
    at = 0
    while at < len(parts):
        begins = WEB_TOKEN.search(parts[at]) if at + 2 < len(parts) and parts[at + 1] else None
        clean.append(parts[at] if begins is None else parts[at][: begins.start()] + SCRUBBED)
        at += 1 if begins is None else 3
    return ".".join(clean)
