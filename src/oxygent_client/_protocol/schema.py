"""Validate remote messages against a schema.

Rule 1: an invalid message is still an event, with `problems`.
Rule 2: a validator gets a copy; its return value is ignored.
Rule 3: secrets of the message are redacted in `problems`, since validators quote their input.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Final, TypeAlias, TypeVar, cast

import attrs

from oxygent_client._core.events import Event
from oxygent_client._core.redaction import SCRUBBED, SEARCHED, Redactor, for_display, is_secret, scrub_text
from oxygent_client._protocol.router import copy_json

E = TypeVar("E", bound=Event)
Validator: TypeAlias = Callable[[Any], object]
"""Called with a message; raises ValueError or TypeError (pydantic's ValidationError is one) if it is invalid."""
Schema: TypeAlias = Mapping[str, Validator] | Mapping[str | None, Validator]
"""Validators by message type; None for all other types and for messages without a type."""

MOST_PROBLEMS: Final = 20
"""How many problems of one message are kept."""
PROBLEM_LENGTH: Final = 300
"""Limit of one problem, in characters."""
MOST_SECRETS: Final = 100
"""How many different secrets of a message are redacted in its problems."""
SECRET_LENGTH: Final = 64
"""How many characters of a secret are searched for."""


def check(event: E, schema: Schema, clean: Redactor = scrub_text) -> E:
    """Validate an event by the schema; return it with `problems`, redacted by `clean`, if its validator rejects it.

    Any other exception of the validator is a problem, too; it does not end the run.
    """
    table = cast("Mapping[str | None, Validator]", schema)
    validate = table.get(event.type) or table.get(None)
    if validate is None:
        return event
    try:
        validate(copy_json(event.message))
    except Exception as error:  # noqa: BLE001  (user code)
        expected = isinstance(error, ValueError | TypeError)
        texts = _texts(error) if expected else [f"the validator raised {type(error).__name__}"]
        found = (_shown(text, event.message, clean) for text in texts[:MOST_PROBLEMS])
        return attrs.evolve(event, problems=(*event.problems, *found))
    return event


def _texts(error: Exception) -> list[str]:
    """One text per problem, from pydantic's list of errors if there is one: its `str` quotes the message, cut off."""
    rows = getattr(error, "errors", None)
    if callable(rows):
        try:
            listed = cast("Any", rows)(include_url=False, include_context=False, include_input=False)
            return [f"{'.'.join(str(step) for step in row['loc']) or 'the message'}: {row['msg']}" for row in listed]
        except (TypeError, LookupError):  # a method of another class, with that name
            pass
    return [str(error) or type(error).__name__]


def _shown(text: str, message: Any, clean: Redactor) -> str:
    secrets = {*_secrets(message)}
    if len(secrets) > MOST_SECRETS:
        return "invalid (details are not shown: the message has too many secrets)"
    text = text[:SEARCHED]
    if secrets:  # in one pass, so that no secret is found within the replacement of another
        text = re.compile("|".join(map(_beginning, sorted(secrets, key=len, reverse=True)))).sub(SCRUBBED, text)
    return for_display(text, PROBLEM_LENGTH, clean)


def _beginning(secret: str) -> str:
    """The pattern of a secret. A long one may be cut off in the text, so everything after its beginning is redacted."""
    return re.escape(secret) if len(secret) <= SECRET_LENGTH else f"{re.escape(secret[:SECRET_LENGTH])}(?s:.*)"


def _secrets(message: Any) -> Iterator[str]:
    """The texts in a message whose keys are names of secrets."""
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
