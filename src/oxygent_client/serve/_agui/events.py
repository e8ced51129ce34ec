"""Build the events of AG-UI from those of a run. No I/O.

Rule 1: everything that is opened is closed before the run finishes: messages, steps and sub-agents. A run that fails
    closes nothing, as the protocol has it.
Rule 2: the text messages are the answer's text only. A text that a model takes back is a message of its own, and so is
    the answer after it.
Rule 3: a call of an agent is a sub-agent, one of a model a step, and any other a tool call, which belongs to the
    nearest agent above it. For a client that does not know AG-UI 1.0, an agent is a step, too.
Rule 4: a tool call that got no output is answered by an empty text: an unanswered one would be for the client to do.
Rule 5: bounded: MOST_CALLS calls of a run, TEXT characters of arguments and outputs. A client sends all of it back with
    the next turn.

Source: https://docs.ag-ui.com/spec/1.0/events
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any, Final, Literal, cast

import attrs
from ag_ui.core import PROTOCOL_VERSION

from oxygent_client import Event, Observation, Run, TextUpdate, Thought, ToolCall, Trace
from oxygent_client.sanitize import strip_control_characters
from oxygent_client.serve import Failure, Outbound, text_of
from oxygent_client.serve._agui.requests import RunInput
from oxygent_client.telemetry import OpenCalls, is_failure_text

MOST_CALLS: Final = 200
"""More calls of one run are not reported."""
TEXT: Final = 4000
"""Characters of the arguments and of the output of a call."""
NAME: Final = 200
"""Characters of a name, and of the query of a sub-agent."""
KEY: Final = "oxygent"
"""The member of state and metadata that is this bridge's."""
AGENTS: Final = frozenset({"agent", "flow"})
Document = dict[str, Any]


def short(text: str, most: int = NAME) -> str:
    """Return a text of the remote as one bounded line without hidden characters."""
    shown = str(strip_control_characters(text[: most + 1])).replace("\n", " ")
    return shown if len(shown) <= most else f"{shown[: most - 1]}…"


def cut(text: str) -> str:
    """Return a text, bounded."""
    return text if len(text) <= TEXT else f"{text[: TEXT - 1]}…"


def event(kind: str, **members: Any) -> Document:
    """Return an event; members that are None are left out, since the protocol has no null for them."""
    return {"type": kind, **{name: value for name, value in members.items() if value is not None}}


@attrs.define(eq=False)
class _Call:
    """A call inside the remote."""

    kind: Literal["root", "agent", "model", "tool"]
    id: str
    name: str
    agent: _Call | None = None
    """The nearest agent above it; None for the agent of the run."""
    about: str = ""
    step: str = ""
    """The name of its step; empty for none."""

    @property
    def owner(self) -> str | None:
        """The id of the sub-agent whose call it is."""
        return None if self.agent is None else self.agent.id

    @property
    def within(self) -> str | None:
        """The id of the sub-agent in which its own calls are."""
        return self.id if self.kind == "agent" else self.owner


