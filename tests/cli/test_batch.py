"""`oxygent-client batch`: the files, and what a query becomes when the batch, or its server, ended in between.

Rule: time is virtual in the tests of `Batch`; the server is the toy remote in this process, which outlives a batch.
"""

from __future__ import annotations

import io
import json
import tracemalloc
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any, Final

import anyio
import pytest
from rich.console import Console

from oxygent_client import BearerAuth, HTTPRequest, OxyRequest, Retry, SSEOxyGent, Timeouts
from oxygent_client.cli import main
from oxygent_client.cli._batch import Batch, run_batch
from oxygent_client.cli._batch_files import Attempt, BatchFiles, Item, LineFile, read_items
from oxygent_client.errors import ConfigurationError, ConnectError, ConnectionLostError
from oxygent_client.testing import ToyRemote
from oxygent_client.testing import serve as serving
from oxygent_client.testing.script import SCRIPTS, Pause, Script, Words
from oxygent_client.transports.asgi import ASGITransport
from tests.support.virtual import anyio_backend as anyio_backend

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Iterator
    from pathlib import Path

    from oxygent_client import HTTPResponse

URL: Final = "http://remote.test"
ITEM: Final = Item(1, "echo one")

# --------------------------------------------------------------------------------------------------------- The queries


def test_the_queries(tmp_path: Path) -> None:
    """A line is a string or an object; without an id, the id is the number of the line. Empty lines are skipped."""
    file = tmp_path / "queries.jsonl"
    file.write_bytes(
        b'\xef\xbb\xbf"one"\r\n\n{"query": "two", "id": "b"}\n{"query": "\xc3\xa9", "id": 7, "arguments": {"x": [1]}}'
    )
    assert read_items(file) == [Item(1, "one"), Item("b", "two"), Item(7, "é", {"x": [1]})]


BAD: Final[dict[str, bytes]] = {
    "no JSON": b"one",
    "no UTF-8": b'"\xff"',
    "deep": b"[" * 100_000,
    "a number": b"5",
    "no query": b'{"id": 1}',
    "another member": b'{"query": "q", "callee": "x"}',
    "an id that is a list": b'{"query": "q", "id": [1]}',
    "an id that is true": b'{"query": "q", "id": true}',
    "arguments that are a list": b'{"query": "q", "arguments": []}',
    "an id twice": b'{"query": "q", "id": "1"}',
}


@pytest.mark.parametrize("line", BAD.values(), ids=BAD)
def test_bad_queries(tmp_path: Path, line: bytes) -> None:
    """A bad line is an error with the number of the line."""
    file = tmp_path / "queries.jsonl"
    file.write_bytes(b'"one"\n\n' + line)
    with pytest.raises(ConfigurationError, match="line 3"):
        read_items(file)


def test_no_file(tmp_path: Path) -> None:
    """A file that cannot be read or written is an error with its name."""
    with pytest.raises(ConfigurationError, match="nowhere"):
        read_items(tmp_path / "nowhere.jsonl")
    with pytest.raises(ConfigurationError, match="nowhere"):
        LineFile(tmp_path / "nowhere" / "results.jsonl")


# ---------------------------------------------------------------------------------------------------------- The files


def files(path: Path, server: str = URL) -> BatchFiles:
    """Return the files of a batch in this directory."""
    return BatchFiles(path / "results.jsonl", server)


def lines(path: Path) -> list[dict[str, Any]]:
    """Return the results in this directory."""
    return [json.loads(line) for line in (path / "results.jsonl").read_text().splitlines()]


def finished(attempt: Attempt, status: str) -> dict[str, Any]:
    """Return a result."""
    return {"id": attempt.id, "trace_id": attempt.trace_id, "status": status}


NEW: Final = Item(0, "new")
RESUMED: Final[dict[str, tuple[int, ...]]] = {
    # the status of the first attempt: the ids of the queries that are left, the one with an attempt first
    "completed": (0,),
    "failed": (0,),
    "not_run": (0, 1),
    "unknown": (1, 0),
    "": (1, 0),
}


