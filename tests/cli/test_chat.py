"""The command `chat`: turns, commands, questions of agents.

Rule: the reader is a script of lines; one test has a terminal with a user who presses keys. At real servers:
tests/interop/test_chat.py.
"""

from __future__ import annotations

import io
import sys
from contextlib import redirect_stderr, redirect_stdout
from typing import TYPE_CHECKING, Any, Final, cast

import anyio
import pytest
from attrs import define, field
from rich.console import Console

from oxygent_client import Answer, Custom, Event, SSEOxyGent, TraceCall
from oxygent_client.cli import main
from oxygent_client.cli._chat import _reader
from oxygent_client.cli._chat_session import ANSWER, COMMANDS, MORE, PROMPT, Chat, Question, question_of
from oxygent_client.cli._output import AnswerDisplay, LiveDisplay
from oxygent_client.testing import FakeTransport, Reply, ToyRemote, answer, close, message, serve
from oxygent_client.transports.asgi import ASGITransport
from tests.support.command_line import Ran, command, on_terminal

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from oxygent_client import Transport
    from oxygent_client.cli._output import Display

pytestmark = pytest.mark.seconds

GRANTED: Final = Reply.json({"code": 200, "message": "SUCCESS", "data": {}})
NO_CHANNEL: Final = Reply.json({"code": 400, "message": "illegal channel_id", "data": {}})
ASKS: Final = message({"type": "ask", "content": {"question": "go \x1b on?"}})
DONE: Final = (answer("42"), close())


@define
class Script:
    """A user: what is read line by line. An exception is raised, and EOFError comes after the last line."""

    lines: list[str | type[BaseException]]
    prompts: list[str] = field(factory=list[str])

    def __call__(self, prompt: str) -> str:
        """Return the next line."""
        self.prompts.append(prompt)
        text = self.lines.pop(0) if self.lines else EOFError
        if isinstance(text, str):
            return text
        raise text


@define
class Session:
    """A chat, and what it has shown."""

    user: Script
    chat: Chat
    code: int = 0
    answers: list[str] = field(factory=list[str])
    said: list[str] = field(factory=list[str])

    @property
    def notices(self) -> str:
        """All that was said beside the answers."""
        return "".join(self.said)


def session(transport: Transport, *lines: str | type[BaseException], **options: Any) -> Session:
    """Run a chat with this user to its end."""
    agent = SSEOxyGent(server_url="http://toy", transport=transport)
    user, answers, said = Script([*lines]), list[str](), list[str]()

    def display(query: str) -> Display:
        return AnswerDisplay(answers.append)

    given: dict[str, Any] = {"is_terminal": True, "make_display": display, **options}
    chat = Chat(agent, agent.conversation(), user, say=said.append, **given)
    code = chat.run()
    return Session(user, chat, code, answers, said)


def toy() -> ASGITransport:
    """A remote that remembers its turns."""
    return ASGITransport(ToyRemote(pace=0))


# --- turns ------------------------------------------------------------------------------------------------------------


def test_turns() -> None:
    """Each turn has the memory of those before, empty lines are none, and the end of the input is the end."""
    run = session(toy(), "", "  ", "echo my name is Ada", "memory")
    assert run.answers == ["my name is Ada\n", '["echo my name is Ada", "memory"]\n']
    assert run.code == 0
    assert {*run.user.prompts} == {PROMPT}


LEAVING: Final[list[Any]] = [
    pytest.param("/quit", id="quit"),
    pytest.param(EOFError, id="the end of the input"),
    pytest.param(KeyboardInterrupt, id="Ctrl-C at the prompt"),
]


@pytest.mark.parametrize("last", LEAVING)
def test_leaving(last: str | type[BaseException]) -> None:
    """The chat ends, and reads no more."""
    run = session(toy(), last, "echo one")
    assert run.code == 0
    assert run.answers == []


