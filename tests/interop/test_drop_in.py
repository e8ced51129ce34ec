"""Our drop-in in the real framework, compared with the framework's own remote agent; the table is `docs/drop-in.md`.

Rule 1: ours runs each scenario; the framework's own those that it ends soon, and in a soak all.
Rule 2: the expected result of ours is in SCENARIOS, that of the framework's own on the page, from an earlier run.
Rule 3: an older release runs the short list.
"""

from __future__ import annotations

import ast
import json
import re
from typing import TYPE_CHECKING, Any, Final, cast

import anyio
import pytest

from tests.conftest import ROOT, SIZE
from tests.support.servers import serving

from .cuts import BUSY, Cut, line
from .drop_in import FLAGS, SCENARIOS, World, row, runs, said, same_ids, scripted, surroundings
from .environments import RELEASES, python_for

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from tests.support.servers import Conversation

    from .drop_in import Kind

PAGE: Final = ROOT / "docs" / "drop-in.md"
HOWTO: Final = ROOT / "docs" / "howto" / "drop-in.md"
MODULE: Final = ROOT / "src" / "oxygent_client" / "integrations" / "oxygent.py"
OLDER: Final = RELEASES[1]
SHORT: Final = (
    "an answer",
    "tools, two of them at once",
    "agents that call agents, call stack not shared",
    "messages of other types, with framing of their own",
    "a name that the remote does not know",
    "four calls at once in one trace",
    "`/chat`, without a stream",
    "remote down when the local system starts",
    "two servers, one of them down",
    "a cut, and the framework's `retries=5`",
    "the front end's credentials",
)
"""The scenarios of the older release."""


@pytest.fixture(scope="module")
def worlds(servers: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[str], World]]:
    """A world of each release, with the remote that other tests use."""
    made: dict[str, World] = {}

    def world_of(version: str) -> World:
        if version not in made:
            made[version] = World(version, tmp_path_factory.mktemp(f"local-{version}-"), servers.shared(version))
        return made[version]

    yield world_of
    for world in made.values():
        world.close()


@pytest.fixture
def world(worlds: Callable[[str], World]) -> World:
    """The newest release's world."""
    return worlds(RELEASES[0])


def rows() -> dict[str, str]:
    """Return the lines of the page, by scenario."""
    lines = PAGE.read_text(encoding="utf-8").splitlines(keepends=True)
    return {line.split(" | ")[0].removeprefix("| "): line for line in lines if re.match(r"\| (?!scenario)", line)}


def test_the_page() -> None:
    """The page has each scenario, in order."""
    assert [*rows()] == [*SCENARIOS]


@pytest.mark.parametrize("name", SCENARIOS)
async def test_scenario(world: World, name: str) -> None:
    """Ours has the expected result; where that is the framework's own, the front end gets the same messages."""
    scenario = SCENARIOS[name]
    ours = await scenario.play(world, "ours")
    if scenario.right is not None:
        assert scenario.right == ours.verdict
    if scenario.builtin_is_quick or SIZE == "soak":
        builtin = await scenario.play(world, "builtin")
        assert rows()[name] == row(name, builtin, ours)
        if scenario.right is None:
            assert same_ids(builtin.messages) == same_ids(ours.messages)
            assert ours.messages
    else:
        assert rows()[name].endswith(f" | {ours.verdict} |\n")


async def test_an_older_release(worlds: Callable[[str], World]) -> None:
    """The same in a system of the last 1.0 release. One test, so that one worker starts it."""
    older = worlds(OLDER)
    right: dict[str, Any] = {}
    ours: dict[str, Any] = {}
    for name in SHORT:
        played = await SCENARIOS[name].play(older, "ours")
        ours[name], right[name] = played.verdict, SCENARIOS[name].right
        if right[name] is None:
            builtin = await SCENARIOS[name].play(older, "builtin")
            right[name] = builtin.verdict, same_ids(builtin.messages)
            ours[name] = played.verdict, same_ids(played.messages)

    assert right == ours
    for cut in (Cut(), Cut(said=b'"step": 3}')):
        assert await faults(older, "raises", cut) == ("FAILED", 1)
    assert await connections(worlds(RELEASES[0])) == 1
    assert await connections(older) == 3


async def connections(there: World) -> int:
    """Return the number of connections of three calls: one if the system closes its agents, else one each."""
    await there.put("ours", there.remote.url)
    since = len(there.remote.records())
    for _ in range(3):
        await there.ask("master echo hello")
    requests: Any = there.remote.records("request", since=since)
    return len({request["peer"] for request in requests if request["path"] == "/sse/chat"})


