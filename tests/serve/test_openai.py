"""OpenAI's API: requests, responses, streams and errors, byte for byte as its clients expect them.

Rule: time is virtual; the remote is a toy in the same process. Real clients are in tests/interop.
"""

from __future__ import annotations

from typing import Any, Final

import anyio
import attrs
import pytest

from oxygent_client import BearerAuth, Cluster, SSEOxyGent, TextUpdate
from oxygent_client.errors import ConnectError
from oxygent_client.serve import ServeLimits, Service
from oxygent_client.serve.openai import OpenAIAdapter, _ShownText, create_app
from oxygent_client.testing import FakeTransport, Reply, Step, ToyRemote, answer, close, delta, tool_call
from oxygent_client.testing.script import Call as Calls
from oxygent_client.testing.script import Cut, Pause, Script, Think, Words
from oxygent_client.transports.asgi import ASGITransport
from tests.support.asgi_client import ByServer, Call, request
from tests.support.virtual import anyio_backend as anyio_backend

REMOTE: Final = "https://remote.test"
CHAT: Final = "/v1/chat/completions"
RESPONSES: Final = "/v1/responses"
PATHS: Final = (CHAT, RESPONSES)
THINKING: Final = Script(
    [Think("hm"), Calls("search_flights", query="BER to LIS"), Calls("add_up"), Pause(1)], output={"sum": 42}
)
SCRIPTS: Final = {
    "echo": Script(output="hello"),
    "json": Script(output={"sum": 42, "ö": None}),
    "think": THINKING,
    "raise": ToyRemote().scripts["raise"],
    "cut": Script([Pause(1), Cut()]),
    "slow": Script([Pause(1000)], output="late"),
}


@attrs.define
class Site:
    """A service, and the toy that it serves."""

    service: Service
    toy: ToyRemote

    async def ask(self, path: str, query: Any, *, headers: dict[str, str] | None = None, **members: Any) -> Call:
        """Send a request by one of the two paths."""
        asked = {"messages": [{"role": "user", "content": query}]} if path == CHAT else {"input": query}
        return await request(self.service, "POST", path, {"model": "trip_planner", **asked, **members}, **headers or {})


def site(reasoning: bool = False, **options: Any) -> Site:
    """Yield a service of a toy, with a fixed clock."""
    toy = ToyRemote(scripts=SCRIPTS)
    agent = SSEOxyGent(server_url=REMOTE, transport=ASGITransport(toy), **options)
    return Site(Service(agent, [OpenAIAdapter(reasoning, clock=lambda: 1700000000.5)]), toy)


def of_one_agent(*steps: Step) -> FakeTransport:
    """Return a remote with the agent `x`, which sends these steps."""
    organization = {"id_dict": {}, "organization": {"name": "x", "type": "agent"}}
    return FakeTransport(
        {
            "/get_organization": Reply.json({"code": 200, "data": organization}),
            "/get_description": Reply.json({"code": 200, "data": {"description": ""}}),
            "/sse/chat": Reply(steps),
        }
    )


def text_of(path: str, reply: Call) -> str:
    """Return the text of a whole response."""
    if path == CHAT:
        return str(reply.document["choices"][0]["message"]["content"])
    return str(reply.document["output"][-1]["content"][0]["text"])


# -------------------------------------------------------------------------------------------------------------- Models


async def test_the_models() -> None:
    """The models are the agents."""
    reply = await request(site().service, "GET", "/v1/models")
    assert reply.document["object"] == "list"
    assert [model["id"] for model in reply.document["data"]] == [
        "trip_planner",
        "flight_agent",
        "hotel_agent",
        "review_agent",
    ]


async def test_a_model() -> None:
    """A model is an agent by its name."""
    reply = await request(site().service, "GET", "/v1/models/hotel_agent")
    assert reply.document == {
        "id": "hotel_agent",
        "object": "model",
        "created": 0,
        "owned_by": "oxygent",
        "description": "",
    }


@pytest.mark.parametrize("path", PATHS)
async def test_an_unknown_model(path: str) -> None:
    """An unknown model is OpenAI's own error, and nothing runs."""
    here = site()
    listed = await request(here.service, "GET", "/v1/models/gpt-5")
    asked = await here.ask(path, "echo", model="gpt-5")
    assert (listed.status, listed.document["error"]["code"]) == (404, "model_not_found")
    assert (asked.status, asked.document["error"]["code"]) == (404, "agent_not_found")
    assert here.toy.runs == []