@pytest.mark.parametrize(("is_terminal", "code"), [(True, 0), (False, 7)], ids=["terminal", "pipe"])
def test_a_turn_that_fails(is_terminal: bool, code: int) -> None:
    """A failed turn is one line, and not part of the conversation; without a terminal it is the exit code."""
    run = session(toy(), "echo one", "fail", "cut", "memory", is_terminal=is_terminal)
    assert run.code == code
    assert run.answers == ["one\n", '["echo one", "memory"]\n']
    assert "the agent gave up" in run.notices


def interrupted(error: type[BaseException]) -> Callable[[str], Display]:
    """Return a maker of displays that raise an exception at the first event."""

    class Interrupted(AnswerDisplay):
        def see(self, event: Event, at: float, call: TraceCall | None = None) -> None:
            raise error

    return lambda _: Interrupted(len)


def test_ctrl_c_in_a_turn() -> None:
    """The remote run is cancelled, and the chat goes on."""
    remote = ToyRemote(pace=0)
    run = session(ASGITransport(remote), "hang", "/history", make_display=interrupted(KeyboardInterrupt))
    assert [each.state for each in remote.runs] == ["cancelled"]
    assert "stopped" in run.notices
    assert len(run.user.prompts) == 3


def test_ctrl_c_in_a_command() -> None:
    """Ctrl-C ends a command that takes long, and the chat goes on."""

    async def interrupt() -> None:
        raise KeyboardInterrupt

    remote = FakeTransport({"/sse/chat": [Reply(DONE)] * 2, "/rating": Reply(before=interrupt)})
    run = session(remote, "one", "/rate like", "two", "/history")
    assert run.answers == ["42\n", "42\n"]
    assert "stopped\n" in run.said
    assert "  2  two\n" in run.said


def test_ctrl_c_without_a_terminal() -> None:
    """Without a terminal, Ctrl-C ends the chat as it ends any program."""
    with pytest.raises(KeyboardInterrupt):
        session(toy(), "hang", "echo one", make_display=interrupted(KeyboardInterrupt), is_terminal=False)


# --- commands ---------------------------------------------------------------------------------------------------------


TREE: Final = '✓ trip_planner(query="echo one")'
DIALOGS: Final[list[Any]] = [
    # the lines, a text that is said
    pytest.param(["/tree"], "no turn yet", id="no tree"),
    pytest.param(["echo one", "/tree"], TREE, id="tree"),
    pytest.param(["fail", "/tree"], "! the agent gave up", id="tree of a failed turn"),
    pytest.param(["echo one", "echo two", "/history"], "  1  echo one\n  2  echo two\n", id="history"),
    pytest.param(["/retry"], "no turn yet", id="nothing to retry"),
    pytest.param(["/branch 1"], "from 0 to 0", id="no such turn"),
    pytest.param(["echo one", "/branch x"], "from 0 to 1", id="no number"),
    pytest.param(["/nothing\x1b"], r"no command /nothing\x1b", id="no such command"),
    pytest.param(["/rate like"], "needs an answer", id="no answer to rate"),
    pytest.param(["echo one", "/rate good"], "like or dislike", id="no such rating"),
    pytest.param(["echo one", "/rate like " + "x" * 501], "comment", id="an error of the library"),
    pytest.param(["/save"], "cannot write", id="no file to save to"),
    pytest.param(["/save \0"], "cannot write", id="a name that no file has"),
]


@pytest.mark.parametrize(("lines", "said"), DIALOGS)
def test_commands(lines: list[str], said: str) -> None:
    """A command says what it did, or why it did nothing."""
    assert said in session(toy(), *lines).notices


def test_help() -> None:
    """Each command is a line of the help."""
    assert [each.split()[0] for each in session(toy(), "/help").said[:-1]] == [*COMMANDS]


def test_a_query_with_a_slash() -> None:
    """Two slashes begin a query that begins with one."""
    remote = ToyRemote(pace=0)
    session(ASGITransport(remote), "//help")
    assert [each.query for each in remote.runs] == ["/help"]


