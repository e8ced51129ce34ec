"""Calls of a local system to a remote one, by the framework's own remote agent and by our drop-in.

Rule 1: a scenario is a line in SCENARIOS. It runs with either agent, and returns a short text as its result.
Rule 2: a result depends on the framework only: it has no time, and no number that differs from run to run.
Rule 3: a scenario that never ends is observed for WATCHED seconds.
Rule 4: where the framework is right, both must send the front end the same messages; ids may differ, one to one.

Usage: python -m tests.interop.drop_in > docs/drop-in.md      (runs everything with both: minutes)
"""

from __future__ import annotations

import datetime as dt
import itertools
import json
import os
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal, cast

import anyio
import attrs
import coverage
import httpx
from httpx_sse import aconnect_sse

import oxygent_client
from tests.conftest import ROOT
from tests.support.servers import LAST, OK, chunk, serving

from .cuts import Cut, line
from .environments import RELEASES
from .harness import RemoteServer

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping

    from tests.support.servers import Conversation

__all__ = ["FLAGS", "SCENARIOS", "Kind", "World", "row", "runs", "said", "same_ids", "scripted", "surroundings"]

Kind = Literal["builtin", "ours", "raises", "faulty", "transported", "loops", "twice", "documented"]
"""The framework's own, ours, and six subclasses of ours in `local_mas.py`."""
WATCHED: Final = 6.0
HANGS: Final = f"hangs (watched {WATCHED:g} s)"
DOES_NOT_START: Final = "the local system does not start"
SOON: Final = 5.0
"""Seconds; three repetitions, each after the 3 s that the server sets, take longer."""
RETRIES: Final = {"retries": 5, "delay": 0.05}
"""The number of calls of a failing agent by the framework."""
LIMIT: Final = 1.5
"""Seconds in place of the framework's 300; ours are shortened likewise."""


# -------------------------------------------------------------------------------------------------------------- Systems


class LocalSystem(RemoteServer):
    """A running `local_mas.py`."""

    def __init__(self, version: str, directory: Path, **spec: Any) -> None:
        self._spec: dict[str, Any] = {"master": "entry", "agents": [], **spec}
        super().__init__(version, directory)

    def _spawn(self, python: Path) -> subprocess.Popen[bytes]:
        self._records_path.touch()
        command = [str(python), *FLAGS, "-m", "tests.interop.local_mas"]
        with self.log_path.open("ab") as log:
            return subprocess.Popen(
                [*command, "--port", str(self.port), "--spec", json.dumps(self._spec)],
                cwd=self.directory,
                env=surroundings(self.directory),
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )


MEASURED: Final = "OXYGENT_CLIENT_COVERAGE"
"""The file for the coverage of the drop-in, if measured: `nox -s interop` does."""
FLAGS: Final = ("-s", "-P", "-X", "utf8")
"""For a Python that has the paths of `surroundings`, and none of the user's."""


def surroundings(directory: Path) -> dict[str, str]:
    """Return the environment of a program that imports our package, these tests and a release of the framework."""
    # Only our package, wherever it is installed: other packages there are of another environment.
    path = directory / "path"
    path.mkdir()
    (path / "oxygent_client").symlink_to(Path(oxygent_client.__file__).parent)
    kept = {name: value for name, value in os.environ.items() if name in {"PATH", "HOME", "LANG", "TMPDIR"}}
    if data := os.environ.get(MEASURED):
        (path / "coverage").symlink_to(Path(coverage.__file__).parent)
        (path / "sitecustomize.py").write_text("import coverage\ncoverage.process_startup()\n", encoding="utf-8")
        kept |= {"COVERAGE_FILE": data, "COVERAGE_PROCESS_START": str(Path(__file__).with_name("coverage.ini"))}
    return {**kept, "PYTHONPATH": f"{path}{os.pathsep}{ROOT}"}


class StartsOnce(LocalSystem):
    """One that may fail to start: it is not tried again."""

    def _answers(self) -> bool:
        if super()._answers():
            return True
        self.close()
        raise DoesNotStartError(self.log_path.read_text(encoding="utf-8"))


class DoesNotStartError(Exception):
    """The local system did not start; its log is the text."""