# ------------------------------------------------------------------------------------------------------ Whole responses


async def test_a_chat_completion() -> None:
    """A chat completion has the answer as its content, and no usage, which is unknown."""
    here = site()
    reply = await here.ask(CHAT, "echo")
    trace_id = here.toy.runs[0].trace_id
    assert reply.document == {
        "id": f"chatcmpl-{trace_id}",
        "object": "chat.completion",
        "created": 1700000000,
        "model": "trip_planner",
        "choices": [
            {
                "index": 0,
                "message": {"role": "assistant", "content": "hello", "refusal": None},
                "logprobs": None,
                "finish_reason": "stop",
            }
        ],
        "usage": None,
    }
    assert reply.headers["x-request-id"] == trace_id


async def test_a_response() -> None:
    """A response has the answer as its only output item."""
    here = site()
    reply = await here.ask(RESPONSES, "echo", instructions="be brief")
    trace_id = here.toy.runs[0].trace_id
    shown = {name: reply.document[name] for name in ("id", "object", "created_at", "status", "instructions", "usage")}
    assert shown == {
        "id": f"resp_{trace_id}",
        "object": "response",
        "created_at": 1700000000,
        "status": "completed",
        "instructions": "be brief",
        "usage": None,
    }
    assert reply.document["output"] == [
        {
            "id": f"msg_{trace_id}",
            "type": "message",
            "role": "assistant",
            "status": "completed",
            "content": [{"type": "output_text", "text": "hello", "annotations": [], "logprobs": []}],
        }
    ]


@pytest.mark.parametrize("path", PATHS)
async def test_an_answer_that_is_no_text(path: str) -> None:
    """An answer that is not text is sent as JSON."""
    reply = await site().ask(path, "json")
    assert text_of(path, reply) == '{"sum": 42, "ö": null}'


async def test_the_reasoning() -> None:
    """Thoughts, and calls inside the remote, are sent on request."""
    lines = "hm\ntrip_planner calls search_flights: BER to LIS\ntrip_planner calls add_up\n"
    here = site(reasoning=True)
    chat = await here.ask(CHAT, "think")
    response = await here.ask(RESPONSES, "think")
    assert chat.document["choices"][0]["message"]["reasoning_content"] == lines
    assert response.document["output"][0]["summary"] == [{"type": "summary_text", "text": lines}]


@pytest.mark.parametrize("path", PATHS)
async def test_no_reasoning(path: str) -> None:
    """By default no reasoning is sent."""
    reply = await site().ask(path, "think")
    assert "search_flights" not in reply.text


@pytest.mark.parametrize("streamed", [False, True], ids=["whole", "streamed"])
async def test_a_credential_in_an_answer(streamed: bool) -> None:
    """Credentials of the gateway that the remote echoes are redacted."""
    secret = "s3cret-of-the-gateway"
    transport = of_one_agent(answer(f"you sent {secret}"), close())
    agent = SSEOxyGent(server_url=REMOTE, transport=transport, auth=BearerAuth(secret))
    service = create_app(agent)
    reply = await request(service, "POST", CHAT, {"model": "x", "stream": streamed, **MESSAGES})
    assert "you sent [scrubbed]" in reply.text
    assert secret not in reply.text


MESSAGES: Final = {"messages": [{"role": "user", "content": "hi"}]}

# ------------------------------------------------------------------------------------------------------------- Streams


def deltas(reply: Call) -> list[Any]:
    """Return the delta and the finish reason of each chunk with a choice."""
    chunks = [event for event in reply.events if event != "[DONE]" and event["choices"]]
    return [(chunk["choices"][0]["delta"], chunk["choices"][0]["finish_reason"]) for chunk in chunks]


