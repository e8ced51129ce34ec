"""Build the JSON body of a run: call-stack rules and protocol fields.

Rule 1: `build_payload` decides how the caller's stacks are sent; users may replace it (`SSEOxyGent.prepare_payload`).
Rule 2: `finalize_payload` is applied to every payload: it sets the protocol's own fields, and removes data that must
    not be sent.
Rule 3: an argument never overwrites a protocol field by accident: arguments come from language models.
Rule 4: the functions do not change their arguments.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from typing import Any, Final, Literal, cast

from oxygent_client._core import json_codec
from oxygent_client._core.errors import ConfigurationError, PayloadError
from oxygent_client._core.requests import OxyRequest

CallStackStrategy = Literal["full", "partial", "none"]

COMMON: Final = (
    *("request_id", "group_id", "from_trace_id", "current_trace_id", "reference_trace_id"),
    *("restart_node_id", "restart_node_output", "restart_node_order", "input_md5", "root_trace_ids"),
    *("caller", "callee", "call_stack", "node_id_stack", "father_node_id", "pre_node_ids"),
    *("caller_category", "callee_category", "node_id"),
    *("is_save_history", "is_send_message", "is_async_storage", "parallel_dict", "shared_data", "group_data"),
)
"""Fields that the framework's own client sends in every version. Servers of 1.0.8 know all but `is_send_message`."""
SOME_SERVERS: Final[Mapping[str, Any]] = {
    "original_payload": "",
    "copied_node_id": "",
    "create_time": None,
    "update_time": None,
    "is_load_data_for_restart": True,
}
"""Fields that only 1.1.3, or only 1.0.x, knows, with their defaults. For other versions they would become arguments of
the agent, so they are sent only if the caller set them, or their value is not the default."""
LOCAL: Final = ("mas", "parallel_id", "latest_node_ids")
"""Fields with a meaning only in the caller's process; they are not sent."""
_RARELY_SENT: Final = (*LOCAL, *SOME_SERVERS)
PROTOCOL: Final = frozenset({*COMMON, *SOME_SERVERS, *LOCAL, "arguments"})
"""All names that servers of 1.0.8, 1.0.13 or 1.1.3 read as protocol fields: no argument may have one of them."""
NOT_OVERRIDABLE: Final = frozenset({"mas", "arguments", "current_trace_id", "call_stack", "node_id_stack"})
"""Names that no argument may have, not even with `argument_overrides`."""
RESTART: Final = ("reference_trace_id", "restart_node_id", "restart_node_output", "restart_node_order")
"""Fields that restart an earlier run. A server that does not know that run may hang (seen on 1.1.3)."""
LOCAL_COPY: Final = "original_payload"
"""Copy of a request that the framework of 1.1.3 keeps, to restart the local run."""

SERVER_GENERATED: Final = ("request_id", "group_id", "node_id")
"""Fields that a server generates if they are missing, and uses unchanged if they are empty."""


def check_arguments(arguments: Mapping[str, Any], argument_overrides: Collection[str] = ()) -> None:
    """Refuse arguments with the name of a protocol field, except those in `argument_overrides`.

    Raises:
        PayloadError: rename the argument, or add it to `argument_overrides` to overwrite the field.
    """
    if PROTOCOL.isdisjoint(arguments):
        return
    for name in arguments:
        if name in NOT_OVERRIDABLE or (name in PROTOCOL and name not in argument_overrides):
            raise PayloadError(
                f"the argument {name!r} has the name of a protocol field"
                + ("" if name in NOT_OVERRIDABLE else "; rename it, or add it to argument_overrides")
            )


def check_restart(fields: Mapping[str, Any]) -> None:
    """Refuse fields that restart an earlier run: dropping them would run all of it again.

    Raises:
        PayloadError: one of RESTART is set. Leave it empty to start a new run.
    """
    if fields.keys().isdisjoint(RESTART):
        return
    for name in RESTART:
        if fields.get(name) not in ("", None):
            raise PayloadError(
                f"{name} restarts an earlier run, but this call starts a new one: leave it empty, or use `restart`"
            )