@pytest.mark.parametrize(
    ("kind", "cut", "state", "count"),
    [
        ("faulty", Cut(), "FAILED", 0),
        ("transported", Cut(), "FAILED", 0),
        # The framework calls each again, `retries` times in all, since a subclass fails.
        ("raises", Cut(), "FAILED", 1),
        ("raises", Cut(said=b'"step": 3}'), "FAILED", 1),
        # A subclass calls ours again itself.
        ("loops", Cut(said=b'"step": 3}'), "FAILED", 1),
        ("loops", Cut(), "COMPLETED", 1),
        # A subclass makes two runs: no run that may have run is repeated.
        ("twice", Cut(), "COMPLETED", 2),
    ],
)
async def test_a_subclass_with_faults(world: World, kind: Kind, cut: Cut, state: str, count: int) -> None:
    """However it is called again, the remote agent runs once; a failure before the run fails the call."""
    assert await faults(world, kind, cut) == (state, count)


async def faults(there: World, kind: Kind, cut: Cut) -> tuple[str, int]:
    """Return the result of a call with these cuts, and how often the remote agent ran."""
    async with line(there.remote.port, *[cut] * 9) as way:
        await there.put(kind, way.url)
        since = len(there.remote.records())
        heard = await there.ask("master slow 0.5")

    assert heard.ended
    return heard.answer["state"], runs(there.remote, since)


async def test_a_subclass_that_repeats_refused_calls(world: World) -> None:
    """A call that surely did not run may be made again: discovery and the first run are refused, the second is not."""
    busy = Cut(instead=BUSY)
    async with line(world.remote.port, busy, busy, shut=True) as way:
        await world.put("loops", way.url, retry={"attempts": 1})
        await way.open()
        heard = await world.ask("master echo hello")

    assert said(heard) == 'COMPLETED: "hello"'
    assert way.connections == 3


async def test_a_subclass_of_the_documentation(world: World) -> None:
    """Assignments of a subclass after `super().__init__` take effect, and its hooks get the framework's own request."""
    step = {"node_id": "n", "caller": "a", "callee": "t", "caller_category": "agent", "callee_category": "tool"}
    messages: list[dict[str, Any]] = [
        {"type": "tool_call", "content": {**step, "call_stack": ["user", "a", "t"], "arguments": {}}},
        {"type": "observation", "content": {**step, "call_stack": ["user", "a", "t"], "output": "42"}},
        {"type": "noise", "content": 1},
        {"type": "metrics", "content": {"tokens": 5}},
        {"type": "answer", "content": "hello"},
    ]
    async with serving(scripted(*messages)) as server:
        await world.put("documented", server.url)
        heard = await world.ask("master what")
    (run,) = [request for request in server.requests if request.line.startswith("POST")]
    payload = json.loads(run.body)

    assert heard.answer == {
        "state": "COMPLETED",
        "output": [
            "hello",
            "Starting remote execution...",
            "tool call of t for what",
            "Executing tool: t",
            "output 42 for what",
            "Tool execution completed",
            "metrics {'tokens': 5}",
            "custom metrics",
            "Remote execution completed",
        ],
    }
    assert run.headers["x-api-key"] == "of its own"
    assert payload["mine"] == 1
    assert payload["query"] == "what"
    assert payload["is_send_message"] is True
    assert "call_stack" not in payload
    forwarded = [message["data"] for message in heard.messages if message["data"].get("type") in {"noise", "metrics"}]
    assert [{**messages[3], "clean": True}] == forwarded