async def test_a_streamed_chat_completion() -> None:
    """A streamed chat completion has the role, the reasoning, the content, the finish reason and `[DONE]`."""
    here = site(reasoning=True)
    reply = await here.ask(CHAT, "think", stream=True)
    assert reply.headers["content-type"] == "text/event-stream; charset=utf-8"
    assert reply.headers["x-request-id"] == here.toy.runs[0].trace_id
    assert deltas(reply) == [
        ({"role": "assistant", "content": ""}, None),
        ({"reasoning_content": "hm\n"}, None),
        ({"reasoning_content": "trip_planner calls search_flights: BER to LIS\n"}, None),
        ({"reasoning_content": "trip_planner calls add_up\n"}, None),
        ({"content": '{"sum": 42}'}, None),
        ({}, "stop"),
    ]
    assert {event["id"] for event in reply.events[:-1]} == {f"chatcmpl-{here.toy.runs[0].trace_id}"}
    assert reply.events[-1] == "[DONE]"
    assert reply.is_complete


def written(*pieces: str, output: str) -> FakeTransport:
    """A remote whose agent writes a preface, calls a tool, and then writes these pieces."""
    return of_one_agent(
        tool_call("x", caller="user", node_id="1"),
        delta("Let me look", agent="x", node_id="2"),
        delta(" that up.", agent="x", node_id="2"),
        tool_call("search", {"query": "Nara"}, caller="x"),
        *(delta(piece, agent="x", node_id="3") for piece in pieces),
        answer(output),
        close(),
    )


WRITTEN: Final[list[Any]] = [
    # the pieces after the preface, the output, the contents that are sent
    pytest.param(("Nara has", " deer."), "Nara has deer.", ["\n\nNara has", " deer."], id="as-written"),
    pytest.param(('{"tool_name": ', '"y"}'), "Nara", ["\n\nNara"], id="tool-call-as-json"),
    pytest.param((), "Let me look that up.", [], id="the-preface-is-the-answer"),
    pytest.param((), "Let me look that up. Deer.", [" Deer."], id="the-preface-begins-the-answer"),
]


@pytest.mark.parametrize(("pieces", "output", "sent"), WRITTEN)
@pytest.mark.parametrize("path", PATHS)
async def test_a_text_as_it_is_written(path: str, pieces: tuple[str, ...], output: str, sent: list[str]) -> None:
    """The prose of the agent at once; the answer after a blank line, if something else was sent before."""
    service = create_app(SSEOxyGent(server_url=REMOTE, transport=written(*pieces, output=output)))
    reply = await Site(service, ToyRemote()).ask(path, "hi", model="x", stream=True)
    if path == CHAT:
        found = [each["content"] for each, _ in deltas(reply) if each.get("content")]
    else:
        found = [event["delta"] for event in reply.events if event["type"] == "response.output_text.delta"]
        assert reply.events[-1]["response"]["output"][0]["content"][0]["text"] == "".join(found)
    assert found == ["Let me look", " that up.", *sent]


async def test_a_long_text() -> None:
    """Each piece of a long text is sent at once."""
    pieces = ["x" * 4096] * 200
    service = create_app(SSEOxyGent(server_url=REMOTE, transport=written(*pieces, output="".join(pieces))))
    reply = await Site(service, ToyRemote()).ask(CHAT, "hi", model="x", stream=True)
    contents = [each["content"] for each, _ in deltas(reply) if each.get("content")]
    assert "".join(contents) == "Let me look that up.\n\n" + "".join(pieces)
    assert len(contents) == 2 + len(pieces)


@pytest.mark.parametrize("count", [100, 400])
def test_the_work_for_a_text(count: int) -> None:
    """While a text grows, only its new pieces are looked at: the work for it is linear."""
    looked = list[int]()

    def text() -> str:
        looked.append(10 * count)
        return "x" * looked[-1]

    shown = _ShownText()
    sent = [shown.add(TextUpdate("x" * 10, text)) for _ in range(count)]
    assert sum(map(len, sent)) + sum(looked) == 10 * count
    assert shown.finish("x" * 10 * count) is None


async def test_an_empty_answer() -> None:
    """It is a text, too."""
    service = create_app(SSEOxyGent(server_url=REMOTE, transport=of_one_agent(answer(""), close())))
    reply = await Site(service, ToyRemote()).ask(RESPONSES, "hi", model="x", stream=True)
    assert reply.events[-1]["response"]["output"][0]["content"][0]["text"] == ""


