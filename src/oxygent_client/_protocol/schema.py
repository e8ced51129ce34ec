"""Validate remote messages against a schema.

Rule 1: a message that is not valid is still an event: what is wrong stands in its `problems`.
Rule 2: a validator gets a copy, and nothing of what it returns is used.
Rule 3: no text here holds what looks like a secret of the message: validators like to quote.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Final, TypeAlias, TypeVar, cast

import attrs

from oxygent_client._core.events import Event
from oxygent_client._core.redaction import SCRUBBED, Redactor, is_secret, scrub_text
from oxygent_client._core.text import escape_text
from oxygent_client._protocol.router import copy_json

__all__ = ["Schema", "Validator", "check"]

E = TypeVar("E", bound=Event)
Validator: TypeAlias = Callable[[Any], object]
"""Called with a message; raises ValueError or TypeError (pydantic's ValidationError is one) if it is not valid."""
Schema: TypeAlias = Mapping[str, Validator] | Mapping[str | None, Validator]
"""The validator of each message type; None is every type that has no line, and no type at all."""

PROBLEMS: Final = 20
"""How many problems of one message are kept."""
PROBLEM: Final = 300
"""How many characters of each."""
SECRETS: Final = 100
"""How many different secrets of a message are looked for in what a validator says."""
LONG: Final = 64
"""How many characters of a secret are looked for."""
TEXT: Final = 4096
"""How many characters are looked at, so that what is secret in them is there as a whole."""


def check(event: E, schema: Schema, clean: Redactor = scrub_text) -> E:
    """`event`, with its `problems` if the schema has a validator for it that finds some; `clean` is applied to them.

    A validator that raises something else was not made for such a message, so that is a problem too; it ends no run.
    """
    table = cast("Mapping[str | None, Validator]", schema)
    validate = table.get(event.type) or table.get(None)
    if validate is None:
        return event
    try:
        validate(copy_json(event.message))
    except Exception as error:  # noqa: BLE001  (it is the user's own)
        expected = isinstance(error, ValueError | TypeError)
        texts = _texts(error) if expected else [f"the validator raised {type(error).__name__}"]
        found = (_shown(text, event.message, clean) for text in texts[:PROBLEMS])
        return attrs.evolve(event, problems=(*event.problems, *found))
    return event


def _texts(error: Exception) -> list[str]:
    """What is wrong, one text each, by pydantic's list where there is one: its text quotes the message, cut anyhow."""
    rows = getattr(error, "errors", None)
    if callable(rows):
        try:
            listed = cast("Any", rows)(include_url=False, include_context=False, include_input=False)
            return [f"{'.'.join(str(step) for step in row['loc']) or 'the message'}: {row['msg']}" for row in listed]
        except (TypeError, LookupError):  # another class with a method of that name
            pass
    return [str(error) or type(error).__name__]


def _shown(text: str, message: Any, clean: Redactor) -> str:
    secrets = {*_secrets(message)}
    if len(secrets) > SECRETS:
        return "not as expected (what is wrong is not quoted: the message holds many secrets)"
    text = text[:TEXT]
    if secrets:  # all at once: of one after the other, each could be looked for in the mark of the one before
        text = re.compile("|".join(map(_beginning, sorted(secrets, key=len, reverse=True)))).sub(SCRUBBED, text)
    return escape_text(clean(text), PROBLEM)


def _beginning(secret: str) -> str:
    """The pattern of a secret. A long one may be cut off in a text, so with its beginning all that follows goes."""
    return re.escape(secret) if len(secret) <= LONG else f"{re.escape(secret[:LONG])}(?s:.*)"


def _secrets(message: Any) -> Iterator[str]:
    """The texts in a message whose keys say that they are secret."""
    waiting: list[Any] = [message]
    while waiting:
        value = waiting.pop()
        if isinstance(value, dict):
            for key, member in cast("dict[str, Any]", value).items():
                if isinstance(member, str) and is_secret(key, member):
                    yield member
                waiting.append(member)
        elif isinstance(value, list):
            waiting.extend(cast("list[Any]", value))