FACTS: Final = """
import asyncio, copy, json, os, pickle, sys
from oxygent import MAS, OxyRequest, oxy
from oxygent.oxy.agents.remote_agent import RemoteAgent
from oxygent_client.integrations.oxygent import SSEOxyGent
from oxygent_client import BearerAuth, Cluster

def raised(f):
    try:
        f()
    except Exception as error:
        return [type(error).__name__, "hidden" in str(error)]

def sockets():
    links = (os.path.join("/proc/self/fd", name) for name in os.listdir("/proc/self/fd"))
    return sum(os.path.islink(link) and os.readlink(link).startswith("socket:") for link in links)

class Counts(SSEOxyGent):
    asked: int = 0

    def prepare_headers(self, oxy_request):
        self.asked += 1
        return {}

async def asked_by_each(make):
    agent = Counts(name="remote", server_url=sys.argv[1])
    other = make(agent)
    other.headers = {"x-other": "1"}
    for each in (agent, other, other):
        await each._discover()
    return [agent.asked, other.asked, agent.headers]

async def main():
    request = OxyRequest()
    headers = {"x-more": "hidden"}
    agent = SSEOxyGent(name="remote", server_url=sys.argv[1], auth=BearerAuth("hidden"), headers=headers)
    agent.mine = "hidden"
    shown = repr(agent)  # the framework's own agents have no end when they are in a system
    before = sockets()
    async with MAS(name="facts", oxy_space=[oxy.MockLLM(name="default_llm"), agent]) as mas:
        response = await mas.chat_with_agent(payload={"query": "hello"})
        kept = sockets() - before
    return {
        "output": response.output,
        "connections kept": kept,
        "connections left": sockets() - before,
        "a remote agent": isinstance(agent, RemoteAgent),
        "in what is stored": "hidden" in repr(agent.model_dump()) + shown,
        "own attributes": [agent.mine, agent.headers["x-more"]],
        "unknown keyword": raised(lambda: SSEOxyGent(name="r", server_url=sys.argv[1], auht="hidden")),
        "another scheme": raised(lambda: SSEOxyGent(name="r", server_url="ftp://127.0.0.1")),
        "no address": raised(lambda: SSEOxyGent(name="r", server_url=None)),
        "two addresses": raised(lambda: SSEOxyGent(name="r", server_url=sys.argv[1], transport=Cluster([sys.argv[1]]))),
        "send_message replaced": raised(lambda: setattr(request, "send_message", print)),
        "copies": [
            await asked_by_each(make)
            for make in (copy.copy, copy.deepcopy, lambda agent: pickle.loads(pickle.dumps(agent)))
        ],
        "no such attribute": raised(lambda: agent.nothing),
    }

print(json.dumps(asyncio.run(main())))
"""


@pytest.mark.parametrize(("version", "kept"), [(RELEASES[0], 1), (OLDER, 0)])
async def test_facts(tmp_path: Path, version: str, kept: int) -> None:
    """A system closes our connections at its end and stores none of our secrets; refused settings, and copies."""
    async with serving(scripted({"type": "answer", "content": "hello"})) as server:
        printed = await run_program(version, tmp_path, FACTS, server.url)

    assert json.loads(printed.splitlines()[-1]) == {
        "output": "hello",
        "connections kept": kept,
        "connections left": 0,
        "a remote agent": True,
        "in what is stored": False,
        "own attributes": ["hidden", "hidden"],
        "unknown keyword": ["ValidationError", False],
        "another scheme": ["ValidationError", False],
        "no address": ["ConfigurationError", False],
        "two addresses": ["ConfigurationError", False],
        "send_message replaced": ["ValueError", False],
        "copies": [[1, 2, {}]] * 3,  # each calls its own hooks, and has its own settings
        "no such attribute": ["AttributeError", False],
    }


SHAPE: Final = """
import json
from oxygent import MAS, OxyRequest, OxyResponse, OxyState, oxy
from oxygent_client.integrations.oxygent import SSEOxyGent

def fields(agent):
    return {name: [str(field.annotation), field.is_required()] for name, field in agent.model_fields.items()}

builtin = oxy.SSEOxyGent(name="r", server_url="http://127.0.0.1")
response = OxyResponse(state=OxyState.COMPLETED, output="")
print(json.dumps({
    "ours": fields(SSEOxyGent),
    "builtin": fields(oxy.SSEOxyGent),
    "names": [name for each in (builtin, OxyRequest(), response, OxyState, MAS) for name in dir(each)],
}))
"""


@pytest.mark.parametrize("version", RELEASES[:2])
async def test_shape(tmp_path: Path, version: str) -> None:
    """The fields are the built-in's and one more, `server_url` is optional; of private names `_execute` is used."""
    shape = json.loads((await run_program(version, tmp_path, SHAPE)).splitlines()[-1])
    builtin, ours = shape["builtin"], shape["ours"]

    assert builtin["server_url"] == ["<class 'pydantic.networks.AnyUrl'>", True]
    assert {
        **builtin,
        "server_url": ["pydantic.networks.AnyUrl | None", False],
        "start_seconds": ["<class 'float'>", False],
    } == ours
    assert private_names(MODULE.read_text(encoding="utf-8")) & {*shape["names"]} == {"_execute"}