@pytest.mark.parametrize(
    ("options", "count"), [({"include_usage": True}, 1), ({"include_usage": False}, 0), ({}, 0), (None, 0)]
)
async def test_the_usage_of_a_stream(options: Any, count: int) -> None:
    """The usage chunk is sent on request, with null."""
    reply = await site().ask(CHAT, "echo", stream=True, stream_options=options)
    last = [event for event in reply.events[:-1] if not event["choices"]]
    assert [chunk["usage"] for chunk in last] == [None] * count


async def test_a_streamed_response() -> None:
    """A streamed response has OpenAI's events in order, numbered, and at the end the whole response."""
    here = site(reasoning=True)
    reply = await here.ask(RESPONSES, "think", stream=True)
    whole = await here.ask(RESPONSES, "think")
    assert [event["type"].removeprefix("response.") for event in reply.events] == [
        *("created", "in_progress"),
        *("output_item.added", "reasoning_summary_part.added", *["reasoning_summary_text.delta"] * 3),
        *("reasoning_summary_text.done", "reasoning_summary_part.done", "output_item.done"),
        *("output_item.added", "content_part.added", "output_text.delta"),
        *("output_text.done", "content_part.done", "output_item.done", "completed"),
    ]
    assert [event["sequence_number"] for event in reply.events] == [*range(len(reply.events))]
    first, second = (run.trace_id for run in here.toy.runs)
    last = str(reply.events[-1]["response"]).replace(first, second)
    assert last == str(whole.document)


async def test_a_streamed_response_without_reasoning() -> None:
    """A streamed response without reasoning has one item."""
    reply = await site().ask(RESPONSES, "echo", stream=True)
    items = [event["output_index"] for event in reply.events if event["type"] == "response.output_item.added"]
    assert items == [0]
    assert [event["delta"] for event in reply.events if event["type"].endswith("text.delta")] == ["hello"]


# --------------------------------------------------------------------------------------------------------------- Turns


async def test_history_by_messages() -> None:
    """The earlier messages are the memory of the run, in the framework's format."""
    here = site()
    messages = [
        {"role": "developer", "content": "be brief"},
        {"role": "user", "content": [{"type": "text", "text": "one "}, {"type": "text", "text": "two"}]},
        {"role": "assistant", "content": "three"},
        {"role": "user", "content": "echo"},
    ]
    await request(here.service, "POST", CHAT, {"model": "trip_planner", "messages": messages})
    payload = here.toy.runs[0].payload
    assert payload["query"] == "echo"
    assert payload["short_memory"] == [
        {"role": "system", "content": "be brief"},
        {"role": "user", "content": "one two"},
        {"role": "assistant", "content": "three"},
    ]


async def test_history_by_items() -> None:
    """Items of an earlier response are accepted as memory, without its reasoning."""
    here = site()
    items: list[Any] = [
        {"role": "user", "content": "one"},
        {"type": "reasoning", "summary": []},
        {"type": "message", "role": "assistant", "content": [{"type": "output_text", "text": "two"}]},
        {"type": "message", "role": "user", "content": [{"type": "input_text", "text": "echo"}]},
    ]
    await request(here.service, "POST", RESPONSES, {"model": "trip_planner", "input": items, "instructions": "short"})
    assert [message["content"] for message in here.toy.runs[0].payload["short_memory"]] == ["short", "one", "two"]


async def test_a_first_turn_has_no_history() -> None:
    """A first turn sends no memory, so that the remote's own is not replaced by an empty one."""
    here = site()
    await here.ask(CHAT, "echo")
    assert "short_memory" not in here.toy.runs[0].payload


@pytest.mark.parametrize("path", PATHS)
async def test_memory_of_the_remote(path: str) -> None:
    """With a previous response the remote continues from its trace, and only the new query is sent."""
    here = site()
    first = (await here.ask(path, "echo")).document["id"]
    if path == CHAT:
        messages = [
            {"role": "system", "content": "short"},
            {"role": "user", "content": "old"},
            {"role": "user", "content": "new"},
        ]
        await here.ask(CHAT, "", messages=messages, headers={"x_previous_response_id": first})
    else:
        second = await here.ask(RESPONSES, "new", previous_response_id=first, instructions="short")
        assert second.document["previous_response_id"] == first
    before, after = here.toy.runs
    assert after.payload["from_trace_id"] == before.trace_id
    assert after.query == "short\n\nnew"
    assert "short_memory" not in after.payload


