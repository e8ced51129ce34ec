"""A run's answer as text: deltas while it is written, updates, and the text so far.

Rule 1: every run is scripted and time is virtual, so the time of each delta is exact.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import anyio
import pytest

from oxygent_client import AgentText, SSEOxyGent, TextUpdate, errors
from oxygent_client.testing import FakeTransport, answer, close, message, pause
from tests.support.plain import plain
from tests.support.virtual import anyio_backend as anyio_backend

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from oxygent_client import Run
    from oxygent_client.testing import Step

CHOICE: Final = '{"tool_name": "add_tool", "arguments": {}}'


def call(node: str, *stack: str, category: str = "agent") -> Step:
    """Return a call, with the names from the user down to the callee."""
    content = {
        "node_id": node,
        "caller": stack[-2],
        "callee": stack[-1],
        "caller_category": "user" if len(stack) == 2 else "agent",
        "callee_category": category,
        "call_stack": [*stack],
    }
    return message({"type": "tool_call", "content": content})


def piece(node: str, agent: str, text: str) -> Step:
    """Return a text delta."""
    return message({"type": "stream", "content": {"delta": text, "node_id": node, "agent": agent}})


ROOT: Final = call("r", "user", "master")
MODEL: Final = call("m", "user", "master", "model", category="llm")
AGAIN: Final = call("n", "user", "master", "model", category="llm")
VERSE: Final = call("v", "user", "master", "poet", "model", category="llm")
SUM: Final = (ROOT, MODEL, piece("m", "master", "Forty"), pause(1), piece("m", "master", "-two."))
REACT: Final = (
    ROOT,
    MODEL,
    piece("m", "master", "Let me add. "),
    piece("m", "master", CHOICE),
    piece("v", "poet", "Roses"),
    AGAIN,
    piece("n", "master", "42"),
)


def stream(*steps: Step, **options: Any) -> Run:
    """Return a run with this script."""
    return plain(server_url="https://remote.test", transport=FakeTransport.script(*steps), **options).stream("hi")


async def timed(run: Run) -> list[tuple[float, str]]:
    """Return the deltas of a run's answer, each with its second."""
    began = anyio.current_time()
    async with run:
        return [(anyio.current_time() - began, text) async for text in run.text_stream]


@pytest.mark.parametrize(
    ("steps", "pieces"),
    [
        pytest.param((*SUM, answer("Forty-two."), close()), [(0, "Forty"), (1, "-two.")], id="live"),
        pytest.param(
            (*SUM, pause(1), answer("Forty-two. Ok"), close()), [(0, "Forty"), (1, "-two."), (2, " Ok")], id="more"
        ),
        pytest.param((ROOT, pause(1), answer({"sum": 42}), close()), [(1, "{'sum': 42}")], id="no text, and an object"),
        pytest.param((ROOT, answer(""), close()), [], id="an empty answer"),
        pytest.param(
            (*REACT, answer("42"), close()), [(0, "Let me add."), (0, "\n\n42")], id="a preface, and another agent"
        ),
    ],
)
async def test_the_pieces_of_an_answer(steps: tuple[Step, ...], pieces: list[tuple[float, str]]) -> None:
    """Deltas are shown when they are received; the missing rest of the answer follows at the end."""
    assert await timed(stream(*steps)) == pieces


@pytest.mark.parametrize(
    ("hold", "updates"),
    [
        pytest.param(
            "shape", [TextUpdate("Let me add.", "Let me add."), TextUpdate("42", "42", is_reset=True)], id="shape"
        ),
        pytest.param("step", [TextUpdate("42", "42")], id="step"),
    ],
)
async def test_the_updates_of_an_answer(hold: Any, updates: list[TextUpdate]) -> None:
    """With `shape` prefaces are shown and replaced; with `steps` no text is shown that must be replaced."""
    async with stream(*REACT, answer("42"), close()) as run:
        assert [update async for update in run.text_updates(hold=hold)] == updates


