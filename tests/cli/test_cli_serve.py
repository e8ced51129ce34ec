"""The command `serve`: refused options, and serving until Ctrl-C."""

from __future__ import annotations

import http.client
import io
import json
import os
import re
import shlex
import signal
import sys
import threading
import urllib.error
import urllib.request
from contextlib import redirect_stderr, redirect_stdout
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import urlsplit

import pytest

import oxygent_client.serve
from oxygent_client.cli import main
from oxygent_client.testing import ToyRemote, serve
from oxygent_client.testing.script import Pause, Script, Stream
from tests.conftest import ROOT

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

URL: Final = "http://remote.test"
REFUSED: Final[list[Any]] = [
    # the command line after the URL, the option that the error names
    pytest.param([], "--openai", id="no-protocol"),
    pytest.param(["--mcp-stdio", "--openai"], "--mcp-stdio", id="stdio-and-port"),
    pytest.param(["--openai", "--host", "0.0.0.0"], "--token-env", id="no-token"),
    pytest.param(["--openai", "--token-env", "NO_SUCH_VARIABLE"], "NO_SUCH_VARIABLE", id="no-variable"),
    pytest.param(["--openai", "--cors", "example.com"], "cors", id="no-origin"),
    pytest.param(["--agui", "--return-seconds", "0"], "--return-seconds", id="no-time"),
]


class _Lines(io.StringIO):
    """The output of a command; calls back with the first line."""

    def __init__(self, then: Callable[[str], None]) -> None:
        super().__init__()
        self.then = then
        self.threads: list[threading.Thread] = []

    def write(self, text: str, /) -> int:
        if not self.threads:
            self.threads.append(threading.Thread(target=self.then, args=(text,)))
            self.threads[0].start()
        return super().write(text)


@pytest.mark.parametrize(("options", "name"), REFUSED)
def test_what_is_refused(options: list[str], name: str) -> None:
    """An invalid option raises an error with its name, and nothing is served."""
    err = io.StringIO()
    with redirect_stderr(err):
        code = main(["serve", URL, *options])
    assert code == 2
    assert name in err.getvalue()


def get(url: str, token: str = "") -> Any:
    """Return the document of a URL, or the status of an error."""
    request = urllib.request.Request(url, headers={"authorization": f"Bearer {token}"} if token else {})
    try:
        with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(request, timeout=20) as reply:
            return json.load(reply)
    except urllib.error.HTTPError as error:
        with error:
            return error.code