async def test_memory_in_a_cluster() -> None:
    """A request that names its previous response goes to the replica that has the memory."""
    toys = {f"https://{name}.test": ToyRemote(scripts=SCRIPTS) for name in "ab"}
    transport = ByServer({url: ASGITransport(toy) for url, toy in toys.items()})
    here = Site(create_app(SSEOxyGent(transport=Cluster([*toys], transport=transport))), ToyRemote())
    first = (await here.ask(RESPONSES, "echo")).document["id"]
    for _ in range(3):
        await here.ask(RESPONSES, "echo", previous_response_id=first)
    assert sorted(len(toy.runs) for toy in toys.values()) == [0, 4]


@pytest.mark.parametrize("given", ["resp_", "abc", "resp_\n", f"chatcmpl-{'x' * 201}"])
async def test_an_id_that_is_none(given: str) -> None:
    """An id that is not one of ours is unknown."""
    here = site()
    reply = await here.ask(RESPONSES, "echo", previous_response_id=given)
    assert (reply.status, reply.document["error"]["code"]) == (404, "previous_response_not_found")
    assert here.toy.runs == []


# ------------------------------------------------------------------------------------------------------------ Requests

USER: Final = {"role": "user", "content": "echo"}
REFUSED: Final[list[Any]] = [
    # path, members, the member in the error
    (CHAT, {"model": None}, "model"),
    (CHAT, {"model": ""}, "model"),
    (CHAT, {"model": 1}, "model"),
    (CHAT, {"stream": "yes"}, "stream"),
    (CHAT, {"n": 2}, "n"),
    (CHAT, {"tools": [{"type": "function"}]}, "tools"),
    (CHAT, {"response_format": {"type": "json_object"}}, "response_format"),
    (CHAT, {"logprobs": True}, "logprobs"),
    (CHAT, {"messages": None}, "messages"),
    (CHAT, {"messages": []}, "messages"),
    (CHAT, {"messages": ["echo"]}, "messages[0].role"),
    (CHAT, {"messages": [USER, {"role": "tool", "content": "5"}]}, "messages[1].role"),
    (CHAT, {"messages": [USER, {"role": "assistant", "content": "5"}]}, "messages"),
    (CHAT, {"messages": [{"role": "user", "content": None}]}, "messages[0].content"),
    (CHAT, {"messages": [{"role": "user", "content": ["echo"]}]}, "messages[0].content"),
    (CHAT, {"messages": [{"role": "user", "content": [{"type": "image_url"}]}]}, "messages[0].content"),
    (CHAT, {"messages": [{"role": "user", "content": [{"type": "text", "text": 5}]}]}, "messages[0].content"),
    (RESPONSES, {"input": None}, "input"),
    (RESPONSES, {"input": [{"type": "function_call_output", "output": "5"}]}, "input[0].role"),
    (RESPONSES, {"input": [{"type": "reasoning"}]}, "input"),
    (RESPONSES, {"instructions": ["x"]}, "instructions"),
    (RESPONSES, {"background": True}, "background"),
    (RESPONSES, {"text": {"format": {"type": "json_schema"}}}, "text"),
    (RESPONSES, {"tools": [{"type": "web_search"}]}, "tools"),
]


@pytest.mark.parametrize(("path", "members", "param"), REFUSED, ids=[f"{row[2]}-{n}" for n, row in enumerate(REFUSED)])
async def test_a_request_that_is_refused(path: str, members: dict[str, Any], param: str) -> None:
    """An invalid or unsupported request is refused with the member's name, and nothing runs."""
    here = site()
    reply = await here.ask(path, "echo", **members)
    assert (reply.status, reply.document["error"]["param"]) == (400, param)
    assert reply.document["error"]["type"] == "invalid_request_error"
    assert reply.headers["x-should-retry"] == "false"
    assert here.toy.runs == []


async def test_members_that_tune_a_model() -> None:
    """Sampling parameters are ignored."""
    tuned: dict[str, Any] = {
        "temperature": 0.1,
        "max_tokens": 5,
        "seed": 1,
        "user": "me",
        "n": 1,
        "tools": [],
        "stream": None,
    }
    reply = await site().ask(CHAT, "echo", **tuned)
    assert text_of(CHAT, reply) == "hello"


