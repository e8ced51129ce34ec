"""Ready-made functions for `sanitize=`: redact, bound or validate remote messages.

Rule 1: pure. Each takes any JSON value, however deep, and returns a new one; applying it twice changes nothing more.
Rule 2: each can be pickled, like an agent, except the result of `without_credentials`.
Rule 3: the shape of a value stays. Only the functions for control characters and credentials change keys.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from oxygent_client._core.errors import ConfigurationError
from oxygent_client._core.redaction import NO_KEYS, map_json, scrub_json
from oxygent_client._core.sent_secrets import SentSecrets
from oxygent_client._core.text import escape_character, replace_unsafe

__all__ = [
    "SentSecrets",
    "chain",
    "escape_control_characters",
    "redact",
    "strip_control_characters",
    "truncate",
    "without_credentials",
]


def strip_control_characters(value: Any) -> Any:
    """Remove characters that move a cursor, hide text or change its direction, from texts and keys.

    That includes invisible characters (Unicode's default-ignorable characters: zero-width spaces, tag characters,
    variation selectors, soft hyphens), unless an emoji or a script needs them: the joiners of a family, the selector of
    a heart, the non-joiner of Persian. Tabs and line feeds stay. If two keys of an object become equal, the one that
    was not changed stays.
    """
    return map_json(_strip, _strip, NO_KEYS, value)


def escape_control_characters(value: Any) -> Any:
    r"""Escape each of those characters by its number (`\x1b`, `\u200b`), so that a reader sees it.

    If two keys of an object become equal, the one that was not changed stays.
    """
    return map_json(_escape, _escape, NO_KEYS, value)


def redact(*keys: str) -> Callable[[Any], Any]:
    """Replace the values of these keys, in upper or lower case, by `[scrubbed]`.

    Without keys, it replaces everything that looks secret: values by the names of their keys (`password`, `api_key`,
    ...), and credentials within texts. A value nested deeper than 128 levels is then replaced as a whole.
    """
    return partial(map_json, _same, _same, frozenset(key.casefold() for key in keys)) if keys else scrub_json


def without_credentials(sent: SentSecrets) -> Callable[[Any], Any]:
    """Replace the secrets that a run or a discovery sent by `[scrubbed]`, in texts and keys.

    `sent` is `run.sent` or `agent.sent`. The secrets are found in every usual spelling; one of fewer than 8 characters
    stays, since it may be a part of any word. The result cannot be pickled: it holds the secrets.
    """
    return partial(map_json, sent.strip_text, sent.strip_text, NO_KEYS)


def truncate(chars: int) -> Callable[[Any], Any]:
    """Cut each text that is longer than `chars` characters, ellipsis included.

    Raises:
        ConfigurationError: `chars` is less than 1.
    """
    if chars < 1:
        raise ConfigurationError("truncate: chars must be >= 1")
    return partial(map_json, partial(_cut, chars), _same, NO_KEYS)


def chain(*functions: Callable[[Any], Any]) -> Callable[[Any], Any]:
    """Apply several functions, in their order."""
    return partial(_chain, functions)


def _strip(text: str) -> str:
    return replace_unsafe(text, lambda _: "")


def _escape(text: str) -> str:
    return replace_unsafe(text, escape_character)


def _same(text: str) -> str:
    return text


def _cut(chars: int, text: str) -> str:
    return text if len(text) <= chars else text[: chars - 1] + "…"


def _chain(functions: tuple[Callable[[Any], Any], ...], value: Any) -> Any:
    for function in functions:
        value = function(value)
    return value
