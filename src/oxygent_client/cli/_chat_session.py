"""A chat: lines are turns of a conversation, commands, or answers to an agent that asks.

Rule 1: a line is a turn, or a command that begins with `/`. Lines are read between turns, and when an agent asks for
    feedback; at other times nothing reads stdin.
Rule 2: Ctrl-C cancels the remote run of a turn, or ends a command, and keeps the conversation; at the prompt it leaves.
Rule 3: each turn has an event loop of its own: a conversation is ids only, and input blocks no loop.
Rule 4: OxyGent has no event for a question to the user. An event is one if its type is in ASKING or named by
    `--ask-type`, or if its content has a `channel_id`.
"""

from __future__ import annotations

import os
import signal
from collections.abc import AsyncGenerator, Callable, Generator, Mapping
from contextlib import asynccontextmanager, contextmanager, nullcontext
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, cast

from attrs import define, field, frozen

from oxygent_client import Custom, errors
from oxygent_client.cli._error_advice import advice_for
from oxygent_client.cli._exit_codes import error_line
from oxygent_client.cli._terminal_text import block, line
from oxygent_client.sanitize import without_credentials

if TYPE_CHECKING:
    from oxygent_client import Conversation, Event, Heartbeat, Run, SSEOxyGent
    from oxygent_client.cli._output import Display

PROMPT: Final = "you> "
ANSWER: Final = "answer> "
MORE: Final = "more (Enter ends)> "
ASKING: Final = frozenset({"ask", "feedback"})
"""Types of events with which an agent asks the user."""
RATINGS: Final = ("like", "dislike")
SAVED: Final = "oxychat1."
"""How a saved conversation begins: it is a token of the library."""


# --- questions of an agent --------------------------------------------------------------------------------------------


@frozen
class Question:
    """A question of an agent to the user: the channel of the answer, empty for that of the run, and the text."""

    channel: str
    text: str


def question_of(event: Event, types: frozenset[str] = ASKING) -> Question | None:
    """Return the question in an event; None if it is none."""
    fields = cast("dict[str, Any]", event.content) if isinstance(event.content, dict) else {}
    channel = fields.get("channel_id")
    channel = channel if isinstance(channel, str) else ""
    if not isinstance(event, Custom) or (event.type not in types and not channel):
        return None
    texts: list[Any] = [*(fields.get(name) for name in ("question", "message", "text")), cast("Any", event.content)]
    return Question(channel, next((each for each in texts if isinstance(each, str)), ""))