@attrs.frozen
class Heard:
    """The messages of one run at a front end."""

    messages: list[dict[str, Any]]
    """Event name, id, retry and data of each message."""
    ended: bool
    """Whether it was complete."""

    @property
    def answer(self) -> Any:
        """The content of the last answer, or None."""
        answers = [message["data"]["content"] for message in self.messages if _type(message["data"]) == "answer"]
        return answers[-1] if answers else None


def _type(data: Any) -> Any:
    return cast("dict[str, Any]", data).get("type") if isinstance(data, dict) else None


@attrs.frozen
class Played:
    """The result of a scenario."""

    verdict: str
    messages: list[dict[str, Any]] = attrs.field(factory=list[Any])


class World:
    """Systems of one release, started when they are first needed, and ended together."""

    def __init__(self, version: str, directory: Path, remote: RemoteServer | None = None) -> None:
        self.version = version
        self._directory = directory
        self._running: dict[str, RemoteServer] = {} if remote is None else {"remote": remote}
        self._own: list[RemoteServer] = []
        self._numbers = itertools.count(1)

    def start(self, name: str, kind: type[RemoteServer] = RemoteServer, **spec: Any) -> RemoteServer:
        """Start a system for one user."""
        directory = self._directory / f"{name}-{next(self._numbers)}"
        self._own.append(kind(self.version, directory, **spec))
        return self._own[-1]

    def _shared(self, name: str, kind: type[RemoteServer], **spec: Any) -> RemoteServer:
        if name not in self._running:
            self._running[name] = self.start(name, kind, **spec)
        return self._running[name]

    @property
    def remote(self) -> RemoteServer:
        """Return the remote system."""
        return self._shared("remote", RemoteServer)

    @property
    def local(self) -> RemoteServer:
        """Return the local one, whose master calls the agent in the query."""
        return self._shared("local", LocalSystem)

    @property
    def hop(self) -> RemoteServer:
        """Return another one of that kind; its master is called `hop`."""
        return self._shared("hop", LocalSystem, master="hop")

    @property
    def hasty(self) -> RemoteServer:
        """Return a local one whose framework gives a run LIMIT seconds."""
        return self._shared("hasty", LocalSystem, shortened=LIMIT)

    @property
    def agentless(self) -> RemoteServer:
        """Return a remote system without agents."""
        return self._shared("agentless", LocalSystem, master="")

    def close(self) -> None:
        """End all that were started here."""
        for system in self._own:
            system.close()

    async def put(
        self, kind: Kind, url: str, name: str = "master", *, into: RemoteServer | None = None, **more: Any
    ) -> None:
        """Put a remote agent into the local system.

        Raises:
            RuntimeError: its `init` did; the text is its error's.
        """
        own = {} if kind == "builtin" else {"timeouts": {"idle": 20.0, "total": 60.0}}
        settings = {**RETRIES, **own, **more}
        async with _client() as client:
            address = f"{(into or self.local).url}/interop/agent"
            done = await client.post(address, json={"kind": kind, "name": name, "server_url": url, **settings})
            error = done.raise_for_status().json()["error"]
            if error is not None:
                raise RuntimeError(error)

    async def ask(
        self,
        query: str,
        *,
        of: RemoteServer | None = None,
        within: float = WATCHED,
        headers: Mapping[str, str] | None = None,
    ) -> Heard:
        """Return the messages of a run at a front end of the local system."""
        messages: list[dict[str, Any]] = []
        with anyio.move_on_after(within):
            async with (
                _client() as client,
                aconnect_sse(
                    client,
                    "POST",
                    f"{(of or self.local).url}/sse/chat",
                    json={"query": query},
                    headers=dict(headers or {}),
                ) as source,
            ):
                async for event in source.aiter_sse():
                    if event.event == "close":
                        return Heard(messages, ended=True)
                    if event.data:
                        data = json.loads(event.data) if event.data[:1] in '{["' else event.data
                        messages.append({"event": event.event, "id": event.id, "retry": event.retry, "data": data})
        return Heard(messages, ended=False)


def _client() -> httpx.AsyncClient:
    return httpx.AsyncClient(trust_env=False, timeout=None)


