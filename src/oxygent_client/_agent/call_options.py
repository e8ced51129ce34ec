"""Make a request of the arguments of `ask`, `stream` and `start`, and set the options of the call."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final, cast

from oxygent_client._core.errors import ConfigurationError
from oxygent_client._core.requests import OxyRequest
from oxygent_client._core.settings import CallOptions, Timeouts
from oxygent_client._core.validation import DICT, FLAG, MAPPING, TEXT, Rule, check_each, optional

_RULES: Final[Mapping[str, Rule]] = {
    "arguments": optional(MAPPING),
    **dict.fromkeys(("trace_id", "from_trace_id", "group_id"), optional(TEXT)),
    **dict.fromkeys(("shared_data", "group_data"), optional(DICT)),
    "idempotent": FLAG,
}
_DEFAULTS: Final[Mapping[str, object]] = {
    **dict.fromkeys(("arguments", "shared_data", "group_data")),
    **dict.fromkeys(("trace_id", "from_trace_id", "group_id"), ""),
    "idempotent": False,
}
_EMPTY: Final = (None, "", False)
_NO_OPTIONS: Final = CallOptions()


def make_request(query: str | OxyRequest, **options: Any) -> OxyRequest:
    """Make a request of a query and the options of a call; return a query that is a request.

    Raises:
        ConfigurationError: the query or an option is invalid, or a request has options beside it.
    """
    # By identity: a value that was not checked may equal anything, or refuse to be compared.
    given = {name: value for name, value in options.items() if value is not _DEFAULTS[name]}
    if given:
        check_each(given, _RULES)
        given = {name: value for name, value in given.items() if value not in _EMPTY}
    if isinstance(query, OxyRequest):
        if given:
            raise ConfigurationError(
                f"{', '.join(given)} cannot be combined with an OxyRequest; set the fields of the request"
            )
        return query
    if not isinstance(cast("Any", query), str):
        raise ConfigurationError("query must be a str or an OxyRequest")
    arguments = {**given.pop("arguments", {}), "query": query}
    return OxyRequest(arguments=arguments, current_trace_id=given.pop("trace_id", ""), **given)


def make_options(
    *, timeout: float | Timeouts | None, headers: Mapping[str, str] | None, callee: str | None
) -> CallOptions:
    """The options of a call; mostly there are none.

    Raises:
        ConfigurationError: one is invalid.
    """
    if timeout is None and headers is None and callee is None:
        return _NO_OPTIONS
    return CallOptions(timeout=timeout, headers=headers, callee=callee)


def with_options(request: OxyRequest, options: CallOptions) -> OxyRequest:
    """Set the options of the call on a prepared request, and return it.

    They replace those that the request may have from another agent's call: their headers are meant for that agent.
    """
    if options is _NO_OPTIONS:
        request.__dict__.pop("_call_options", None)
    else:
        request.__dict__["_call_options"] = options
    return request