@contextmanager
def _ctrl_c_at_once() -> Generator[None]:
    """Let Ctrl-C raise KeyboardInterrupt: the handler of an event loop would wait until a line has been read."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


# --- the conversation -------------------------------------------------------------------------------------------------


@define
class Chat:
    """Reads lines, runs turns and commands. `read` returns a line, or raises EOFError after the last one."""

    agent: SSEOxyGent
    conversation: Conversation
    read: Callable[[str], str]
    make_display: Callable[[str], Display]
    say: Callable[[str], object]
    is_terminal: bool
    ask_types: frozenset[str] = ASKING
    channel_seconds: float = 3.0
    """How long an answer waits for its channel: agents open it after they have asked."""
    code: int = 0
    """The exit code of the first turn that failed."""
    _query: str = field(init=False, default="")
    _before: int = field(init=False, default=0)
    """The number of turns before the last one."""
    _run: Run | None = field(init=False, default=None)
    _display: Display | None = field(init=False, default=None)
    _question: Question | None = field(init=False, default=None)
    """The question whose answer may have more parts."""

    def run(self) -> int:
        """Read lines until the last one, and return the exit code: without a terminal, that of failed turns."""
        while True:
            try:
                text = self.read(PROMPT).strip()
            except (EOFError, KeyboardInterrupt):
                self.say("\n" if self.is_terminal else "")
                break
            if text == "/quit":
                break
            if text.startswith("/") and not text.startswith("//"):
                self._command(text)
            elif text:
                self._turn(text.removeprefix("/"))
        return 0 if self.is_terminal else self.code

    # --- a turn ---

    def _turn(self, query: str) -> None:
        import anyio

        from oxygent_client.cli._ask import show_run

        self._query, self._before = query, len(self.conversation.history)
        self._run = self._question = None
        self._display = self.make_display(query)
        turn = partial(show_run, self.agent, self._stream, self._display, note=self._note)
        self._try(lambda: anyio.run(turn), "stopped; the remote run is cancelled\n")

    def _try(self, work: Callable[[], object], stopped: str = "stopped\n") -> None:
        """Run `work`, and say its error; on a terminal Ctrl-C ends the work alone."""
        try:
            work()
        except KeyboardInterrupt:
            if not self.is_terminal:
                raise
            self.say(stopped)
        except errors.OxyError as error:
            advice = advice_for(error)
            self.code = self.code or advice.code
            self.say(error_line(str(error), advice.text.replace("COMMAND", "chat")))

    @asynccontextmanager
    async def _stream(self) -> AsyncGenerator[Run]:
        async with self.conversation.stream(self._query) as run:
            self._run = run
            yield run

    # --- feedback ---

    async def _note(self, event: Event | Heartbeat, run: Run) -> None:
        """Take an event, or a heartbeat after a second without one: the agent may wait for more."""
        from oxygent_client import Event

        if isinstance(event, Event):
            self._question = question_of(event, self.ask_types)
            if self._question is not None:
                text = without_credentials(run.sent)(self._question.text)
                await self._answer(run, f"the agent asks: {block(text).strip()}\n", ANSWER)
        elif self._question is not None:
            await self._answer(run, "", MORE)

    async def _answer(self, run: Run, heading: str, prompt: str) -> None:
        """Read an answer and send it. Without a terminal, the lines up to an empty one are the answer."""
        assert self._question is not None
        channel = self._question.channel or run.remote_trace_id
        while self._question is not None:
            with self._paused(), _ctrl_c_at_once():
                self.say(heading)
                try:
                    text = self.read(prompt).strip()
                except EOFError:
                    text = ""
            is_heard = await self._send(channel, text)
            if not text or not is_heard:
                self._question = None
            if self.is_terminal:
                break
            heading = ""

    def _paused(self) -> Any:
        """A block in which the live view is off the terminal."""
        from oxygent_client.cli._output import LiveDisplay

        return self._display.paused() if isinstance(self._display, LiveDisplay) else nullcontext()

    async def _send(self, channel: str, text: str) -> bool:
        """Send an answer; False if no agent waits for it."""
        import anyio

        until = anyio.current_time() + self.channel_seconds
        while True:
            try:
                await self.agent.feedback(channel, text)
            except errors.EnvelopeError:
                if anyio.current_time() >= until:
                    self.say("no agent waits for this answer any longer\n")
                    return False
                await anyio.sleep(0.1)
            else:
                return True

    # --- commands ---

    def _command(self, text: str) -> None:
        name, _, argument = text.partition(" ")
        command = COMMANDS.get(name)
        if command is None:
            self.say(f"there is no command {line(name)}; see /help\n")
        else:
            self._try(lambda: command.run(self, argument.strip()))

    def help(self, _: str) -> None:
        """Say what commands there are."""
        for command in COMMANDS.values():
            self.say(f"{command.usage:24}{command.does}\n")

    def tree(self, _: str) -> None:
        """Say the calls of the last turn."""
        self.say("no turn yet\n" if self._run is None else f"{self._run.trace().to_tree()}\n")

    def history(self, _: str) -> None:
        """Say the turns."""
        for number, turn in enumerate(self.conversation.history, 1):
            self.say(f"{number:3}  {line(turn.query or turn.trace_id)}\n")

    def retry(self, _: str) -> None:
        """Run the last query again, from the same past."""
        if not self._query:
            self.say("no turn yet\n")
            return
        self._go_back(min(self._before, len(self.conversation.history)))  # /branch may have gone further back
        self._turn(self._query)

    def branch(self, argument: str) -> None:
        """Go on from an earlier turn."""
        numbers = [str(number) for number in range(len(self.conversation.history) + 1)]
        if argument not in numbers:
            self.say(f"/branch needs a number from 0 to {numbers[-1]}; see /history\n")
            return
        self._go_back(int(argument))
        self.say(f"going on from turn {argument}\n")

    def _go_back(self, turns: int) -> None:
        """Go on with the first `turns` turns."""
        group = self.conversation.group_id
        self.conversation = self.conversation.branch(turns - 1) if turns else self.agent.conversation(group_id=group)

    def save(self, argument: str) -> None:
        """Write the conversation to a file."""
        path = Path(argument or ".")
        try:
            if path.exists() and not path.read_text(encoding="utf-8").startswith(SAVED):
                self.say(f"{line(argument)} exists and is no saved chat; choose another file\n")
                return
            with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as file:
                file.write(f"{self.conversation.to_token()}\n")
        except (OSError, ValueError) as error:  # of a file that is no text, or of a name with a NUL
            self.say(f"/save FILE: cannot write {line(argument)!r} ({type(error).__name__})\n")
        else:
            self.say(f"saved; go on with: oxygent-client chat --resume {line(argument)}\n")

    def rate(self, argument: str) -> None:
        """Rate the last answer."""
        import anyio

        rating, _, comment = argument.partition(" ")
        history = self.conversation.history
        if rating not in RATINGS or not history:
            self.say("/rate needs an answer, and like or dislike\n")
            return
        anyio.run(_rate, self.agent, history[-1].trace_id, rating, comment)
        self.say("thank you\n")


@frozen
class ChatCommand:
    """A command of the chat."""

    usage: str
    does: str
    run: Callable[[Chat, str], None]


COMMANDS: Final[Mapping[str, ChatCommand]] = {
    command.usage.split()[0]: command
    for command in (
        ChatCommand("/help", "show the commands", Chat.help),
        ChatCommand("/tree", "show the calls of the last turn", Chat.tree),
        ChatCommand("/history", "show the turns with their numbers", Chat.history),
        ChatCommand("/retry", "run the last query again", Chat.retry),
        ChatCommand("/branch N", "go on from turn N; 0 begins anew", Chat.branch),
        ChatCommand("/rate like [COMMENT]", "rate the last answer; or dislike", Chat.rate),
        ChatCommand("/save FILE", "save the conversation, for chat --resume FILE", Chat.save),
        ChatCommand("/quit", "leave, as Ctrl-D does; //... is a query that begins with /", Chat.help),
    )
}


async def _rate(agent: SSEOxyGent, trace_id: str, rating: Any, comment: str) -> None:
    async with agent:
        await agent.rate(trace_id, rating, comment)
