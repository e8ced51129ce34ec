"""Build the JSON body of a run: call-stack rules and protocol fields.

Rule 1: `build_payload` says what the caller's stacks become; it may be replaced (`SSEOxyGent.prepare_payload`).
Rule 2: `finalize_payload` has the last word and is always ours: what the protocol needs, what must not leave, what the
    wire cannot carry.
Rule 3: an argument never overwrites a protocol field by accident: arguments come from language models.
Rule 4: nothing that is passed in is changed.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any, Final, Literal, cast

from oxygent_client._core import json_codec
from oxygent_client._core.errors import ConfigurationError, PayloadError
from oxygent_client._core.requests import OxyRequest

__all__ = [
    "RESTART",
    "CallStackStrategy",
    "build_payload",
    "check_arguments",
    "check_restart",
    "encode",
    "finalize_payload",
]

CallStackStrategy = Literal["full", "partial", "none"]

COMMON: Final = (
    *("request_id", "group_id", "from_trace_id", "current_trace_id", "reference_trace_id"),
    *("restart_node_id", "restart_node_output", "restart_node_order", "input_md5", "root_trace_ids"),
    *("caller", "callee", "call_stack", "node_id_stack", "father_node_id", "pre_node_ids"),
    *("caller_category", "callee_category", "node_id"),
    *("is_save_history", "is_send_message", "is_async_storage", "parallel_dict", "shared_data", "group_data"),
)
"""The fields that the framework's own client sends in every version. Servers of 1.0.8 lack `is_send_message` alone."""
SOME_SERVERS: Final[Mapping[str, Any]] = {
    "original_payload": "",
    "copied_node_id": "",
    "create_time": None,
    "update_time": None,
    "is_load_data_for_restart": True,
}
"""Fields, with their defaults, that only 1.1.3, or only 1.0.x, knows. Elsewhere they would turn into arguments of the
agent, so they are sent only if they were given, or hold something else."""
LOCAL: Final = ("mas", "parallel_id", "latest_node_ids")
"""Fields that mean something in the caller's own process only."""
PROTOCOL: Final = frozenset({*COMMON, *SOME_SERVERS, *LOCAL, "arguments"})
"""Every name that a server of 1.0.8, 1.0.13 or 1.1.3 takes for a field of its own: no argument may have it."""
NOT_OVERRIDABLE: Final = frozenset({"mas", "arguments", "current_trace_id", "call_stack", "node_id_stack"})
"""Names that no argument may have even if the caller allows it."""
RESTART: Final = ("reference_trace_id", "restart_node_id", "restart_node_output", "restart_node_order")
"""Fields by which a request restarts an earlier run. A server that is sent a foreign one can hang (seen on 1.1.3)."""
STORED: Final = "original_payload"
"""What the framework of 1.1.3 keeps of a request of its own, for a restart of the local run."""

SERVER_GENERATED: Final = ("request_id", "group_id", "node_id")
"""Fields that a server draws for itself where they are missing, and takes as they are where they are empty."""


def check_arguments(arguments: Mapping[str, Any], argument_overrides: Collection[str] = ()) -> None:
    """Nothing, if no argument has a protocol field's name, but for those in `argument_overrides`.

    Raises:
        PayloadError: one has. Rename it, or name it in `argument_overrides` if it is meant to overwrite the field.
    """
    for name in arguments:
        if name in NOT_OVERRIDABLE or (name in PROTOCOL and name not in argument_overrides):
            raise PayloadError(
                f"the argument {name!r} has the name of a protocol field"
                + ("" if name in NOT_OVERRIDABLE else "; rename it, or name it in argument_overrides")
            )


def check_restart(fields: Mapping[str, Any]) -> None:
    """Refuse a restart of an earlier run: without its fields the whole run would happen again.

    Raises:
        PayloadError: one of RESTART is set. Leave it empty to begin a new run.
    """
    for name in RESTART:
        if fields.get(name) not in ("", None):
            raise PayloadError(f"{name} asks for a restart of an earlier run, and this call begins a new one: unset it")