async def test_updates_beside_the_events() -> None:
    """A program that reads the events itself takes what they have changed."""
    async with stream(*SUM, answer("Forty-two."), close()) as run:
        updates = run.text_updates()
        taken = [updates.take() async for _ in run]
    assert [update.delta for update in taken if update is not None] == ["Forty", "-two."]


async def test_an_unknown_hold() -> None:
    """An invalid `hold` raises an error with its name."""
    async with stream(answer("42"), close()) as run:
        with pytest.raises(errors.ConfigurationError, match="hold"):
            run.text_updates(hold="word")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]


async def test_a_second_iterator() -> None:
    """A second iterator begins with the text so far."""
    async with stream(*SUM, answer("Forty-two."), close()) as run:
        async for text in run.text_stream:
            assert text == "Forty"
            break
        assert [text async for text in run.text_stream] == ["Forty", "-two."]


@pytest.mark.parametrize("hold", ["shape", "step"])
async def test_an_iterator_after_the_end(hold: Any) -> None:
    """After the events were read the text is still available."""
    async with stream(*REACT, answer("42"), close()) as run:
        await run.final_response()
        assert [update.text async for update in run.text_updates(hold=hold)][-1] == "42"


async def test_the_end_is_the_end() -> None:
    """An exhausted iterator stays so, and the response is available."""
    async with stream(*SUM, answer("Forty-two."), close()) as run:
        pieces = run.text_stream
        assert [text async for text in pieces] == ["Forty", "-two."]
        assert [text async for text in pieces] == []
        assert run.response.output == "Forty-two."


async def test_a_run_that_fails() -> None:
    """The error of a run is raised after the deltas, and the text so far is kept."""
    shown: list[str] = []

    async def show(pieces: AsyncIterator[str]) -> None:
        async for text in pieces:
            shown.append(text)  # noqa: PERF401  (those before the error count)

    async with stream(*SUM) as run:
        with pytest.raises(errors.IncompleteStreamError):
            await show(run.text_stream)
    assert shown == ["Forty", "-two."]
    assert run.text == "Forty-two."


async def test_a_failure_text_is_not_shown() -> None:
    """An answer that is a failure raises an error, and none of its text is shown."""
    async with stream(ROOT, answer("oops"), close(), failure_detector="oops".__eq__) as run:
        with pytest.raises(errors.RemoteAgentError):
            await anext(run.text_stream)
    assert run.text == ""


async def test_the_text_so_far() -> None:
    """Between two events it is the known part of the answer, at the end the answer."""
    async with stream(*REACT, answer("42!"), close()) as run:
        assert [run.text async for _ in run] == [
            "",
            "",
            "Let me add.",
            "Let me add.",
            "Let me add.",
            "Let me add.",
            "42",
            "42",
        ]
    assert run.text == "42!"


async def test_the_text_of_an_answer_that_is_no_text() -> None:
    """The text of an answer that is not a str is its `str`."""
    async with stream(ROOT, answer([1, None]), close()) as run:
        await run.final_response()
    assert run.text == "[1, None]"


async def test_all_texts() -> None:
    """The texts of all agents and models are available by call and agent."""
    async with stream(*REACT, answer("42"), close()) as run:
        await run.final_response()
    assert run.texts == (
        AgentText("master", "m", f"Let me add. {CHOICE}"),
        AgentText("poet", "v", "Roses"),
        AgentText("master", "n", "42"),
    )


async def test_the_hooks_run() -> None:
    """Handlers are called and messages forwarded while the text is read."""
    seen: list[Any] = []

    async def handle(content: Any) -> None:
        seen.append(content["delta"])

    agent = SSEOxyGent(
        "https://remote.test",
        transport=FakeTransport.script(*SUM, answer("Forty-two."), close()),
        event_handlers={"stream": handle},
    )
    async with agent.stream("hi") as run:
        assert [text async for text in run.text_stream] == ["Forty", "-two."]
    assert seen == ["Forty", "-two."]
