"""Calls of JSON-RPC: from an inbound request to the package's request handler, and its result or events back.

Rule 1: a response is a part of the exchange, with the limits, heartbeats and cancellation of all protocols. So the
    package's own endpoint is not used: at SIGTERM it cuts all streams, whatever time the server gives them.
Rule 2: a stream that ends before its task, since the client reads too slowly, ends with an error that gives the reason.
Rule 3: tasks are found by their id only. They are not listed, since all clients are one user.
Rule 4: a message is a task of its own. The package would answer a message to a running task with the result of that
    task, and then run its query for no client.

Rule 5: a message that is sent again gets the task that it has, and runs nothing.

Source: https://a2a-protocol.org/v1.0.0/specification/ (JSON-RPC binding)
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Mapping
from contextlib import aclosing
from typing import Any, Final

import anyio
import attrs
from a2a.server.context import ServerCallContext
from a2a.server.request_handlers import RequestHandler, build_error_response
from a2a.types import (
    CancelTaskRequest,
    GetTaskRequest,
    SendMessageRequest,
    SendMessageResponse,
    SubscribeToTaskRequest,
    Task,
    TaskStatusUpdateEvent,
)
from a2a.utils.constants import PROTOCOL_VERSION_1_0
from a2a.utils.errors import (
    A2AError,
    InternalError,
    InvalidParamsError,
    InvalidRequestError,
    MethodNotFoundError,
    PushNotificationNotSupportedError,
    UnsupportedOperationError,
)
from a2a.utils.proto_utils import to_stream_response
from a2a.utils.version_validator import validate_version
from google.protobuf.json_format import Error, MessageToDict, ParseDict

from oxygent_client.serve import Exchange
from oxygent_client.serve._a2a.sent_messages import SENT, SentMessages
from oxygent_client.serve._a2a.store import ENDED

_REQUESTS: Final[Mapping[str, type[Any]]] = {
    "SendMessage": SendMessageRequest,
    "SendStreamingMessage": SendMessageRequest,
    "SubscribeToTask": SubscribeToTaskRequest,
    "GetTask": GetTaskRequest,
    "CancelTask": CancelTaskRequest,
}
_UNSUPPORTED: Final[Mapping[str, type[A2AError]]] = {
    "ListTasks": UnsupportedOperationError,
    "GetExtendedAgentCard": UnsupportedOperationError,
    "CreateTaskPushNotificationConfig": PushNotificationNotSupportedError,
    "GetTaskPushNotificationConfig": PushNotificationNotSupportedError,
    "ListTaskPushNotificationConfigs": PushNotificationNotSupportedError,
    "DeleteTaskPushNotificationConfig": PushNotificationNotSupportedError,
}


class InboundHeaders(dict[str, str]):
    """The headers of a request. The package logs the repr of all that it gets: this one has names only."""

    def __repr__(self) -> str:
        return f"headers {', '.join(self)}"


async def answer_call(exchange: Exchange, handler: RequestHandler, messages: SentMessages) -> None:
    """Answer one call.

    Raises:
        Refused: the body is not a JSON object.
    """
    document = exchange.json()
    given = document.get("id")
    number = given if isinstance(given, str | int) and not isinstance(given, bool) else None
    context = ServerCallContext(state={"headers": InboundHeaders(exchange.headers)})
    try:
        with anyio.CancelScope() as scope:
            call = _read_call(document)
            await _check_is_new(call, handler, context)
            call = await _remembered(call, messages, context, scope)
            if call.is_streamed:
                await _stream(exchange, number, await _open(call, handler, context))
            else:
                await exchange.respond(200, _result(number, await _ask(call, handler, context)))
    except A2AError as error:
        if exchange.status:
            await exchange.send_event(build_error_response(number, error))
            await exchange.end_stream()
        else:
            await exchange.respond(200, build_error_response(number, error))
    finally:
        if (sent := context.state.get(SENT)) is not None:
            sent.end()


@attrs.frozen
class _Call:
    """One call."""

    method: str
    request: Any
    task_id: str = ""
    """The task of the message, if it was sent before."""

    @property
    def is_streamed(self) -> bool:
        """Whether its result is a stream."""
        return self.method in ("SendStreamingMessage", "SubscribeToTask")


def _read_call(document: Mapping[str, Any]) -> _Call:
    method = document.get("method")
    if document.get("jsonrpc") != "2.0" or not isinstance(method, str):
        raise InvalidRequestError("the body must be a request of JSON-RPC 2.0")
    if method in _UNSUPPORTED:
        raise _UNSUPPORTED[method]
    if method not in _REQUESTS:
        raise MethodNotFoundError
    try:
        request = ParseDict(document.get("params", {}), _REQUESTS[method](), ignore_unknown_fields=True)
        MessageToDict(request)  # a task has its message: infinite numbers could not be sent with it
    except (Error, TypeError, AttributeError) as error:
        raise InvalidParamsError from error
    return _Call(method, request)


async def _check_is_new(call: _Call, handler: RequestHandler, context: ServerCallContext) -> None:
    """Refuse a message to an earlier task.

    Raises:
        A2AError: there is no such task, or it takes no message.
    """
    if _REQUESTS[call.method] is SendMessageRequest and (task_id := call.request.message.task_id):
        await handler.on_get_task(GetTaskRequest(id=task_id), context)
        raise UnsupportedOperationError("a task takes one message: send the next with its contextId, without its id")


async def _remembered(
    call: _Call, messages: SentMessages, context: ServerCallContext, scope: anyio.CancelScope
) -> _Call:
    """Return the call with the task of its message, if that was sent before; a new message is remembered."""
    if _REQUESTS[call.method] is not SendMessageRequest:
        return call
    while (sent := messages.find(call.request.message)) is not None:
        await sent.is_known.wait()
        if sent.task_id:
            return attrs.evolve(call, task_id=sent.task_id)
    context.state[SENT] = messages.add(call.request.message, scope)
    return call


def _result(number: str | int | None, result: Any) -> dict[str, Any]:
    return {"jsonrpc": "2.0", "id": number, "result": MessageToDict(result)}


@validate_version(PROTOCOL_VERSION_1_0)
async def _ask(call: _Call, handler: RequestHandler, context: ServerCallContext) -> Any:
    """Return the result of a call."""
    if call.method == "GetTask":
        return await handler.on_get_task(call.request, context)
    if call.method == "CancelTask":
        return await handler.on_cancel_task(call.request, context)
    if call.task_id:
        if not call.request.configuration.return_immediately:
            async with aclosing(_again(call, handler, context)) as events:
                async for _ in events:
                    pass
        return SendMessageResponse(task=await handler.on_get_task(GetTaskRequest(id=call.task_id), context))
    result = await handler.on_message_send(call.request, context)
    assert isinstance(result, Task)  # ours are tasks, never messages
    return SendMessageResponse(task=result)


@validate_version(PROTOCOL_VERSION_1_0)
async def _open(call: _Call, handler: RequestHandler, context: ServerCallContext) -> AsyncGenerator[Any]:
    """Return the events of a call."""
    if call.task_id:
        return _again(call, handler, context)
    is_new = call.method == "SendStreamingMessage"
    method: Any = handler.on_message_send_stream if is_new else handler.on_subscribe_to_task
    events: AsyncGenerator[Any] = method(call.request, context)
    return events


async def _again(call: _Call, handler: RequestHandler, context: ServerCallContext) -> AsyncGenerator[Any]:
    """Yield the task of a message that was sent before, and its events from then on."""
    try:
        async for event in handler.on_subscribe_to_task(SubscribeToTaskRequest(id=call.task_id), context):
            yield event
    except UnsupportedOperationError:  # it has ended
        yield await handler.on_get_task(GetTaskRequest(id=call.task_id), context)


async def _stream(exchange: Exchange, number: str | int | None, events: AsyncGenerator[Any]) -> None:
    """Send the events of a task up to its end."""
    is_ended = False
    async with aclosing(events):
        async for event in events:  # an error before the first is a plain response
            if not exchange.status:
                await exchange.start_stream()
            await exchange.send_event(_result(number, to_stream_response(event)))
            is_ended = isinstance(event, Task | TaskStatusUpdateEvent) and event.status.state in ENDED
    if not is_ended:
        raise InternalError("the stream was dropped, since it was read too slowly: subscribe to the task again")
    await exchange.end_stream()