PASTS: Final[list[Any]] = [
    # the lines, the queries of the conversation in the last answer
    pytest.param(["echo one", "memory", "/retry"], ["echo one", "memory"], id="retry"),
    pytest.param(["memory", "/retry"], ["memory"], id="retry of the first turn"),
    pytest.param(["echo one", "fail", "/retry", "memory"], ["echo one", "memory"], id="retry of a failed turn"),
    pytest.param(["echo one", "echo two", "/branch 1", "memory"], ["echo one", "memory"], id="branch"),
    pytest.param(["echo one", "/branch 0", "memory"], ["memory"], id="a new beginning"),
    pytest.param(["echo one", "echo two", "memory", "/branch 1", "/retry"], ["echo one", "memory"], id="both"),
]


@pytest.mark.parametrize(("lines", "queries"), PASTS)
def test_the_past_of_a_turn(lines: list[str], queries: list[str]) -> None:
    """A turn that is run again, or branches off, has the memory of the turns before it alone."""
    assert session(toy(), *lines).answers[-1] == f"{queries}\n".replace("'", '"')


def test_rate() -> None:
    """A rating with its comment is sent for the last answer."""
    remote = ToyRemote(pace=0)
    session(ASGITransport(remote), "echo one", "/rate like well done")
    rating = remote.ratings[-1]
    assert rating["trace_id"] == remote.runs[-1].trace_id
    assert rating["rating_type"] == "like"
    assert rating["comment"] == "well done"


def test_save(tmp_path: Path) -> None:
    """A saved conversation replaces an earlier one, readable by this user alone; any other file is kept."""
    path, other = tmp_path / "chat", tmp_path / "notes"
    other.write_text("precious")
    run = session(toy(), "echo one", f"/save {path}", f"/save {path}", f"/save {other}")
    assert path.read_text().strip() == run.chat.conversation.to_token()
    assert path.stat().st_mode & 0o777 == 0o600
    assert other.read_text() == "precious"
    assert "no saved chat" in run.notices


# --- questions --------------------------------------------------------------------------------------------------------


def custom(name: str | None, content: Any) -> Event:
    """Return an event."""
    return Custom(name, content, {"type": name, "content": content})


QUESTIONS: Final[list[Any]] = [
    # the event, the question in it
    pytest.param(custom("ask", "go on?"), Question("", "go on?"), id="text"),
    pytest.param(custom("feedback", {"message": "go on?"}), Question("", "go on?"), id="message"),
    pytest.param(custom("ask", {"channel_id": "c", "question": "ok?"}), Question("c", "ok?"), id="channel"),
    pytest.param(custom("any", {"channel_id": "c"}), Question("c", ""), id="a channel of any type"),
    pytest.param(custom("ask", {"channel_id": 1, "question": 2}), Question("", ""), id="other types"),
    pytest.param(custom("any", {"question": "go on?"}), None, id="another type"),
    pytest.param(Answer("answer", {"channel_id": "c"}, {}), None, id="the answer"),
]


@pytest.mark.parametrize(("event", "question"), QUESTIONS)
def test_what_is_a_question(event: Event, question: Question | None) -> None:
    """The type of an event, or the channel in it, tells that an agent asks."""
    assert question_of(event) == question


def asking(*steps: Any, feedback: Any = GRANTED) -> FakeTransport:
    """Return a remote whose agent does this."""
    return FakeTransport({"/sse/chat": Reply(steps), "/feedback": feedback})


def heard(remote: FakeTransport) -> list[Any]:
    """Return what was sent as feedback."""
    return [each["data"] for each in remote.payloads if "channel_id" in each]


def test_an_answer() -> None:
    """The question is shown without control characters, the answer is sent, and the run goes on."""
    remote = asking(ASKS, *DONE)
    run = session(remote, "go", "yes")
    assert heard(remote) == ["yes"]
    assert run.said[0] == "the agent asks: go \\x1b on?\n"
    assert run.user.prompts[:2] == [PROMPT, ANSWER]
    assert run.answers == ["42\n"]


def test_the_channel_of_an_answer() -> None:
    """The channel is the one in the event, else the run's own."""
    named = message({"type": "any", "content": {"channel_id": "booking"}})
    remote = asking(ASKS, named, *DONE)
    session(remote, "go", "one", "two")
    run, *answers = remote.payloads
    assert [each["channel_id"] for each in answers] == [run["current_trace_id"], "booking"]