def build_payload(
    request: OxyRequest,
    *,
    name: str | None = None,
    is_share_call_stack: bool = True,
    call_stack_strategy: CallStackStrategy | None = None,
    argument_overrides: Collection[str] = (),
) -> dict[str, Any]:
    """The payload of `request`, before it is sealed: its fields, and its arguments beside them.

    The strategies, by what the remote sees of the call stack:

    - `full`: all of it.
    - `partial`: all but this agent's own entry, the last. What `is_share_call_stack=True` means.
    - `none`: nothing; the caller is `user`. What `is_share_call_stack=False` means.

    `name` is the agent's own name in the stack; None takes the request's callee. A last entry of another name is kept.

    Raises:
        PayloadError: an argument has the name of a protocol field.
    """
    check_arguments(request.arguments, argument_overrides)
    strategy = call_stack_strategy or ("partial" if is_share_call_stack else "none")
    fields = request.model_dump(exclude=LOCAL)
    arguments = fields.pop("arguments")
    payload = {
        field: value
        for field, value in fields.items()
        if field not in SOME_SERVERS or field in request.given or value != SOME_SERVERS[field]
    }
    payload["caller_category"] = "user"
    if strategy == "none":
        del payload["call_stack"], payload["node_id_stack"]
        payload["caller"] = "user"
    elif strategy == "partial":
        own = name if name is not None else request.callee
        if request.call_stack and (request.call_stack[-1] == own or (not own and len(request.call_stack) > 1)):
            payload["call_stack"] = request.call_stack[:-1]
            payload["node_id_stack"] = request.node_id_stack[:-1]
    elif strategy != "full":
        raise PayloadError(f"there is no call stack strategy {strategy!r}; there are 'full', 'partial' and 'none'")
    payload.update(arguments)
    return payload


def finalize_payload(
    payload: dict[str, Any],
    *,
    trace_id: str,
    callee: str | None = None,
    from_trace_id: str | None = None,
    share_data: bool | Collection[str] = True,
) -> dict[str, Any]:
    """`payload` as it may leave: a copy with the protocol's own fields set, and without what stays at home.

    Args:
        trace_id: what the remote shall call this run.
        callee: whom the remote shall run; None leaves it to the remote, whose master answers.
        from_trace_id: the turn before this one, for a payload that does not name it.
        share_data: how much of `shared_data` and `group_data` goes along: all, nothing, or these keys. Inbound headers
            (`shared_data["_headers"]`) never do.

    Raises:
        PayloadError: `payload` is no dictionary with names as keys, or it asks for a restart.
        ConfigurationError: `share_data` is a text.
    """
    if isinstance(share_data, str):  # a collection, too: of its letters
        raise ConfigurationError("share_data must be True, False, or a collection of keys; a text is none")
    if not isinstance(cast("Any", payload), dict) or not all(
        isinstance(key, str) for key in cast("dict[Any, Any]", payload)
    ):
        raise PayloadError("prepare_payload must return a dictionary with names as keys")
    sealed = {key: value for key, value in payload.items() if key not in LOCAL}
    check_restart(sealed)
    if sealed.get(STORED):
        sealed[STORED] = ""
    sealed |= {"current_trace_id": trace_id, "caller_category": "user", "is_send_message": True}
    if from_trace_id is not None:
        sealed.setdefault("from_trace_id", from_trace_id)
    for field in SERVER_GENERATED:
        if not sealed.get(field):
            sealed.pop(field, None)
    sealed.pop("callee", None)
    if callee is not None:
        sealed["callee"] = callee
    for field in ("shared_data", "group_data"):
        if field in sealed:
            sealed[field] = _shared(sealed[field], share_data)
    return sealed


def _shared(data: Any, share_data: bool | Collection[str]) -> dict[str, Any]:
    # A server answers 500 to `shared_data: null`, so whatever is no dictionary is an empty one.
    if share_data is False or not isinstance(data, dict):
        return {}
    known = cast("dict[str, Any]", data)
    return {
        key: value for key, value in known.items() if key != "_headers" and (share_data is True or key in share_data)
    }


def encode(payload: Mapping[str, Any]) -> bytes:
    """`payload` as JSON in UTF-8.

    Raises:
        PayloadError: a value has no JSON (a datetime, a set, NaN, a lone surrogate, a circle); the text names its key.
    """
    try:
        return json_codec.dumps(payload)
    except (TypeError, ValueError, RecursionError):
        for key, value in payload.items():
            try:
                json_codec.dumps({key: value})
            except (TypeError, ValueError, RecursionError) as error:
                raise PayloadError(f"the value of {key!r} cannot be JSON: {_reason(error)}") from error
        raise  # pragma: no cover  (what fails together fails alone)


def _reason(error: Exception) -> str:
    """Why, without the value: the value may be a secret."""
    if isinstance(error, UnicodeEncodeError):
        return "it holds a lone surrogate"
    return "it is nested too deep" if isinstance(error, RecursionError) else str(error)[:100]