ID: Final = re.compile(r"(?<![\w-])[2-9A-HJ-NP-Za-km-z]{16}(?:[2-9A-HJ-NP-Za-km-z]{6})?(?![\w-])")
"""Random ids of the framework: 16 characters, or 22 for a request."""


def same_ids(messages: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return the messages with each id replaced by its number in order of appearance."""
    numbers: dict[str, str] = {}
    text = ID.sub(lambda match: numbers.setdefault(match[0], f"id {len(numbers)}"), json.dumps(messages))
    renamed: list[dict[str, Any]] = json.loads(text)
    return renamed


# ------------------------------------------------------------------------------------------------------------ Scenarios


def said(heard: Heard) -> str:
    """Return the result of one call as a text."""
    if not heard.ended:
        return HANGS
    answer = heard.answer
    if answer["state"] == "COMPLETED":
        output = json.dumps(answer["output"], ensure_ascii=False)
        return f"COMPLETED: {output if len(output) < 80 else f'{len(output) - 2} characters'}"
    return str(answer["state"])


def ran(count: int) -> str:
    """Return how often the remote agent ran, as a text."""
    return {0: "it never ran", 1: "it ran once", 2: "it ran twice"}.get(count, f"it ran {count} times")


def runs(remote: RemoteServer, since: int) -> int:
    """Return how many agents began at the remote after so many records."""
    return len(remote.records("started", since=since))


def plain(
    query: str, *, only_ours: dict[str, Any] | None = None, **settings: Any
) -> Callable[[World, Kind], Awaitable[Played]]:
    """A call that is completed."""

    async def scenario(world: World, kind: Kind) -> Played:
        own = only_ours or {}
        await world.put(kind, world.remote.url, **settings, **(own if kind == "ours" else {}))
        heard = await world.ask(f"master {query}")
        return Played(said(heard), heard.messages)

    return scenario


async def two_hops(world: World, kind: Kind) -> Played:
    """Local system, local system, remote system."""
    await world.put(kind, world.remote.url, into=world.hop)
    await world.put(kind, world.hop.url, "hop")
    heard = await world.ask("hop master nested")
    return Played(said(heard), heard.messages)


async def front_end_leaves(world: World, kind: Kind) -> Played:
    """The front end closes in mid-stream."""
    await world.put(kind, world.remote.url)
    since = len(world.remote.records())
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(world.ask, "master slow 30")
        await recorded(world.remote, "started", since)
        tasks.cancel_scope.cancel()
    cancelled = await recorded(world.remote, "cancelled", since)
    return Played("the remote agent is cancelled" if cancelled else "the remote agent works on")


async def time_runs_out(world: World, kind: Kind) -> Played:
    """The framework's time-out expires."""
    await world.put(kind, world.remote.url, timeout=1.0)
    since = len(world.remote.records())
    heard = await world.ask("master slow 30")
    cancelled = await recorded(world.remote, "cancelled", since)
    return Played(f"{said(heard)}, the remote agent {'is cancelled' if cancelled else 'works on'}")


async def recorded(remote: RemoteServer, event: str, since: int) -> bool:
    """Return whether the remote has such a record within WATCHED seconds."""
    with anyio.move_on_after(WATCHED):
        while not remote.records(event, since=since):  # noqa: ASYNC110  (a file of another process)
            await anyio.sleep(0.02)
        return True
    return False


async def another_name(world: World, kind: Kind) -> Played:
    """The agent has a name of the local system's own."""
    await world.put(kind, world.remote.url, "weather")
    return Played(said(await world.ask("weather echo hello")))


def ended_by(how: Literal["kill", "terminate"]) -> Callable[[World, Kind], Awaitable[Played]]:
    """The remote process ends in mid-stream."""

    async def scenario(world: World, kind: Kind) -> Played:
        remote = await anyio.to_thread.run_sync(world.start, "ended")
        await world.put(kind, remote.url)
        ended = 0.0

        async def end() -> None:
            nonlocal ended
            await remote.wait_for("started", within=10)
            await anyio.sleep(0.3)  # some messages were sent
            getattr(remote, how)()
            ended = time.monotonic()

        heard = Heard([], ended=False)
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(end)
            heard = await world.ask("master slow 30", within=30)
        soon = "within" if time.monotonic() - ended < SOON else "after more than"
        remote.close()
        return Played(f"{said(heard)}, {soon} {SOON:g} s")

    return scenario


async def parallel(world: World, kind: Kind) -> Played:
    """Four calls at once, in one trace; several times."""
    await world.put(kind, world.remote.url)
    tags = [f"tag{n}" for n in range(4)]
    for _ in range(5):
        heard = await world.ask("master " + " | ".join(f"tagged {tag} 30" for tag in tags))
        if not heard.ended:
            return Played("answers are lost, doubled or swapped")
        if [answer["output"] for answer in heard.answer] != tags:
            return Played("answers are lost, doubled or swapped")
        seen = [m["data"]["content"]["tag"] for m in heard.messages if _type(m["data"]) == "progress"]
        if sorted(seen) != sorted(tags * 30):
            return Played("messages are lost or doubled")
    return Played("each call has its own answer and messages")


async def longer(world: World, kind: Kind) -> Played:
    """A run that sends messages for longer than the framework's time-out."""
    local = world.hasty if kind == "builtin" else world.local  # ours has its own time-outs
    own: dict[str, Any] = {} if kind == "builtin" else {"timeouts": {"idle": LIMIT, "total": 12 * LIMIT}}
    await world.put(kind, world.remote.url, into=local, **own)
    since = len(world.remote.records())
    heard = await world.ask(f"master slow {2 * LIMIT}", of=local, within=40)
    return Played(f"{said(heard)}, {ran(runs(world.remote, since))}")


async def no_stream(world: World, kind: Kind) -> Played:
    """`POST /chat` of the local system."""
    await world.put(kind, world.remote.url)
    async with _client() as client:
        done = await client.post(f"{world.local.url}/chat", json={"query": "master echo hello"})
    body = done.json()
    answer = body.get("answer", body)  # 1.0 has the bare answer
    return Played(said(Heard([{"data": {"type": "answer", "content": answer}}], ended=True)))


def does_not_start(error: DoesNotStartError, words: str) -> Played:
    """Return the result, if this is why it does not start."""
    if words not in str(error):
        raise error
    return Played(DOES_NOT_START)


async def down_at_start(world: World, kind: Kind) -> Played:
    """The remote starts after the local system."""
    async with line(world.remote.port, shut=True) as way:
        agent = {"kind": kind, "name": "master", "server_url": way.url, **RETRIES}
        try:
            local = await anyio.to_thread.run_sync(lambda: world.start("early", StartsOnce, agents=[agent]))
        except DoesNotStartError as error:
            return does_not_start(error, "Failed to initialize SSEOxyGent")
        await way.open()
        heard = await world.ask("master echo hello", of=local)
        known = "the remote's members are shown" if await members(local) else "no members"
        local.close()
    return Played(f"{said(heard)}, then {known}")


async def members(local: RemoteServer) -> list[Any]:
    """Return what the local system shows below its one remote agent: the result of its `get_org`."""
    async with _client() as client:
        organization = (await client.get(f"{local.url}/get_organization")).json()["data"]["organization"]
    (agent,) = organization["children"]
    found: list[Any] = agent["children"]
    assert all(member["is_remote"] for member in found)
    return found


async def without_agents(world: World, kind: Kind) -> Played:
    """The remote system has no agent: it accepts a run, and never sends anything."""
    own: dict[str, Any] = {} if kind == "builtin" else {"timeouts": {"idle": LIMIT}}
    agent = {"kind": kind, "name": "master", "desc": "nobody", "server_url": world.agentless.url, **RETRIES, **own}
    try:
        local = await anyio.to_thread.run_sync(lambda: world.start("alone", StartsOnce, agents=[agent]))
    except DoesNotStartError as error:
        return does_not_start(error, "KeyError: 'children'")
    known = await members(local)
    heard = await world.ask("master echo hello", of=local)
    local.close()
    return Played(f"the local system starts, the agent's members are {known}, a call is {said(heard)}")


async def several_servers(world: World, kind: Kind) -> Played:
    """A `Cluster` with one server down. The framework's own agent can have only one server."""
    async with line(world.remote.port, shut=True) as way:
        where = (
            {"server_url": way.url} if kind == "builtin" else {"transport": {"members": [way.url, world.remote.url]}}
        )
        agent = {"kind": kind, "name": "master", **RETRIES, **where}
        try:
            local = await anyio.to_thread.run_sync(lambda: world.start("several", StartsOnce, agents=[agent]))
        except DoesNotStartError as error:
            return does_not_start(error, "Failed to initialize SSEOxyGent")
        words = {said(await world.ask("master echo hello", of=local)) for _ in range(4)}
        local.close()
    return Played(f"{', '.join(sorted(words))}, four times")


async def cut_and_retries(world: World, kind: Kind) -> Played:
    """The connection is cut, once each time; the framework's `retries` is 5."""
    async with line(world.remote.port, *(Cut(said=b'"step": 3}') for _ in range(5))) as way:
        # The first connections are those of discovery, which do not contain this text.
        await world.put(kind, way.url)
        since = len(world.remote.records())
        heard = await world.ask("master slow 30", within=30)
    return Played(f"{said(heard)}, {ran(runs(world.remote, since))}")


SECRETS: Final = {
    "authorization": "Bearer inbound-1",
    "cookie": "session=inbound-2",
    "proxy-authorization": "Basic inbound-3",
    "x-api-key": "inbound-4",
}


REMOTE: Final[dict[str, Any]] = {
    "organization": {"name": "master", "type": "agent", "children": []},
    "description": "scripted",
    "agents": [],
}


def document(value: Any) -> bytes:
    """Return a JSON response."""
    body = json.dumps({"code": 200, "message": "SUCCESS", "data": value}).encode()
    return b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n%b" % (len(body), body)


def scripted(*messages: Any) -> Callable[[Conversation], Awaitable[None]]:
    """Yield a remote that answers each run with these messages."""
    events = [f"event: message\r\ndata: {json.dumps(message)}\r\n\r\n" for message in messages]
    stream = OK + chunk("".join([*events, "event: close\r\ndata: done\r\n\r\n"]).encode()) + LAST

    async def handle(conversation: Conversation) -> None:
        while (request := await conversation.request()) is not None:
            await conversation.send(stream if request.line.startswith("POST") else document(REMOTE))

    return handle


def credentials(**settings: Any) -> Callable[[World, Kind], Awaitable[Played]]:
    """A front end's credentials; one of them may be allowed."""

    async def scenario(world: World, kind: Kind) -> Played:
        async with serving(scripted({"type": "answer", "content": "hello"})) as server:
            await world.put(kind, server.url, **(settings if kind == "ours" else {}))
            heard = await world.ask("master echo hello", headers={**SECRETS, "x-tenant": "blue"})
        assert heard.ended
        everything = [request.body.decode() + json.dumps(request.headers) for request in server.requests]
        seen = [
            name for name, value in {**SECRETS, "x-tenant": "blue"}.items() if any(value in one for one in everything)
        ]
        return Played(f"the remote sees {', '.join(seen) or 'none of them'}")

    return scenario


@attrs.frozen
class Scenario:
    """A line of the table."""

    play: Callable[[World, Kind], Awaitable[Played]]
    right: str | None
    """The expected result with ours; None: the same messages as with the framework's own."""
    builtin_is_quick: bool = True
    """Whether the framework's own agent ends within 3 s."""


SCENARIOS: Final[dict[str, Scenario]] = {
    "an answer": Scenario(plain("echo hello"), None),
    "tools, two of them at once": Scenario(plain("tools"), None),
    "agents that call agents": Scenario(plain("nested"), None),
    "agents that call agents, call stack not shared": Scenario(plain("nested", is_share_call_stack=False), None),
    "text in deltas": Scenario(plain('stream ["one ", "two ", "three"]'), None),
    "messages of other types, with framing of their own": Scenario(plain("progress"), None),
    "a thought": Scenario(plain("think"), None),
    "messages that are plain text": Scenario(plain('strings ["hello", "two words", "done"]'), None),
    "an agent that fails": Scenario(plain("raise"), "FAILED"),
    "an agent that fails, with `confirm_state=False`": Scenario(
        plain("raise", only_ours={"confirm_state": False}), None
    ),
    "two hops": Scenario(two_hops, None),
    "the front end leaves": Scenario(front_end_leaves, "the remote agent is cancelled"),
    "the framework's `timeout` runs out": Scenario(time_runs_out, "FAILED, the remote agent is cancelled"),
    "a name that the remote does not know": Scenario(another_name, 'COMPLETED: "hello"', builtin_is_quick=False),
    "remote killed in mid-stream": Scenario(ended_by("kill"), f"FAILED, within {SOON:g} s", builtin_is_quick=False),
    "remote terminated in mid-stream": Scenario(
        ended_by("terminate"), f"FAILED, within {SOON:g} s", builtin_is_quick=False
    ),
    "an event of 600 kB": Scenario(plain("big 600000"), "COMPLETED: 600000 characters"),
    "messages that are JSON, and no objects": Scenario(plain("strings [123, [1], true, 1.5]"), 'COMPLETED: "sent 4"'),
    "four calls at once in one trace": Scenario(
        parallel, "each call has its own answer and messages", builtin_is_quick=False
    ),
    "a run longer than the built-in's limit (shortened)": Scenario(
        longer, 'COMPLETED: "slow", it ran once', builtin_is_quick=False
    ),
    "`/chat`, without a stream": Scenario(no_stream, 'COMPLETED: "hello"'),
    "remote down when the local system starts": Scenario(
        down_at_start, 'COMPLETED: "hello", then the remote\'s members are shown', builtin_is_quick=False
    ),
    "remote without agents": Scenario(
        without_agents, "the local system starts, the agent's members are [], a call is FAILED", builtin_is_quick=False
    ),
    "two servers, one of them down": Scenario(
        several_servers, 'COMPLETED: "hello", four times', builtin_is_quick=False
    ),
    "a cut, and the framework's `retries=5`": Scenario(cut_and_retries, "FAILED, it ran once", builtin_is_quick=False),
    "the front end's credentials": Scenario(credentials(), "the remote sees none of them"),
    "the front end's headers, one of them allowed": Scenario(
        credentials(forward_headers=["x-tenant"]), "the remote sees x-tenant"
    ),
}


# ----------------------------------------------------------------------------------------------------------------- Page

HEAD: Final = """# Drop-in compared with the built-in class

How a local OxyGent system behaves when it calls a remote one, with the framework's own `SSEOxyGent` and with
`oxygent_client.integrations.oxygent.SSEOxyGent`, as its front end sees it: real systems of oxygent {version}, on one
machine, {date}. The agents have `retries=5`. "Equal messages" means that the front end got the same messages in the
same order, with ids renamed one to one.

`python -m tests.interop.drop_in` writes this page; `tests/interop/test_drop_in.py` repeats it and compares, the slow
scenarios of the built-in class only in the load tests.

| scenario | built-in {version} | drop-in |
|---|---|---|
"""


def row(name: str, builtin: Played, ours: Played) -> str:
    """Return a line of the page."""
    same = (
        "; equal messages"
        if SCENARIOS[name].right is None and same_ids(builtin.messages) == same_ids(ours.messages)
        else ""
    )
    return f"| {name} | {builtin.verdict} | {ours.verdict}{same} |\n"


async def page(world: World) -> str:
    """Return the whole page."""
    text = HEAD.format(version=world.version, date=dt.datetime.now(dt.UTC).date())
    for name, scenario in SCENARIOS.items():
        played: dict[Kind, Played] = {}
        for kind in ("builtin", "ours"):
            began = time.monotonic()
            played[kind] = await scenario.play(world, kind)
            sys.stderr.write(f"{time.monotonic() - began:6.2f} s  {kind:8}{name}: {played[kind].verdict}\n")
        text += row(name, played["builtin"], played["ours"])
    return text


def main() -> None:
    """Print the page."""
    with tempfile.TemporaryDirectory() as directory:
        world = World(RELEASES[0], Path(directory))
        try:
            sys.stdout.write(anyio.run(page, world))
        finally:
            world.close()


if __name__ == "__main__":
    main()
