"""A service on a port: serving until a signal, and the grace period for running requests.

Rule: a thread plays the clients, since signals are for the main thread, in which the server runs.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
import signal
import socket
import sys
import threading
import time
import urllib.request
from typing import TYPE_CHECKING, Any, Final

import attrs
import pytest

from oxygent_client import SSEOxyGent
from oxygent_client.errors import ConfigurationError
from oxygent_client.serve import serve_forever
from oxygent_client.serve._core.server import TICKS, make_server
from oxygent_client.serve.openai import create_app
from oxygent_client.testing import ToyRemote, serve
from oxygent_client.testing.script import Hang, Pause, Script

if TYPE_CHECKING:
    from collections.abc import Callable

    from oxygent_client.serve import Service


def interrupt() -> None:
    """Send SIGINT, as Ctrl-C does."""
    signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGINT)


def unserved() -> Service:
    """Return a service for tests that do not use its remote."""
    return create_app(SSEOxyGent(server_url="http://remote.test"))


def ignore(_: str) -> None:
    """Ignore the start of the server."""


def opened(url: str, query: str, *, streamed: bool = False) -> Any:
    """Return a response of the service with an unread body."""
    asked = {"model": "trip_planner", "stream": streamed, "messages": [{"role": "user", "content": query}]}
    request = urllib.request.Request(
        f"{url}/v1/chat/completions", json.dumps(asked).encode(), {"content-type": "application/json"}
    )
    return urllib.request.build_opener(urllib.request.ProxyHandler({})).open(request, timeout=20)


def served(service: Service, client: Callable[[str], None], **options: Any) -> None:
    """Serve until the client, in a thread, has sent the signal."""
    threads: list[threading.Thread] = []

    def start(url: str) -> None:
        threads.append(threading.Thread(target=client, args=(url,)))
        threads[0].start()

    with pytest.raises(KeyboardInterrupt):
        serve_forever(service, host="127.0.0.1", port=0, on_start=start, **options)
    threads[0].join()


def stopped_while_streaming(toy: ToyRemote, query: str, stop: Callable[[], None], *, grace: float) -> str:
    """Return what a client received of a stream during which `stop` was called."""
    found: list[str] = []

    def client(url: str) -> None:
        try:
            with opened(url, query, streamed=True) as reply:
                reply.readline()
                stop()
                found.append(reply.read().decode())
        except BaseException:
            interrupt()
            raise

    with serve(toy) as remote:
        served(create_app(SSEOxyGent(server_url=remote)), client, grace=grace)
    return found[0]


def new_loop() -> type[asyncio.AbstractEventLoop]:
    """Return the class of a new event loop."""
    loop = asyncio.new_event_loop()
    loop.close()
    return type(loop)


@pytest.mark.parametrize("has_uvloop", [True, False])
def test_it_serves_until_a_signal(has_uvloop: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """The service listens on a free port, and reports its URL; new event loops of the process stay as they were."""
    if not has_uvloop:
        monkeypatch.setitem(sys.modules, "uvloop", None)
    before = new_loop()
    found: list[Any] = []

    def client(url: str) -> None:
        try:
            with opened(url, "echo hi") as reply:
                found.append(json.load(reply)["choices"][0]["message"]["content"])
        finally:
            interrupt()

    with serve(ToyRemote()) as remote:
        served(create_app(SSEOxyGent(server_url=remote)), client)
    assert found == ["hi"]
    assert new_loop() is before  # older uvicorn sets the policy


@pytest.mark.parametrize(
    ("grace", "end"), [(20.0, '"finish_reason": "stop"'), (0.0, '"code": "stopping"')], ids=["in-time", "too-late"]
)
def test_a_signal_during_a_run(grace: float, end: str) -> None:
    """A run that ends within the grace period is completed; the client of another gets an error."""
    toy = ToyRemote(scripts={"short": Script([Pause(0.5)], output="x"), "long": Script([Hang()])})
    received = stopped_while_streaming(toy, "short" if grace else "long", interrupt, grace=grace)
    assert end in received
    assert toy.runs[0].state == ("finished" if grace else "cancelled")


def test_a_second_signal(caplog: pytest.LogCaptureFixture) -> None:
    """A second SIGINT ends the grace period: the run is stopped at the remote, and its client gets an error."""
    caplog.set_level(logging.INFO, "oxygent_client.serve")
    toy = ToyRemote(scripts={"long": Script([Hang()])})

    def interrupt_twice() -> None:
        interrupt()
        while "stopping" not in caplog.text:
            time.sleep(0.01)
        interrupt()

    received = stopped_while_streaming(toy, "long", interrupt_twice, grace=600.0)
    assert '"code": "stopping"' in received
    assert toy.runs[0].state == "cancelled"


@attrs.define(eq=False)
class Stuck:
    """A connection, which is its own transport, with the bytes that are left at each look."""

    sizes: list[int]
    closing: bool = True
    is_cut: bool = False

    @property
    def transport(self) -> Stuck:
        """Return itself."""
        return self

    def is_closing(self) -> bool:
        """Whether it is to be closed."""
        return self.closing

    def get_write_buffer_size(self) -> int:
        """Return the bytes that are left."""
        return self.sizes.pop(0)

    def abort(self) -> None:
        """Note that it was cut."""
        self.is_cut = True


CONNECTIONS: Final[list[Any]] = [
    # the connection, whether it is cut
    pytest.param(Stuck([9, 9]), True, id="takes-nothing"),
    pytest.param(Stuck([9, 5]), False, id="takes-something"),
    pytest.param(Stuck([], closing=False), False, id="in-use"),
]


@pytest.mark.parametrize(("connection", "is_cut"), CONNECTIONS)
def test_clients_that_do_not_read(connection: Stuck, is_cut: bool) -> None:
    """A connection that is to be closed is cut if its client takes nothing of what is left between two looks."""
    server: Any = make_server(unserved(), grace=0)
    server.config.load()
    server.server_state.connections.add(connection)
    for counter in (0, TICKS - 1, TICKS):
        asyncio.run(server.on_tick(counter))
    assert connection.is_cut == is_cut


def test_sigterm() -> None:
    """SIGTERM ends the server, which then returns; the handler of before is installed again."""
    threads: list[threading.Thread] = []
    found: list[int] = []

    def client(url: str) -> None:
        try:
            with opened(url, "echo hi") as reply:  # so the server has its handlers
                found.append(reply.status)
        finally:
            os.kill(os.getpid(), signal.SIGTERM)

    def start(url: str) -> None:
        threads.append(threading.Thread(target=client, args=(url,)))
        threads[0].start()

    before = signal.getsignal(signal.SIGTERM)
    with serve(ToyRemote()) as remote:
        serve_forever(create_app(SSEOxyGent(server_url=remote)), host="127.0.0.1", port=0, on_start=start)
    threads[0].join()
    assert found == [200]
    assert signal.getsignal(signal.SIGTERM) is before


def test_a_port_that_is_taken() -> None:
    """A port in use raises an error with the port."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(ConfigurationError, match=str(port)):
            serve_forever(
                create_app(SSEOxyGent(server_url="http://remote.test")), host="127.0.0.1", port=port, on_start=ignore
            )


@pytest.mark.skipif(not socket.has_ipv6, reason="needs IPv6")
def test_an_address_of_ipv6() -> None:
    """The URL of an IPv6 address has brackets."""
    found: list[str] = []

    def start(url: str) -> None:
        found.append(url)
        threading.Timer(0.0, interrupt).start()

    with pytest.raises(KeyboardInterrupt):
        serve_forever(unserved(), host="::1", port=0, on_start=start)
    assert found[0].startswith("http://[::1]:")


def test_without_uvicorn(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without uvicorn the error names the extra to install."""
    monkeypatch.setitem(sys.modules, "uvicorn", None)
    with pytest.raises(ConfigurationError, match=r"oxygent-client\[openai\]"):
        serve_forever(unserved(), host="127.0.0.1", port=0, on_start=ignore)