@pytest.mark.parametrize(
    ("option", "extra"), [("--mcp", "mcp"), ("--mcp-stdio", "mcp"), ("--a2a", "a2a"), ("--ui", "agui")]
)
def test_without_the_package(option: str, extra: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the package of a protocol, the error names the extra."""
    monkeypatch.setitem(sys.modules, f"oxygent_client.serve.{extra}", None)
    monkeypatch.delattr(oxygent_client.serve, extra, raising=False)
    err = io.StringIO()
    with redirect_stderr(err):
        code = main(["serve", URL, option])
    assert code == 2
    assert f"[{extra}]" in err.getvalue()


def lines_of(stream: int) -> Iterator[Any]:
    """Return the documents in the lines of a pipe."""
    with os.fdopen(stream, encoding="utf-8") as lines:
        for line in lines:
            yield json.loads(line)


def test_mcp_by_standard_input_and_output(monkeypatch: pytest.MonkeyPatch) -> None:
    """The server answers line by line until its input ends, and prints nothing else to standard output."""
    (for_server, to_server), (from_server, for_client) = os.pipe(), os.pipe()
    said: list[Any] = []

    def client() -> None:
        with os.fdopen(to_server, "w", encoding="utf-8") as sends:
            replies = lines_of(from_server)
            hello = {"protocolVersion": "2025-11-25", "capabilities": {}, "clientInfo": {"name": "x", "version": "1"}}
            call = {"name": "trip_planner", "arguments": {"query": "raise"}}
            for number, (method, params) in enumerate({"initialize": hello, "tools/call": call}.items()):
                document = {"jsonrpc": "2.0", "id": number, "method": method, "params": params}
                print(json.dumps(document), file=sends, flush=True)
                said.append(next(replies))
        said.extend(replies)

    thread = threading.Thread(target=client)
    with serve(ToyRemote()) as remote, os.fdopen(for_server) as stdin, os.fdopen(for_client, "w") as stdout:
        monkeypatch.setattr(sys, "stdin", stdin)
        monkeypatch.setattr(sys, "stdout", stdout)
        thread.start()
        code = main(["serve", remote, "--mcp-stdio", "--master-only"])
    thread.join()
    assert code == 0
    assert [reply["id"] for reply in said] == [0, 1]
    assert said[1]["result"]["isError"]


HOSTS: Final[list[Any]] = [
    # options, a token, the texts on stderr, the signal, the exit code
    pytest.param(["--mcp", "--a2a", "--ui", "--relay"], "", "GET /v1/models 200", signal.SIGINT, 130, id="loopback"),
    pytest.param(
        ["--host", "0.0.0.0", "--token-env", "SERVE_TOKEN", "--relay", "--relay-grace", "5"],
        "t0ken",
        "TLS",
        signal.SIGTERM,
        0,
        id="all",
    ),
]


@pytest.mark.parametrize(("options", "token", "words", "ending", "exit_code"), HOSTS)
def test_it_serves_until_a_signal(
    options: list[str], token: str, words: str, ending: signal.Signals, exit_code: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The remote's agents are served; on other than loopback there is a warning, and a token is needed."""
    monkeypatch.setenv("SERVE_TOKEN", "t0ken")
    found: list[Any] = []

    def client(line: str) -> None:
        try:
            url = f"http://127.0.0.1:{line.partition(' (')[0].rpartition(':')[2]}"
            found.extend([get(f"{url}/v1/models", token), get(f"{url}/v1/models", "wrong")])
        finally:
            signal.pthread_kill(threading.main_thread().ident or 0, ending)

    out, err = _Lines(client), io.StringIO()
    with serve(ToyRemote()) as remote, redirect_stdout(out), redirect_stderr(err):
        code = main(["serve", remote, "--openai", "--port", "0", *options])
    out.threads[0].join()
    assert code == exit_code
    assert found[0]["data"][0]["id"] == "trip_planner"
    assert (found[1] == 401) == bool(token)
    assert words in err.getvalue()


def question_while_it_serves(
    toy: ToyRemote, options: list[str], path: str, body: Any, *, leaves: bool = False
) -> tuple[list[str], list[str]]:
    """Serve the toy until a question is answered; return the lines of the answer, and those that were printed."""
    found: list[str] = []

    def client(line: str) -> None:
        try:
            connection = http.client.HTTPConnection(line.partition(" (")[0].rpartition("/")[2])
            connection.request("POST", path, json.dumps(body))
            with connection.getresponse() as reply:
                if not leaves:
                    found.extend(reply.read().decode().splitlines())
            connection.close()
        finally:
            signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGTERM)

    out = _Lines(client)
    with serve(toy) as remote, redirect_stdout(out), redirect_stderr(io.StringIO()):
        main(["serve", remote, "--port", "0", *options])
    out.threads[0].join()
    return found, out.getvalue().splitlines()


def test_the_time_in_which_a_client_can_come_back() -> None:
    """A run whose client left goes on for `--return-seconds`: here to its end, where the default would stop it."""
    toy = ToyRemote(scripts={"long": Script([Pause(1.5)], output="done")})
    question = {"threadId": "t", "runId": "r", "messages": [{"id": "m", "role": "user", "content": "long"}]}
    question_while_it_serves(toy, ["--agui", "--return-seconds", "60"], "/agui", question, leaves=True)
    assert toy.runs[0].state == "finished"


WHOLE: Final[list[Any]] = [
    pytest.param([], ["one", " two"], id="pieces"),
    pytest.param(["--whole-answers"], ["one two"], id="whole"),
]


@pytest.mark.parametrize(("options", "texts"), WHOLE)
def test_whole_answers(options: list[str], texts: list[str]) -> None:
    """The text of an answer is sent while it is written; with `--whole-answers` at its end."""
    toy = ToyRemote(scripts={"text": Script([Stream("one "), Stream("two")], output="one two")})
    question = {"model": "trip_planner", "stream": True, "messages": [{"role": "user", "content": "text"}]}
    lines, _ = question_while_it_serves(toy, ["--openai", *options], "/v1/chat/completions", question)
    chunks = [json.loads(line.removeprefix("data: ")) for line in lines if line.startswith("data: {")]
    assert [text for each in chunks if (text := each["choices"][0]["delta"].get("content"))] == texts


def test_the_transcripts_of_the_page() -> None:
    """The server prints what the page shows, but for its log, and the client of the page gets that answer."""
    page = (ROOT / "docs" / "howto" / "serve.md").read_text(encoding="utf-8")
    server, client = re.findall(r"^```console\n\$ (.*?)^```$", page, re.MULTILINE | re.DOTALL)
    command, *shown = server.splitlines()
    assigned, curl, answer = client.splitlines()
    body, url = shlex.split(assigned)[0].removeprefix("question="), shlex.split(curl)[3]
    options = [each for each in command.split() if each.startswith("--")]
    received, printed = question_while_it_serves(ToyRemote(pace=0), options, urlsplit(url).path, json.loads(body))
    assert [re.sub(r":\d+", ":8000", line) for line in printed] == shown[:-1]
    assert answer in received[0]