def build_payload(
    request: OxyRequest,
    *,
    name: str | None = None,
    is_share_call_stack: bool = True,
    call_stack_strategy: CallStackStrategy | None = None,
    argument_overrides: Collection[str] = (),
    copy: bool = True,
) -> dict[str, Any]:
    """Build the payload of `request`: its fields, with its arguments beside them. `finalize_payload` is applied later.

    The strategies decide how much of the call stack the remote gets:

    - `full`: all of it.
    - `partial`: all but this agent's own entry, the last. The same as `is_share_call_stack=True`.
    - `none`: nothing; the caller is `user`. The same as `is_share_call_stack=False`.

    `name` is the agent's own name in the stack; by default the request's callee. A last entry of another name is kept.
    Without `copy`, it has the dictionaries and lists of the request itself, for a payload that is encoded at once.

    Raises:
        PayloadError: an argument has the name of a protocol field, or the strategy is unknown.
    """
    check_arguments(request.arguments, argument_overrides)
    strategy = call_stack_strategy or ("partial" if is_share_call_stack else "none")
    if copy or type(request).model_dump is not OxyRequest.model_dump:
        payload = request.model_dump(exclude=LOCAL)
        is_whole = True
    else:
        is_whole = not vars(request).keys().isdisjoint(SOME_SERVERS)
        payload = request.shared_fields(LOCAL if is_whole else _RARELY_SENT)
    arguments = payload.pop("arguments")
    if is_whole:
        given = request.given
        for field, default in SOME_SERVERS.items():
            if field not in given and payload.get(field) == default:
                payload.pop(field, None)  # a subclass may leave it out
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
        raise PayloadError(f"call_stack_strategy must be 'full', 'partial' or 'none'; got {strategy!r}")
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
    """Copy `payload`, set the protocol's own fields, and remove data that must not be sent.

    Args:
        trace_id: the run's trace id at the remote.
        callee: the remote agent to run; None for the remote's master agent.
        from_trace_id: trace id of the previous turn, for a payload without one.
        share_data: how much of `shared_data` and `group_data` is sent: all, nothing, or these keys. Inbound headers
            (`shared_data["_headers"]`) are never sent.

    Raises:
        PayloadError: `payload` is not a dictionary with `str` keys, or it restarts an earlier run.
        ConfigurationError: `share_data` is a `str`.
    """
    if isinstance(share_data, str):  # it would be a collection of letters
        raise ConfigurationError("share_data must be True, False, or a collection of keys; got str")
    given: Any = payload  # a subclass may return anything
    if not isinstance(given, dict) or not _are_texts(payload):
        raise PayloadError("prepare_payload must return a dictionary with str keys")
    final = payload.copy() if type(payload) is dict else dict(payload)  # to copy a plain one takes a fifth of the time
    for field in LOCAL:
        final.pop(field, None)
    check_restart(final)
    if final.get(LOCAL_COPY):
        final[LOCAL_COPY] = ""
    final["current_trace_id"], final["caller_category"], final["is_send_message"] = trace_id, "user", True
    if from_trace_id is not None:
        final.setdefault("from_trace_id", from_trace_id)
    for field in SERVER_GENERATED:
        if not final.get(field):
            final.pop(field, None)
    final.pop("callee", None)
    if callee is not None:
        final["callee"] = callee
    for field in ("shared_data", "group_data"):
        if field in final:
            data = final[field]
            final[field] = _shared(data, share_data) if data else {}
    return final


def _are_texts(keys: Iterable[Any]) -> bool:
    try:
        "".join(keys)  # in a tenth of the time of a loop
    except TypeError:
        return False
    return True


def _shared(data: Any, share_data: bool | Collection[str]) -> dict[str, Any]:
    # A server responds 500 to `shared_data: null`, so any other type becomes an empty dictionary.
    if share_data is False or not isinstance(data, dict):
        return {}
    known = cast("dict[str, Any]", data)
    return {
        key: value for key, value in known.items() if key != "_headers" and (share_data is True or key in share_data)
    }


def encode(payload: Mapping[str, Any]) -> bytes:
    """Encode `payload` as JSON in UTF-8.

    Raises:
        PayloadError: a value cannot be JSON (datetime, set, NaN, a lone surrogate, a cycle); the text names its key.
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
    """The reason, without the value, which may be a secret."""
    if isinstance(error, UnicodeEncodeError):
        return "it holds a lone surrogate"
    return "it is nested too deep" if isinstance(error, RecursionError) else str(error)[:100]