# -------------------------------------------------------------------------------------------------------------- Errors


@pytest.mark.parametrize("path", PATHS)
async def test_a_failing_agent(path: str) -> None:
    """A failed agent's text is the message; the status and a header show that a retry would run it again."""
    here = site()
    reply = await here.ask(path, "raise")
    assert reply.status == 424
    assert reply.headers["x-should-retry"] == "false"
    assert reply.document == {
        "error": {
            "message": "the remote agent failed: Error executing oxy trip_planner: scripted failure",
            "type": "server_error",
            "param": None,
            "code": "agent_failed",
            "outcome": "completed",
            "trace_id": here.toy.runs[0].trace_id,
        }
    }


async def test_a_remote_that_cannot_be_reached() -> None:
    """If the remote cannot be reached the client may retry, since nothing ran; the error names no server."""
    transport = FakeTransport(
        {"/get_organization": Reply(before=ConnectError("no connection to https://remote.test: refused"))}
    )
    service = create_app(SSEOxyGent(server_url=REMOTE, transport=transport))
    reply = await request(service, "POST", CHAT, {"model": "x", **MESSAGES})
    assert (reply.status, reply.headers["x-should-retry"]) == (503, "true")
    assert reply.document["error"]["outcome"] == "not_sent"
    assert "remote.test" not in reply.text


async def test_a_chat_completion_that_is_cut() -> None:
    """A cut chat completion ends with the error and without `[DONE]`."""
    reply = await site().ask(CHAT, "cut", stream=True)
    assert reply.status == 200
    assert reply.events[-1]["error"]["code"] == "cut"
    assert reply.events[-1]["error"]["outcome"] == "started"
    assert reply.is_complete


async def test_a_response_that_is_cut() -> None:
    """A cut response ends with OpenAI's error event, and one that makes its clients raise."""
    reply = await site().ask(RESPONSES, "cut", stream=True)
    failed, error = reply.events[-2:]
    assert (failed["type"], failed["response"]["status"]) == ("response.failed", "failed")
    assert failed["response"]["error"]["code"] == "server_error"
    assert (error["type"], error["error"]["code"]) == ("error", "cut")


async def test_a_token() -> None:
    """The token is the `api_key` of OpenAI's clients; its error has their format."""
    agent = SSEOxyGent(server_url=REMOTE, transport=ASGITransport(ToyRemote()))
    reply = await request(create_app(agent, token="t0ken"), "GET", "/v1/models", authorization="Bearer other")
    assert (reply.status, reply.document["error"]["type"]) == (401, "authentication_error")


async def test_too_many_runs() -> None:
    """With too many runs the client may retry, since nothing ran."""
    agent = SSEOxyGent(server_url=REMOTE, transport=ASGITransport(ToyRemote(scripts=SCRIPTS)))
    here = Site(create_app(agent, limits=ServeLimits(runs=1)), ToyRemote())
    async with anyio.create_task_group() as group:
        group.start_soon(here.ask, CHAT, "slow")
        await anyio.sleep(1)
        reply = await here.ask(CHAT, "echo")
        assert (reply.status, reply.document["error"]["type"]) == (429, "rate_limit_error")
        assert reply.headers["x-should-retry"] == "true"
        group.cancel_scope.cancel()


# --------------------------------------------------------------------------------------------------------------- Storm


async def test_many_calls_at_once() -> None:
    """Concurrent calls, streamed or not, each get their own answer."""
    toy = ToyRemote(scripts={}, default=Script([Pause(1)], output=Words.ALL))
    service = create_app(SSEOxyGent(server_url=REMOTE, transport=ASGITransport(toy)))
    answers: dict[str, str] = {}

    async def ask(number: int) -> None:
        query = f"question {number}"
        asked = {"model": "trip_planner", "messages": [{"role": "user", "content": query}], "stream": bool(number % 2)}
        reply = await request(service, "POST", CHAT, asked)
        if number % 2:
            answers[query] = "".join(delta.get("content", "") for delta, _ in deltas(reply))
        else:
            answers[query] = text_of(CHAT, reply)

    async with anyio.create_task_group() as group:
        for number in range(50):
            group.start_soon(ask, number)
    assert [query for query, text in answers.items() if query != text] == []
    assert len(toy.runs) == 50
