"""The command `serve`: refused options, and serving until Ctrl-C."""

from __future__ import annotations

import io
import json
import signal
import threading
import urllib.error
import urllib.request
from contextlib import redirect_stderr, redirect_stdout
from typing import TYPE_CHECKING, Any, Final

import pytest

from oxygent_client.cli import main
from oxygent_client.testing import ToyRemote, serve

if TYPE_CHECKING:
    from collections.abc import Callable

URL: Final = "http://remote.test"
REFUSED: Final[list[Any]] = [
    # the command line after the URL, the option that the error names
    pytest.param([], "--openai", id="no-protocol"),
    pytest.param(["--openai", "--host", "0.0.0.0"], "--token-env", id="no-token"),
    pytest.param(["--openai", "--token-env", "NO_SUCH_VARIABLE"], "NO_SUCH_VARIABLE", id="no-variable"),
    pytest.param(["--openai", "--cors", "example.com"], "cors", id="no-origin"),
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


HOSTS: Final[list[Any]] = [
    # options, a token, the texts on stderr, the signal, the exit code
    pytest.param([], "", "GET /v1/models 200", signal.SIGINT, 130, id="loopback"),
    pytest.param(["--host", "0.0.0.0", "--token-env", "SERVE_TOKEN"], "t0ken", "TLS", signal.SIGTERM, 0, id="all"),
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