@pytest.mark.parametrize("status", RESUMED)
def test_what_is_left(tmp_path: Path, status: str) -> None:
    """A query with an answer is done; one that surely did not run begins anew; any other keeps its attempt."""
    with files(tmp_path) as before:
        first = before.begin(ITEM)
        for given in filter(None, [status]):
            before.finish(finished(first, given))
    with files(tmp_path) as after:
        left = after.to_do([NEW, ITEM])
    assert tuple(item.id for item, _ in left) == RESUMED[status]
    assert [attempt for _, attempt in left if attempt is not None] == [first] * (RESUMED[status] == (1, 0))


def test_a_second_attempt_without_a_result(tmp_path: Path) -> None:
    """The attempt after one that did not run counts, if the batch ended before its result."""
    with files(tmp_path) as before:
        before.finish(finished(before.begin(ITEM), "not_run"))
        second = before.begin(ITEM)
    with files(tmp_path) as after:
        assert after.to_do([ITEM]) == [(ITEM, second)]


@pytest.mark.parametrize("name", ["results.jsonl", "results.jsonl.journal"])
def test_a_torn_line(tmp_path: Path, name: str) -> None:
    """A line that was cut off is removed, and the next one is whole."""
    with files(tmp_path) as before:
        before.finish(finished(before.begin(ITEM), "completed"))
    with (tmp_path / name).open("ab") as file:
        file.write(b'{"id": 2, "dig')
    with files(tmp_path) as after:
        assert after.to_do([ITEM]) == []
        after.finish(finished(after.begin(Item(2, "two")), "completed"))
    with files(tmp_path) as last:
        assert last.to_do([ITEM, Item(2, "two")]) == []


def test_a_journal_that_is_only_a_torn_line(tmp_path: Path) -> None:
    """A batch that was killed while it began, begins anew."""
    (tmp_path / "results.jsonl.journal").write_bytes(b'{"oxygent_')
    with files(tmp_path) as after:
        assert after.to_do([ITEM]) == [(ITEM, None)]


HEAD: Final = {"oxygent_client_batch": 1, "server_url": URL}
FOREIGN: Final[dict[str, tuple[str, str]]] = {
    # what is wrong: (the journal, the results)
    "results without a journal": ("", "something\n"),
    "no journal": ('{"id": 1}\n', ""),
    "a journal that is a list": ("[]\n", ""),
    "a journal of another release": ('{"oxygent_client_batch": 99}\n', ""),
    "another server": (json.dumps(HEAD | {"server_url": "http://other.test"}) + "\n", ""),
    "a line without ids": (json.dumps(HEAD) + '\n{"id": 1}\n', ""),
    "results that are no JSON": (json.dumps(HEAD) + "\n", "something\n"),
}


@pytest.mark.parametrize("what", FOREIGN)
def test_files_of_something_else(tmp_path: Path, what: str) -> None:
    """Files that are not those of this batch are an error, and stay as they are."""
    journal, results = FOREIGN[what]
    (tmp_path / "results.jsonl.journal").write_text(journal)
    (tmp_path / "results.jsonl").write_text(results)
    with pytest.raises(ConfigurationError, match=r"results\.jsonl"), files(tmp_path):
        pass
    assert (tmp_path / "results.jsonl.journal").read_text() == journal
    assert (tmp_path / "results.jsonl").read_text() == results


def test_an_id_as_a_number_and_as_a_text(tmp_path: Path) -> None:
    """A query whose id was the number of its line is the same query with that number as a text."""
    with files(tmp_path) as before:
        before.finish(finished(before.begin(ITEM), "completed"))
        before.begin(Item("2", "two"))
    with files(tmp_path) as after:
        left = after.to_do([Item("1", ITEM.query), Item(2, "two")])
    assert [(item.id, attempt is None) for item, attempt in left] == [(2, False)]


def test_who_may_read_the_files(tmp_path: Path) -> None:
    """Results and journal are for this user alone."""
    with files(tmp_path):
        assert {path.name: path.stat().st_mode & 0o777 for path in tmp_path.iterdir()} == {
            "results.jsonl": 0o600,
            "results.jsonl.journal": 0o600,
        }


