"""Validators, converters and types of the settings of an agent."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Collection, Mapping
from typing import Any, Final

import attrs

from oxygent_client._core.settings import Limits, Timeouts
from oxygent_client._core.transport import check_url
from oxygent_client._core.validation import (
    ASYNC,
    FLAG,
    NAMES,
    PLAIN,
    TEXT,
    TEXTS,
    ValuesRule,
    either,
    has_method,
    instance_of,
    one_of,
    optional,
)
from oxygent_client._protocol.router import EventRouter
from oxygent_client._protocol.schema import Schema
from oxygent_client.policies._base import Policy
from oxygent_client.policies._https import HTTPSOnly
from oxygent_client.policies._retry import Retry

EventFilter = Callable[[Any], bool]
EventHandler = Callable[[Any], Awaitable[None]]
ProgressCallback = Callable[[str], Awaitable[None]]


OPTIONAL_TEXT: Final = optional(TEXT)
OPTIONAL_PLAIN: Final = optional(PLAIN)
OPTIONAL_ASYNC: Final = optional(ASYNC)
OPTIONAL_POLICY: Final = optional(
    instance_of(Policy, "a policy such as BearerAuth('a-token') or BasicAuth('user', 'password')")
)
TRANSPORT: Final = optional(has_method("exchange", "a transport such as HTTPXTransport(...)"))
ROUTER: Final = has_method("route", "an EventRouter(...)")
HANDLERS: Final = ValuesRule(ASYNC)
SCHEMA: Final = ValuesRule(PLAIN)
TIMEOUTS: Final = instance_of(Timeouts, "Timeouts(...), such as Timeouts(total=60)")
RETRY: Final = instance_of(Retry, "Retry(...), such as Retry(attempts=3)")
LIMITS: Final = instance_of(Limits, "Limits(...), such as Limits(body_bytes=1_000_000)")
POLICIES: Final = instance_of(Collection, "a collection of policies, such as (ConcurrencyLimit(8),)")
OBSERVERS: Final = instance_of(Collection, "a collection of observers")
SHARE_DATA: Final = either(FLAG, NAMES)
CONFIRM_STATE: Final = either(FLAG, one_of("auto"))
STRATEGY: Final = optional(one_of("full", "partial", "none"))
INBOUND_HEADERS: Final = attrs.evolve(TEXTS, expected=f"{TEXTS.expected}, in shared_data")


def check_server_url(instance: object, attribute: attrs.Attribute[Any], value: str) -> None:
    """Refuse a text that is no URL of a server; it may be empty.

    Raises:
        ConfigurationError: the value is no such text.
    """
    TEXT(instance, attribute, value)
    if value:
        check_url(value)


def check_plaintext_hosts(instance: object, attribute: attrs.Attribute[Any], value: Collection[str]) -> None:
    """Refuse names that are no hosts.

    Raises:
        ConfigurationError: the value is no collection, or one of its members is no name of a host.
    """
    NAMES(instance, attribute, value)
    HTTPSOnly(plaintext_hosts=value)


def router_or_default(value: EventRouter | None) -> EventRouter:
    """None stands for the documented routes."""
    return EventRouter() if value is None else value


def handlers_or_empty(value: Mapping[str, EventHandler] | None) -> Mapping[str, EventHandler]:
    """None stands for no handlers."""
    return {} if value is None else value


def headers_or_empty(value: Mapping[str, str] | None) -> Mapping[str, str]:
    """None stands for no headers."""
    return {} if value is None else value


def schema_or_empty(value: Schema | None) -> Schema:
    """None stands for no schema."""
    return {} if value is None else value
