"""Ready-made functions for `sanitize=`: redact, bound or validate remote messages.

Rule 1: pure. Each takes any JSON value, however deep, and gives a new one; applied twice it gives the same.
Rule 2: each pickles, as an agent does; `without_credentials` alone does not.
Rule 3: a key is changed only by the functions for control characters and credentials; the place of what goes stays, and
    so the shape.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

import attrs

from oxygent_client._core.errors import ConfigurationError
from oxygent_client._core.redaction import SCRUBBED, scrub_json
from oxygent_client._core.sent_secrets import SentSecrets
from oxygent_client._core.text import escape_character, replace_unsafe

__all__ = [
    "chain",
    "escape_control_characters",
    "redact",
    "strip_control_characters",
    "truncate",
    "without_credentials",
]

_Sanitizer = Callable[[Any], Any]


def strip_control_characters(value: Any) -> Any:
    """`value` without characters that move a cursor, hide text or turn its direction, in texts and in keys.

    That includes whatever is drawn as nothing (Unicode's default-ignorable characters: zero-width spaces, tag
    characters, variation selectors, soft hyphens), but where an emoji or a script needs it: the joiners of a family,
    the selector of a heart, the non-joiner of Persian. Tabs and line feeds stay. Where two keys of an object become
    the same, the one that was so already stays.
    """
    return _mapped(value, _stripped, _stripped)


def escape_control_characters(value: Any) -> Any:
    r"""`value` with each of those characters as its number (`\x1b`, `\u200b`), so that a person sees that it is there.

    Where two keys of an object become the same, the one that was so already stays.
    """
    return _mapped(value, _escaped, _escaped)


def redact(*keys: str) -> Callable[[Any], Any]:
    """Replaces the values under these keys, in upper or lower case, by `[scrubbed]`.

    Without keys, it replaces what looks secret: values by their keys (`password`, `api_key`, ...), and credentials
    within texts. What is nested deeper than 128 levels then goes as a whole.
    """
    return _Redact(frozenset(key.casefold() for key in keys))


def without_credentials(sent: SentSecrets) -> Callable[[Any], Any]:
    """Replaces what a run or a discovery sent in confidence by `[scrubbed]`, in texts and in keys.

    `sent` is `run.sent` or `agent.sent`. The values are found in every usual spelling; one of fewer than 8 characters
    stays: it may be a part of any word. What this gives does not pickle: it holds the values.
    """
    return _WithoutCredentials(sent)


def truncate(chars: int) -> Callable[[Any], Any]:
    """Cuts each text that is longer than `chars` characters; the last of those that stay is an ellipsis.

    Raises:
        ConfigurationError: `chars` is less than 1.
    """
    if chars < 1:
        raise ConfigurationError("truncate(chars): must be 1 or more")
    return _Truncate(chars)


def chain(*functions: Callable[[Any], Any]) -> Callable[[Any], Any]:
    """Applies the functions, the first one first."""
    return _Chain(functions)


def _stripped(text: str) -> str:
    return replace_unsafe(text, _nothing)


def _escaped(text: str) -> str:
    return replace_unsafe(text, escape_character)


def _nothing(_character: str) -> str:
    return ""


def _same(text: str) -> str:
    return text


@attrs.frozen
class _Redact:
    keys: frozenset[str]

    def __call__(self, value: Any) -> Any:
        return _mapped(value, _same, _same, self.keys) if self.keys else scrub_json(value)


@attrs.frozen
class _WithoutCredentials:
    sent: SentSecrets = attrs.field(repr=False)

    def __call__(self, value: Any) -> Any:
        return _mapped(value, self.sent.strip_text, self.sent.strip_text)


@attrs.frozen
class _Truncate:
    chars: int

    def __call__(self, value: Any) -> Any:
        return _mapped(value, self._cut, _same)

    def _cut(self, text: str) -> str:
        return text if len(text) <= self.chars else text[: self.chars - 1] + "…"


@attrs.frozen
class _Chain:
    functions: tuple[_Sanitizer, ...]

    def __call__(self, value: Any) -> Any:
        for function in self.functions:
            value = function(value)
        return value


def _mapped(
    value: Any, text: Callable[[str], str], key: Callable[[str], str], gone: frozenset[str] = frozenset()
) -> Any:
    """`value`, with `text` applied to its texts and `key` to its keys, and what is under the keys `gone` replaced.

    A loop, since a value may be nested deeper than functions may call each other.
    """
    whole: list[Any] = [value]
    waiting: list[Any] = [whole]  # containers of ours, in which what was received is still to be replaced
    while waiting:
        place = waiting.pop()
        if isinstance(place, dict):
            members: list[tuple[Any, Any]] = [*cast("dict[Any, Any]", place).items()]
        else:
            members = [*enumerate(cast("list[Any]", place))]
        for at, item in members:
            if isinstance(item, str):
                place[at] = text(item)
            elif isinstance(item, list):
                place[at] = [*cast("list[Any]", item)]
                waiting.append(place[at])
            elif isinstance(item, dict):
                place[at] = _keyed(cast("dict[str, Any]", item), key, gone)
                waiting.append(place[at])
    return whole[0]


def _keyed(fields: dict[str, Any], key: Callable[[str], str], gone: frozenset[str]) -> dict[str, Any]:
    kept: dict[str, Any] = {}
    for name, item in fields.items():
        new = key(name)
        if new == name or new not in fields:
            kept[new] = SCRUBBED if name.casefold() in gone else item
    return kept