def test_outputs_are_not_kept(tmp_path: Path) -> None:
    """Outputs take no memory, neither those of this batch nor those of an earlier one."""
    output, count = "x" * 10_000, 300
    items = [Item(number, "q") for number in range(count)]
    tracemalloc.start()
    try:
        with files(tmp_path) as before:
            for item in items:
                before.finish(finished(before.begin(item), "completed") | {"output": output + str(item.id)})
            assert tracemalloc.get_traced_memory()[0] < count * len(output) / 2
        tracemalloc.reset_peak()
        with files(tmp_path) as after:
            assert after.to_do(items) == []
            assert tracemalloc.get_traced_memory()[1] < count * len(output) / 2
    finally:
        tracemalloc.stop()


def test_two_batches_at_once(tmp_path: Path) -> None:
    """A second process with the same results is an error."""
    with files(tmp_path), pytest.raises(ConfigurationError, match="another batch"), files(tmp_path):
        pass


def test_another_query_of_the_same_id(tmp_path: Path) -> None:
    """An id whose query has changed since is an error."""
    with files(tmp_path) as before:
        before.begin(ITEM)
    with files(tmp_path) as after, pytest.raises(ConfigurationError, match="another query"):
        after.to_do([Item(1, "echo two")])


# ------------------------------------------------------------------------------------------------------------ The batch


class Breaking:
    """A transport whose requests to one path fail, after the server got them or before."""

    def __init__(self, toy: ToyRemote, path: str = "", *, is_sent: bool = True, token: str = "") -> None:
        self._inner = ASGITransport(toy)
        self._path, self._is_sent, self._token = path, is_sent, token

    @asynccontextmanager
    async def exchange(self, request: HTTPRequest, /) -> AsyncGenerator[HTTPResponse, None]:
        if request.path != self._path:
            async with self._inner.exchange(request) as response:
                yield response
            return
        if not self._is_sent:
            raise ConnectError("no connection")
        async with self._inner.exchange(request):
            raise ConnectionLostError("the connection broke")

    async def aclose(self) -> None:
        await self._inner.aclose()


SLOW: Final = {**SCRIPTS, "slow": Script([Pause(60)], output=Words.REST)}


@pytest.fixture
def toy() -> ToyRemote:
    """The server."""
    return ToyRemote(scripts=SLOW)


def agent_of(toy: ToyRemote, path: str = "", **broken: Any) -> SSEOxyGent:
    """Return an agent of the server; requests to `path` fail."""
    return SSEOxyGent(URL, transport=Breaking(toy, path, **broken), retry=Retry(attempts=1))


async def run(path: Path, agent: SSEOxyGent, *items: Item, concurrency: int = 4) -> list[str]:
    """Run a batch, and return the statuses of its queries."""
    statuses: list[str] = []
    with files(path) as opened:
        await Batch(agent, opened, statuses.append, stop_after=3).run(opened.to_do(items), concurrency)
    return statuses


async def test_a_batch(tmp_path: Path, toy: ToyRemote) -> None:
    """Each query runs once, as many at a time as wanted, with its arguments; each has one line."""
    items = [Item(f"q{number}", f"slow {number}", {"x": number}) for number in range(9)]
    began = anyio.current_time()
    assert await run(tmp_path, agent_of(toy), *items, concurrency=3) == ["completed"] * 9
    assert 180 <= anyio.current_time() - began < 200
    assert sorted(run.payload["x"] for run in toy.runs) == [*range(9)]
    assert {line["id"]: line["output"] for line in lines(tmp_path)} == {
        f"q{number}": str(number) for number in range(9)
    }
    assert await run(tmp_path, agent_of(toy), *items) == []
    assert len(toy.runs) == 9


async def test_failures(tmp_path: Path, toy: ToyRemote) -> None:
    """A failed agent is a result; arguments that cannot be sent are one too, and may be corrected."""
    items = [Item(1, "fail"), Item(2, "echo 2", {"callee": "x"})]
    assert sorted(await run(tmp_path, agent_of(toy), *items)) == ["failed", "not_run"]
    errors = {line["id"]: line["error"]["type"] for line in lines(tmp_path)}
    assert errors == {1: "RemoteAgentError", 2: "PayloadError"}
    assert await run(tmp_path, agent_of(toy), *items) == ["not_run"]
    assert len(toy.runs) == 1