def private_names(source: str) -> set[str]:
    """Return the names with an underscore that a module defines, uses or contains, except Python's own."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(source)):
        match node:
            case ast.Attribute(attr=name) | ast.FunctionDef(name=name) | ast.AsyncFunctionDef(name=name):
                found.add(name)
            case ast.Constant(value=str(name)):
                found.add(name)
            case _:
                pass
    return {name for name in found if name.startswith("_") and not name.endswith("__")}


@pytest.mark.parametrize(
    "source",
    ["self._semaphore", "def _semaphore(self): ...", "async def _semaphore(self): ...", "getattr(self, '_semaphore')"],
)
def test_private_names(source: str) -> None:
    """A private name is found in each kind of use."""
    assert private_names(source) == {"_semaphore"}


ATTEMPTS: Final = """
import asyncio, copy, json, logging, sys
from oxygent import MAS, OxyRequest, oxy
from oxygent_client import Retry
from oxygent_client.integrations.oxygent import SSEOxyGent

records = []
class Keep(logging.Handler):
    def emit(self, record):
        records.append(copy.copy(record))  # the framework's own formatter changes it
logging.getLogger("oxygent_client").addHandler(Keep())
logging.getLogger("oxygent_client").setLevel(logging.DEBUG)

class Raises(SSEOxyGent):
    async def _execute(self, oxy_request):
        response = await super()._execute(oxy_request)
        raise KeyError(response.output)

class Faulty(SSEOxyGent):
    def prepare_payload(self, oxy_request):
        raise KeyError("mine")

asked = []

async def refuse(oxy_request):
    return "not today"

async def main():
    settings = {"server_url": sys.argv[1], "retries": 3, "delay": 0.0}
    agents = [
        Raises(name="raises", func_interceptor=lambda oxy_request: asked.append(oxy_request.callee), **settings),
        SSEOxyGent(name="refuses", **settings),
        Faulty(name="faulty", **settings),
        SSEOxyGent(name="nobody", **{**settings, "server_url": "http://127.0.0.1:1"}, retry=Retry(attempts=1)),
    ]
    agents[1].func_interceptor = refuse
    async with MAS(name="attempts", oxy_space=[oxy.MockLLM(name="default_llm"), *agents]) as mas:
        states = {}
        for agent in agents:
            request = OxyRequest(
                arguments={"query": "hello"}, node_id="the node", current_trace_id="the trace", mas=mas
            )
            states[agent.name] = (await agent.execute(request)).state.name
    return {
        "states": states,
        "asked": asked,
        "outside of a call": await agents[1].func_interceptor(OxyRequest()),
        "without attributes": [
            record.getMessage()
            for record in records
            if not all(isinstance(getattr(record, name, None), str) for name in ("event", "trace_id", "node_id"))
        ],
        "the drop-in's own": [
            [record.event, record.trace_id, record.node_id, record.getMessage().partition(":")[0]]
            for record in records
            if record.module == "oxygent"
        ],
    }

print(json.dumps(asyncio.run(main())))
"""


@pytest.mark.parametrize("version", RELEASES[:2])
async def test_attempts_and_records(tmp_path: Path, version: str) -> None:
    """The user's `func_interceptor` is called before each attempt, one run is made, and records have the call."""
    async with serving(scripted({"type": "answer", "content": "hello"})) as server:
        printed = await run_program(version, tmp_path, ATTEMPTS, server.url)

    assert json.loads(printed.splitlines()[-1]) == {
        "states": {"raises": "FAILED", "refuses": "SKIPPED", "faulty": "FAILED", "nobody": "FAILED"},
        "asked": ["raises"] * 3,
        "outside of a call": "not today",
        "without attributes": [],
        "the drop-in's own": [
            ["warning", "", "", "nobody"],  # the start of the system
            ["warning", "the trace", "the node", "faulty"],
            ["warning", "", "", "nobody"],  # called again
            ["warning", "the trace", "the node", "nobody"],
        ],
    }
    assert sum(request.line.startswith("POST") for request in server.requests) == 1


RESTARTS: Final = """
import asyncio, json, logging
from oxygent import OxyRequest
from oxygent_client.integrations.oxygent import SSEOxyGent
from oxygent_client.testing import FakeTransport, answer, close

FIELDS = {"reference_trace_id": "t0", "restart_node_id": "n0", "restart_node_output": "99"}
warned = []
class Keep(logging.Handler):
    def emit(self, record):
        warned.append(all(name in record.getMessage() for name in FIELDS))
logging.getLogger("oxygent_client").addHandler(Keep())

class Whole(SSEOxyGent):
    def prepare_payload(self, oxy_request):
        return {**super().prepare_payload(oxy_request), **{name: getattr(oxy_request, name) for name in FIELDS}}

class Own(SSEOxyGent):
    def prepare_payload(self, oxy_request):
        return {**super().prepare_payload(oxy_request), "restart_node_id": "of its own"}

async def main():
    said = {}
    for cls in (SSEOxyGent, Whole, Own):
        warned.clear()
        transport = FakeTransport.script(answer("42"), close())
        agent = cls(name="remote", server_url="http://127.0.0.1:1", transport=transport)
        request = OxyRequest(arguments={"query": "hello"}, current_trace_id=cls.__name__, **FIELDS)
        response = await agent._execute(request)
        sent = [payload.get(name) for payload in transport.payloads for name in FIELDS]
        said[cls.__name__] = [response.state.name, sent, warned.count(True), request.restart_node_id]
    return said

print(json.dumps(asyncio.run(main())))
"""