def test_a_type_of_the_user() -> None:
    """A type can be named that asks, too."""
    remote = asking(message({"type": "approve", "content": "ok?"}), *DONE)
    session(remote, "go", "yes", ask_types=frozenset({"approve"}))
    assert heard(remote) == ["yes"]


def test_more_than_one_answer() -> None:
    """While the agent says nothing, it may wait for more: an empty line, or the end of the input, is the end."""
    silent: FakeTransport = asking(ASKS, lambda: until_heard(silent, 3), *DONE)
    run = session(silent, "go", "one", "two")
    assert heard(silent) == ["one", "two", ""]
    assert run.user.prompts[1:4] == [ANSWER, MORE, MORE]


async def until_heard(remote: FakeTransport, count: int) -> None:
    """Wait until so much feedback was sent."""
    while len(heard(remote)) < count:  # noqa: ASYNC110  (the transport has no event for it)
        await anyio.sleep(0.01)


def test_a_quiet_agent() -> None:
    """An agent that says nothing for a while, and has not asked, gets no answer."""
    run = session(asking(lambda: anyio.sleep(1.2), *DONE), "go")
    assert run.answers == ["42\n"]
    assert run.user.prompts == [PROMPT, PROMPT]


def test_answers_of_a_pipe() -> None:
    """Without a terminal the lines up to an empty one are the answer."""
    remote = asking(ASKS, *DONE)
    run = session(remote, "go", "one", "two", "", is_terminal=False)
    assert heard(remote) == ["one", "two", ""]
    assert run.said[:3] == ["the agent asks: go \\x1b on?\n", "", ""]


def test_a_channel_that_opens_late() -> None:
    """An answer waits for its channel."""
    remote = asking(ASKS, *DONE, feedback=[NO_CHANNEL, GRANTED])
    run = session(remote, "go", "yes")
    assert heard(remote) == ["yes", "yes"]
    assert run.answers == ["42\n"]


def test_an_answer_that_comes_too_late() -> None:
    """An answer that no agent waits for is a line, and the run goes on."""
    remote = asking(ASKS, *DONE, feedback=NO_CHANNEL)
    run = session(remote, "go", "yes", channel_seconds=0)
    assert "no agent waits" in run.notices
    assert run.answers == ["42\n"]


def test_ctrl_c_at_a_question() -> None:
    """Ctrl-C at a question cancels the run, and keeps the chat."""
    remote = asking(ASKS, *DONE)
    run = session(remote, "go", KeyboardInterrupt, "/history")
    assert "stopped" in run.notices
    assert heard(remote) == []
    assert run.answers == []


def test_the_live_view_at_a_question() -> None:
    """The live view is off the terminal while a line is read, and the answer alone stays at the end."""
    out = io.StringIO()

    def display(query: str) -> Display:
        return LiveDisplay(Console(file=out, width=60, height=20, force_terminal=True), query, is_turn=True)

    run = session(asking(ASKS, *DONE), "go", "yes", make_display=display)
    moving, _, staying = out.getvalue().rpartition("\x1b[?25h")
    assert moving.count("\x1b[?25h") == 1
    assert "\x1b[1A" not in moving.split("\x1b[?25l")[2].partition("\n")[0]  # what was read is not erased
    assert "▌" not in staying
    assert "42" in staying
    assert run.said[0].startswith("the agent asks")


# --- the command ------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def remote() -> ToyRemote:
    """A remote with a welcome message."""
    return ToyRemote(pace=0, welcome_message="Hello \x1b!", first_query=["Plan a trip"])


@pytest.fixture(scope="module")
def url(remote: ToyRemote) -> Iterator[str]:
    """Its URL."""
    with serve(remote) as at:
        yield at


def piped(text: str, *argv: str, monkeypatch: pytest.MonkeyPatch) -> Ran:
    """Run the command with a pipe as stdin."""
    monkeypatch.setattr(sys, "stdin", io.StringIO(text))
    return command("chat", *argv)