async def start(agent: SSEOxyGent, attempt: Attempt, query: str) -> None:
    """Start the run of an attempt, as a batch does."""
    request = OxyRequest(arguments={"query": query}, current_trace_id=attempt.trace_id, node_id=attempt.node_id)
    await agent.start(request)


@pytest.mark.parametrize("seconds", [1, 100], ids=["in progress", "ended"])
async def test_a_run_of_a_batch_that_was_killed(tmp_path: Path, toy: ToyRemote, seconds: float) -> None:
    """A run that was requested before the kill is not requested again: its result is read."""
    agent = agent_of(toy)
    with files(tmp_path) as killed:
        await start(agent, killed.begin(Item(1, "slow one")), "slow one")
    await anyio.sleep(seconds)
    assert await run(tmp_path, agent, Item(1, "slow one")) == ["completed"]
    assert [line["output"] for line in lines(tmp_path)] == ["one"]
    assert len(toy.runs) == 1


async def test_events_that_were_read_before_the_kill(tmp_path: Path, toy: ToyRemote) -> None:
    """A run whose events the killed batch had read is recovered from the server's record."""
    agent = agent_of(toy)
    with files(tmp_path) as killed:
        attempt = killed.begin(ITEM)
        await start(agent, attempt, ITEM.query)
    body = json.dumps({"trace_id": attempt.trace_id, "timestamp": 0}).encode()
    request = HTTPRequest("POST", URL, "/async/trace", {"content-type": "application/json"}, body)
    async with ASGITransport(toy).exchange(request) as response:
        received = [await anext(response.chunks) for _ in range(4)]
    assert b"event: close" in received[-1]
    assert await run(tmp_path, agent, ITEM) == ["completed"]
    assert lines(tmp_path)[0]["recovered"] is True
    assert len(toy.runs) == 1


async def test_a_run_that_was_never_requested(tmp_path: Path, toy: ToyRemote) -> None:
    """A query that the killed batch may have requested, and of which the server knows nothing, is unknown each time."""
    with files(tmp_path) as killed:
        killed.begin(ITEM)
    assert await run(tmp_path, agent_of(toy), ITEM, Item(2, "echo two")) == ["completed", "unknown"]
    assert await run(tmp_path, agent_of(toy), ITEM) == ["unknown"]
    assert [run.query for run in toy.runs] == ["echo two"]


async def test_many_unknown_queries(tmp_path: Path, toy: ToyRemote) -> None:
    """Earlier attempts without a result do not stop a batch."""
    items = [Item(number, "echo") for number in range(4)]
    with files(tmp_path) as killed:
        for item in items:
            killed.begin(item)
    statuses = await run(tmp_path, agent_of(toy), *items, Item("new", "echo new"))
    assert statuses.count("unknown") == len(items)
    assert statuses.count("completed") == 1


async def test_a_lost_confirmation(tmp_path: Path, toy: ToyRemote) -> None:
    """A run whose start was not confirmed is not requested again: its result is read."""
    agent = agent_of(toy, "/async/chat")
    agent.timeouts = Timeouts(lookup=None)  # else `start` itself finds the run
    assert await run(tmp_path, agent, ITEM) == ["completed"]
    assert len(toy.runs) == 1


async def test_a_server_of_an_old_release(tmp_path: Path) -> None:
    """A server without events of detached runs has the results in its records."""
    toy = ToyRemote(scripts=SLOW, dialect="1.0.8")
    items = [Item(1, "slow one"), Item(2, "raise")]
    with files(tmp_path) as killed:
        killed.begin(Item(3, "echo"))
    statuses = await run(tmp_path, agent_of(toy), *items, Item(3, "echo"))
    assert sorted(statuses) == ["completed", "failed", "unknown"]
    assert {line["id"]: line.get("output") for line in lines(tmp_path)} == {1: "one", 2: None, 3: None}
    assert sorted(run.query for run in toy.runs) == ["raise", "slow one"]


async def test_a_server_that_goes_down(tmp_path: Path, toy: ToyRemote) -> None:
    """A batch ends after a number of queries without a result; the next one runs those that surely did not run."""
    items = [Item(number, f"echo {number}") for number in range(12)]
    with pytest.raises(ConnectError):
        await run(tmp_path, agent_of(toy, "/async/chat", is_sent=False), *items)
    assert len(lines(tmp_path)) <= 3 + 4
    assert {line["status"] for line in lines(tmp_path)} == {"not_run"}
    assert {*await run(tmp_path, agent_of(toy), *items)} == {"completed"}
    assert len(toy.runs) == len(items)