@pytest.mark.parametrize("version", RELEASES)
async def test_a_restart_of_the_local_run(tmp_path: Path, version: str) -> None:
    """The ids of a local run are not sent, with a warning; those that a subclass sets are refused."""
    printed = await run_program(version, tmp_path, RESTARTS)
    assert json.loads(printed.splitlines()[-1]) == {
        "SSEOxyGent": ["COMPLETED", ["", "", ""], 1, "n0"],
        "Whole": ["COMPLETED", ["", "", ""], 1, "n0"],
        "Own": ["FAILED", [], 1, "n0"],
    }


async def test_without_the_framework(tmp_path: Path) -> None:
    """Without the framework the import error has the package to install."""
    program = "import sys; sys.modules['oxygent'] = None\nimport oxygent_client.integrations.oxygent"
    with pytest.raises(AssertionError, match=r"ImportError: the drop-in needs oxygent: pip install 'oxygent-client\["):
        await run_program(RELEASES[0], tmp_path, program)


async def test_the_programs_of_the_page(tmp_path: Path) -> None:
    """The programs of the page work: the first prints the answer, also with the changes of the others."""
    program, several, subclass = re.findall(
        r"^```py\n(.*?)^```", HOWTO.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL
    )
    ours = re.compile(r"    SSEOxyGent\((.*?)\n    \),\n", re.DOTALL)
    programs = {
        "plain": program,
        "several": ours.sub("    weather,\n", program).replace("oxy_space =", f"{several}\noxy_space =", 1),
        "subclass": ours.sub(r"    Billed(api_key='k',\1\n    ),\n", program).replace(
            "oxy_space =", f"{subclass}\noxy_space =", 1
        ),
    }
    messages = [{"type": "metrics", "content": {"tokens": 5}}, {"type": "answer", "content": "No."}]
    async with serving(scripted(*messages)) as server:
        for which, text in programs.items():
            home = tmp_path / which
            home.mkdir()
            used = text.replace("http://127.0.0.1:8082", server.url).replace(":8083", ":1")  # no server is there
            printed = await run_program(RELEASES[0], home, used)
            assert printed.splitlines()[-1] == "No."

    posts = [request for request in server.requests if request.line.startswith("POST")]
    assert [request.headers.get("x-api-key") for request in posts] == [None, None, "k"]


async def run_program(version: str, directory: Path, program: str, *arguments: str) -> str:
    """Return the output of a program in the environment of this release."""
    command = [str(python_for(version)), *FLAGS, "-c", program, *arguments]
    done = await anyio.run_process(command, cwd=directory, env=surroundings(directory), check=False)
    assert done.returncode == 0, done.stderr.decode()
    return done.stdout.decode()


async def test_slow_discovery(world: World) -> None:
    """The start of the system waits `start_seconds`, and the first call as long again; then the run is sent anyway."""
    answer = scripted({"type": "answer", "content": "hello"})
    slow = anyio.Event()

    async def handle(conversation: Any) -> None:
        asked = await conversation.request()
        if asked is not None and asked.line.startswith("GET"):
            await slow.wait()
        else:
            await answer(cast("Conversation", Again(conversation, asked)))

    async with serving(handle) as server:
        await world.put("ours", server.url, start_seconds=0.3)
        heard = await world.ask("master hello")
        again = await world.ask("master hello")
        slow.set()

    assert [said(heard), said(again)] == ['COMPLETED: "hello"'] * 2
    assert [request.line.partition(" ")[0] for request in server.requests] == ["GET", "GET", "POST", "POST"]


class Again:
    """A conversation whose first request was read already."""

    def __init__(self, conversation: Any, request: Any) -> None:
        self._conversation = conversation
        self._request = request
        self.send = conversation.send

    async def request(self) -> Any:
        """Return the next request."""
        request, self._request = self._request, None
        return request or await self._conversation.request()