def test_a_pipe(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each line of a pipe is a turn, and stdout has the answers alone."""
    ran = piped("echo one\nmemory", url, monkeypatch=monkeypatch)
    assert ran == Ran(0, 'one\n["echo one", "memory"]\n', "")


def test_a_pipe_without_a_server(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a server each turn fails, and the exit code tells why."""
    ran = piped("echo one\n/tree\n", "http://127.0.0.1:1", monkeypatch=monkeypatch)
    assert ran.code == 3
    assert ran.err.endswith("no turn yet\n")


def test_resume(url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A saved chat goes on, with its turns."""
    path = tmp_path / "chat"
    piped(f"echo one\n/save {path}\n", url, monkeypatch=monkeypatch)
    ran = piped("/history\nmemory\n", url, "--resume", str(path), monkeypatch=monkeypatch)
    assert ran.out == '["echo one", "memory"]\n'
    assert ran.err.startswith("1 turns so far")
    assert "  1  echo one" in ran.err


@pytest.mark.parametrize("content", [None, "not a token"], ids=["no file", "no token"])
def test_resume_without_a_chat(url: str, tmp_path: Path, content: str | None) -> None:
    """A file that is no saved chat is an error."""
    path = tmp_path / "chat"
    if content is not None:
        path.write_text(content)
    ran = command("chat", url, "--resume", str(path))
    assert ran.code == 2
    assert "Traceback" not in ran.err


class TerminalInput(io.StringIO):
    """A stdin that is a terminal."""

    def isatty(self) -> bool:
        """Return True."""
        return True


def test_a_terminal_whose_output_goes_to_a_file(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The welcome message, the first queries and the prompt go to stderr, safe to show; stdout has the answer."""
    monkeypatch.setattr(sys, "stdin", TerminalInput("echo one\n"))
    ran = command("chat", url)
    assert ran.out == "one\n"
    assert ran.err.splitlines() == ["Hello \\x1b!", "  Plan a trip", ran.err.splitlines()[2], f"{PROMPT}{PROMPT}"]


def test_a_terminal(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """On a terminal the live view is shown, and lines are read with the line editing of Python."""
    out = TerminalInput()
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setattr(sys, "stdin", TerminalInput("echo one\n"))
    with redirect_stdout(out), redirect_stderr(io.StringIO()):
        assert _reader() is input
        code = main(["chat", url])
    assert code == 0
    assert "▌" in out.getvalue()
    assert "╮" in out.getvalue()


def test_no_server(monkeypatch: pytest.MonkeyPatch) -> None:
    """On a terminal a server that does not answer is an error before the first prompt."""
    monkeypatch.setattr(sys, "stdin", TerminalInput("echo one\n"))
    ran = command("chat", "http://127.0.0.1:1")
    assert ran.code == 3
    assert PROMPT not in ran.err


def test_a_user_at_a_terminal(url: str, remote: ToyRemote) -> None:
    """Memory; Ctrl-C that cancels the remote run and keeps the chat; Ctrl-C at the prompt, which leaves."""
    with on_terminal("chat", url) as terminal:
        terminal.read_until(PROMPT)
        terminal.press("echo my name is Ada\r")
        terminal.read_until("trace")
        terminal.read_until(PROMPT)
        terminal.press("hang\r")
        terminal.read_until("trip_planner")
        terminal.press("\x03")
        terminal.read_until("stopped")
        terminal.read_until(PROMPT)
        terminal.press("memory\r")
        terminal.read_until("trace")
        terminal.read_until(PROMPT)
        code = terminal.leave_prompt()
    first, second, third = remote.runs[-3:]
    assert code == 0
    assert [each.state for each in (first, second, third)] == ["finished", "cancelled", "finished"]
    assert third.turns == [first.query]
    assert "Hello \\x1b!" in terminal.text
    assert "Traceback" not in terminal.text


def test_ratings_are_those_of_the_library() -> None:
    """The library takes the ratings that the chat takes."""
    remote = ToyRemote(pace=0)
    session(ASGITransport(remote), "echo one", "/rate like", "/rate dislike")
    assert [cast("str", each["rating_type"]) for each in remote.ratings] == ["like", "dislike"]