async def test_a_server_that_is_down(tmp_path: Path, toy: ToyRemote) -> None:
    """Without a server nothing is begun."""
    with pytest.raises(ConnectError):
        await run(tmp_path, agent_of(toy, "/check_alive", is_sent=False), ITEM)
    assert lines(tmp_path) == []


async def test_a_full_disk(tmp_path: Path, toy: ToyRemote) -> None:
    """A result that cannot be written ends the batch with that error; its run is found in the journal."""

    class Full(BatchFiles):
        def finish(self, result: Any) -> None:
            raise OSError(28, "No space left on device")

    items = [Item(number, f"slow {number}") for number in range(10)]
    with Full(tmp_path / "results.jsonl", URL) as opened, pytest.raises(OSError, match="space"):
        await Batch(agent_of(toy), opened, print).run(opened.to_do(items), 2)
    assert {*await run(tmp_path, agent_of(toy), *items)} == {"completed"}
    assert len(toy.runs) == 10


# ---------------------------------------------------------------------------------------------------------- The command


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    """A server on a port."""
    with serving(ToyRemote(pace=0)) as served:
        yield served


def test_the_command(url: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The exit code tells whether all queries are completed, also of a batch that has nothing left to do."""
    file = tmp_path / "q.jsonl"
    file.write_text('"echo one"\n"echo two"\n')
    assert main(["batch", url, str(file)]) == 0
    assert "2 queries: 2 completed" in capsys.readouterr().err
    file.write_text('"echo one"\n"echo two"\n"fail"\n')
    for _ in range(2):
        assert main(["batch", url, str(file), "--concurrency", "2"]) == 7
        assert "3 queries: 2 completed, 1 failed" in capsys.readouterr().err
    assert len((tmp_path / "q.jsonl.results.jsonl").read_text().splitlines()) == 3


def test_a_bad_command(url: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A bad line is an error before anything runs."""
    file = tmp_path / "q.jsonl"
    file.write_text('"echo one"\nfive\n')
    assert main(["batch", url, str(file), "-o", str(tmp_path / "r.jsonl")]) == 2
    assert "line 2" in capsys.readouterr().err
    assert not (tmp_path / "r.jsonl").exists()


def test_credentials(tmp_path: Path) -> None:
    """A credential that the remote repeats is redacted in the results."""
    file = tmp_path / "r.jsonl"
    agent = SSEOxyGent("https://remote.test", transport=ASGITransport(ToyRemote(pace=0)), auth=BearerAuth("t0p-s3cret"))
    assert run_batch(agent, [Item(1, "echo my t0p-s3cret")], file, 1, Console(file=io.StringIO()))
    assert json.loads(file.read_text())["output"] == "my [scrubbed]"


def test_the_progress(tmp_path: Path) -> None:
    """On a terminal there is a bar with the number of queries and of failures."""
    agent = SSEOxyGent(URL, transport=ASGITransport(ToyRemote(pace=0)))
    items = [Item(number, f"echo {number}") for number in range(20)] + [Item("x", "fail")]
    shown = io.StringIO()
    console = Console(file=shown, force_terminal=True, width=100)
    assert not run_batch(agent, items, tmp_path / "r.jsonl", 2, console)
    assert "21/21" in shown.getvalue()
    assert "/s" in shown.getvalue()
    assert "1 without an answer" in shown.getvalue()


def test_the_summary_of_a_batch_that_was_stopped(tmp_path: Path) -> None:
    """What is left after Ctrl-C is counted, and how to go on."""

    class Interrupted(SSEOxyGent):
        async def check_alive(self) -> bool:
            raise KeyboardInterrupt

    shown = io.StringIO()
    agent = Interrupted(URL, transport=ASGITransport(ToyRemote(pace=0)))
    with pytest.raises(KeyboardInterrupt):
        run_batch(agent, [ITEM], tmp_path / "r.jsonl", 2, Console(file=shown, width=200))
    assert "1 queries: 1 left" in shown.getvalue()
    assert "same command" in shown.getvalue()