@attrs.define(eq=False)
class RunEvents:
    """The events of one run, which is more than one run of AG-UI if it is interrupted."""

    asked: RunInput
    """The input of the current run of AG-UI."""
    trace_id: str
    outbound: Outbound
    """Prepares values for the client. Events have passed its `event`."""
    reasoning: bool = False
    """Whether thoughts are sent."""
    _number: int = attrs.field(default=0, init=False)
    _calls: OpenCalls[_Call] = attrs.field(factory=OpenCalls[_Call], init=False)
    _reported: int = attrs.field(default=0, init=False)
    _steps: set[str] = attrs.field(factory=set[str], init=False)
    """The open steps."""
    _announced: set[str] = attrs.field(factory=set[str], init=False)
    """The sub-agents that were announced in the current run of AG-UI: only those may be named as parents."""
    _suspended: list[_Call] = attrs.field(factory=list[_Call], init=False)
    _message: str = attrs.field(default="", init=False)
    """The id of the message with the text so far; empty before the first."""
    _is_writing: bool = attrs.field(default=False, init=False)
    """Whether that message is open."""
    _shown: list[str] = attrs.field(factory=list[str], init=False)
    """The pieces of that message, as received."""

    # --- the beginning ---

    def begin(self) -> list[Document]:
        """Return the events with which a run of AG-UI begins; sub-agents that were suspended go on."""
        started = event(
            "RUN_STARTED",
            threadId=self.asked.thread_id,
            runId=self.asked.run_id,
            protocolVersion=PROTOCOL_VERSION if self.asked.is_current else None,
        )
        resumed, self._suspended = self._suspended, []
        self._announced.clear()
        return [started, self._state(), *(each for call in resumed for each in self._start_agent(call))]

    # --- calls ---

    def take(self, message: Event) -> list[Document]:
        """Return the events for a call, for its end, or for a thought; none for other events."""
        if isinstance(message, ToolCall):
            return self._call(message)
        if isinstance(message, Observation):
            return self._end(message)
        if isinstance(message, Thought) and self.reasoning and self.asked.is_current and message.text:
            return self._think(message)
        return []

    def _call(self, message: ToolCall) -> list[Document]:
        if self._reported >= MOST_CALLS:
            return []
        self._reported += 1
        before = self._calls.end(message.node_id)  # of the same id: its end will not be seen
        return [*(self._give_up(before) if before is not None else ()), *self._begin_call(message)]

    def _begin_call(self, message: ToolCall) -> list[Document]:
        above = self._calls.caller_of(message)
        name = short(self.outbound.value(message.callee))
        if "user" in (message.caller_category, message.caller_category or message.caller):
            self._calls.begin(message, _Call("root", "", name))
            return []
        category = message.callee_category
        kind: Any = "agent" if category in AGENTS else "model" if category == "llm" else "tool"
        agent = above if above is None or above.kind == "agent" else above.agent
        call = _Call(kind, self._new_id(), name, agent)
        self._calls.begin(message, call)
        if kind == "tool":
            return self._start_tool(call, self.outbound.value(message.arguments))
        if kind == "agent":
            call.about = short(text_of(self.outbound.value(message.arguments.get("query", ""))))
        if kind == "agent" and self.asked.is_current:
            return self._start_agent(call)
        return self._start_step(call)

    def _end(self, message: Observation) -> list[Document]:
        call = self._calls.end(message.node_id)
        if call is None or call.kind == "root":
            return []
        output = self.outbound.value(message.output)
        text = cut(text_of(output))
        if call.kind == "tool":
            return [self._tool_result(call, text)]
        if call.step:
            return self._end_step(call)
        if call.kind == "model":
            return []
        if is_failure_text(output):
            return [event("SUBAGENT_ERROR", subagentRunId=call.id, message=text, code="agent_failed")]
        return [event("SUBAGENT_FINISHED", subagentRunId=call.id, result=text)]

    def _give_up(self, call: _Call) -> list[Document]:
        """Return the events that close a call whose end was not seen."""
        if call.kind == "tool":
            return [self._tool_result(call, "")]
        if call.step:
            return self._end_step(call)
        if call.kind == "agent":
            return [event("SUBAGENT_ERROR", subagentRunId=call.id, message="its end was not seen", code="lost")]
        return []

    def _start_agent(self, call: _Call) -> list[Document]:
        self._announced.add(call.id)
        return [
            event(
                "SUBAGENT_STARTED",
                subagentRunId=call.id,
                name=call.name,
                description=call.about or None,
                parentSubagentRunId=call.owner if call.owner in self._announced else None,
            )
        ]

    def _start_tool(self, call: _Call, arguments: dict[str, Any]) -> list[Document]:
        owned = {"toolCallId": call.id, "subagentRunId": call.owner}
        return [
            event("TOOL_CALL_START", toolCallName=call.name, **owned),
            event("TOOL_CALL_ARGS", delta=cut(text_of(arguments)), **owned),
            event("TOOL_CALL_END", **owned),
        ]

    def _tool_result(self, call: _Call, text: str) -> Document:
        return event(
            "TOOL_CALL_RESULT",
            messageId=self._new_id(),
            toolCallId=call.id,
            content=text,
            role="tool",
            subagentRunId=call.owner,
        )

    def _start_step(self, call: _Call) -> list[Document]:
        call.step = call.name if call.name not in self._steps else f"{call.name} {call.id.rpartition('-')[2]}"
        self._steps.add(call.step)
        return [event("STEP_STARTED", stepName=call.step, subagentRunId=self._step_owner(call))]

    def _end_step(self, call: _Call) -> list[Document]:
        name, call.step = call.step, ""
        self._steps.discard(name)
        return [event("STEP_FINISHED", stepName=name, subagentRunId=self._step_owner(call))]

    def _step_owner(self, call: _Call) -> str | None:
        return call.owner if self.asked.is_current else None

    def _think(self, message: Thought) -> list[Document]:
        call = self._calls.subject_of(message)
        span = {"messageId": self._new_id(), "subagentRunId": None if call is None else call.within}
        return [
            event("REASONING_START", **span),
            event("REASONING_MESSAGE_START", role="reasoning", **span),
            event("REASONING_MESSAGE_CONTENT", delta=self.outbound.value(message.text), **span),
            event("REASONING_MESSAGE_END", **span),
            event("REASONING_END", **span),
        ]

    # --- the answer's text ---

    def write(self, update: TextUpdate) -> list[Document]:
        """Return the events for a change of the answer's text."""
        return self._write(update.delta, self.outbound.text(update.delta), is_new=update.is_reset)

    def _write(self, delta: str, sent: str, *, is_new: bool) -> list[Document]:
        events = self._end_message() if is_new else []
        if is_new or not self._message:
            self._message = self._new_id()
            self._shown = []
        if not self._is_writing:
            self._is_writing = True
            events.append(event("TEXT_MESSAGE_START", messageId=self._message, role="assistant"))
        if delta:
            self._shown.append(delta)
        if sent:
            events.append(event("TEXT_MESSAGE_CONTENT", messageId=self._message, delta=sent))
        return events

    def _write_rest(self, output: Any, cleaned: Any) -> list[Document]:
        """Return the events for the missing rest of the answer's text."""
        text, before = text_of(output), "".join(self._shown)
        if self._message and text == before:
            return []
        if before and text.startswith(before):
            rest = text[len(before) :]
            return self._write(rest, self.outbound.text(rest), is_new=False)
        return self._write(text, text_of(cleaned), is_new=bool(before))

    def _end_message(self) -> list[Document]:
        if not self._is_writing:
            return []
        self._is_writing = False
        return [event("TEXT_MESSAGE_END", messageId=self._message)]

    # --- the end ---

    def finish(self, run: Run) -> list[Document]:
        """Return the last events of a run with an answer."""
        output = run.response.output
        cleaned = self.outbound.output(output)
        ended: list[Document] = [*self._write_rest(output, cleaned), *self._end_message()]
        for call in self._calls:
            ended += self._give_up(call)
        return [*ended, self._state(run.trace()), self._finished({"type": "success"}, result=cleaned)]

    def interrupt(self, question: Event, interrupt_id: str, expires_at: str) -> list[Document]:
        """Return the last events of a run of AG-UI whose agent asks the user."""
        call = self._calls.subject_of(question)
        within = None if call is None else call.within
        ended = self._end_message()
        for each in self._calls:
            if each.step:
                ended += self._end_step(each)
            elif each.kind == "agent":
                self._suspended.append(each)
                own = {"interruptIds": [interrupt_id]} if each.id == within else {}
                outcome = {"type": "suspended", **own}
                ended.append(event("SUBAGENT_FINISHED", subagentRunId=each.id, outcome=outcome))
        interrupt = {
            "id": interrupt_id,
            "reason": "input_required",
            "message": cut(text_of(self.outbound.value(question.content))),
            "responseSchema": {"type": "string"},
            "expiresAt": expires_at,
            **({} if within is None else {"subagentRunId": within}),
        }
        return [*ended, self._finished({"type": "interrupt", "interrupts": [interrupt]})]

    def ask(self, question: Event) -> list[Document]:
        """Return the events for a question of an agent, for a client that does not know interrupts."""
        return [event("CUSTOM", name=f"{KEY}.feedback", value=cut(text_of(self.outbound.value(question.content))))]

    def fail(self, failure: Failure, run: Run | None = None) -> list[Document]:
        """Return the last events of a run that failed."""
        facts = {"outcome": str(failure.outcome), "retryable": failure.retryable, "trace_id": failure.trace_id}
        error = event("RUN_ERROR", message=failure.message, code=failure.code, metadata={KEY: facts})
        return [error] if run is None else [self._state(run.trace()), error]

    def _finished(self, outcome: Document, **more: Any) -> Document:
        ids = {"threadId": self.asked.thread_id, "runId": self.asked.run_id}
        return event("RUN_FINISHED", **ids, outcome=outcome, **more)

    def _state(self, trace: Trace | None = None) -> Document:
        """Return the client's own state, with the facts of the run in one member."""
        state = self.asked.state
        own = cast("Document", state) if isinstance(state, dict) else {}
        facts: Document = {"trace_id": self.trace_id}
        if trace is not None:
            shown = self.outbound.trace(attrs.evolve(trace, calls=trace.calls[:MOST_CALLS]))
            facts |= {"status": trace.status, "seconds": trace.seconds, "calls": _tree(shown)}
        return event("STATE_SNAPSHOT", snapshot={**own, KEY: facts})

    def _new_id(self) -> str:
        self._number += 1
        return f"{self.trace_id}-{self._number}"


def _tree(trace: Trace) -> list[Document]:
    """The calls of a run, each after its parent."""
    return [
        {
            "parent": call.parent,
            "name": short(call.name),
            "category": short(call.category),
            "status": call.status,
            "seconds": call.seconds,
        }
        for call in trace.calls
    ]


_ENCODE: Final = json.JSONEncoder(ensure_ascii=False, allow_nan=False).encode
"""As `json.dumps`, which makes an encoder for each call."""


def to_json(document: Document) -> str:
    """Return an event as JSON: NaN and infinite numbers become texts, since JSON has none."""
    try:
        return _ENCODE(document)
    except ValueError:
        return json.dumps(_finite(document), ensure_ascii=False)


def _finite(value: Any) -> Any:
    return json.loads(json.dumps(value), parse_constant=str)


def join(events: Sequence[Document]) -> str:
    """Return events as one piece of a stream."""
    return "\n\ndata: ".join(map(to_json, events))
