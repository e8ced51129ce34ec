"""Real proxies before the server: streaming, no request twice, and cancellation at both ends."""

from __future__ import annotations

import logging
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Final

import anyio
import pytest

from oxygent_client import Outcome, OxyResponse, SSEOxyGent, Timeouts, errors
from oxygent_client.testing import ToyRemote
from oxygent_client.testing import serve as serving
from oxygent_client.testing.script import Cut, Pause, Say, Script
from tests.support import servers
from tests.support.proxies import PROXIES, proxy
from tests.support.servers import closed_port

if TYPE_CHECKING:
    from collections.abc import Generator
    from pathlib import Path

pytestmark = pytest.mark.seconds

PROPER: Final = [
    pytest.param(name, marks=pytest.mark.needs(PROXIES[name][0]), id=name) for name in ("nginx", "haproxy")
]
BUFFERS: Final = "nginx that buffers"
SCRIPTS: Final = {
    "slow": Script(
        (Say({"type": "progress", "content": 1}), Pause(1.6), Say({"type": "progress", "content": 2})), output="42"
    ),
    "cut": Script((Say({"type": "progress", "content": 1}), Cut()), output="42"),
    "long": Script((Say({"type": "progress", "content": 1}), Pause(60)), output="42"),
}


@contextmanager
def behind(name: str, directory: Path, servers: int = 2) -> Generator[tuple[str, list[ToyRemote]]]:
    """Start a proxy; yield its URL and the servers behind it."""
    toys = [ToyRemote(scripts=SCRIPTS, default=SCRIPTS["slow"], heartbeat=0.4) for _ in range(servers)]
    with ExitStack() as stack:
        urls = [stack.enter_context(serving(toy)) for toy in toys]
        yield stack.enter_context(proxy(name, directory, urls)), toys


def began(toys: list[ToyRemote]) -> int:
    """Return the number of runs that the servers began."""
    return sum(len(toy.runs) for toy in toys)


@pytest.mark.parametrize("name", PROPER)
async def test_streaming(name: str, tmp_path: Path) -> None:
    """The first event is received long before the last, and no buffering is reported."""
    with behind(name, tmp_path) as (url, toys):
        async with SSEOxyGent(server_url=url) as agent, agent.stream("slow") as run:
            await anext(run)
            first = anyio.current_time()
            response: OxyResponse = await run.final_response()
            assert 1.2 < anyio.current_time() - first
        assert response.output == "42"
        assert began(toys) == 1
        assert "held_back" not in response.extra


@pytest.mark.needs("nginx")
async def test_a_proxy_that_buffers(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A proxy that buffers is detected by the heartbeats, and the warning names the cause."""
    with behind(BUFFERS, tmp_path) as (url, _), caplog.at_level(logging.WARNING, "oxygent_client"):
        async with SSEOxyGent(server_url=url) as agent:
            response = await agent.ask("slow")
    assert response.output == "42"
    assert response.extra.get("held_back") is True
    (text,) = [record.getMessage() for record in caplog.records]
    assert "nginx" in text
    assert "held back" in text


@pytest.mark.parametrize("name", PROPER)
async def test_a_server_that_ends_the_stream_early(name: str, tmp_path: Path) -> None:
    """A stream that ends early behind a proxy is incomplete, and the run is not retried."""
    with behind(name, tmp_path) as (url, toys):
        with pytest.raises(errors.IncompleteStreamError) as caught:
            await SSEOxyGent(server_url=url, timeouts=Timeouts(lookup=None)).ask("cut")
        assert caught.value.outcome is Outcome.STARTED
        assert began(toys) == 1


@pytest.mark.parametrize("name", PROPER)
async def test_a_server_that_closes_before_it_answers(name: str, tmp_path: Path) -> None:
    """A run that was passed to one server is not passed to the other: it may have begun."""
    async with (
        servers.serving(servers.play([servers.CLOSE])) as one,
        servers.serving(servers.play([servers.CLOSE])) as two,
    ):
        with proxy(name, tmp_path, [one.url, two.url]) as front, pytest.raises(errors.ServerError) as caught:
            await SSEOxyGent(server_url=front, timeouts=Timeouts(lookup=None)).ask("hi")
    assert caught.value.outcome is Outcome.UNKNOWN
    assert len(one.requests) + len(two.requests) == 1


@pytest.mark.parametrize("name", PROPER)
async def test_leaving_stops_the_run(name: str, tmp_path: Path) -> None:
    """Leaving the stream cancels the run at the server behind the proxy."""
    with behind(name, tmp_path) as (url, toys):
        async with SSEOxyGent(server_url=url).stream("long") as run:
            await anext(run)
        (one,) = [run for toy in toys for run in toy.runs]
        with anyio.fail_after(20):
            while one.state != "cancelled":  # noqa: ASYNC110  (it is in a thread of its own)
                await anyio.sleep(0.02)


@pytest.mark.parametrize("name", PROPER)
async def test_a_server_that_is_down(name: str, tmp_path: Path) -> None:
    """If one of two servers is down the proxy uses the other, and each run happens once."""
    toy = ToyRemote(scripts=SCRIPTS, pace=0)
    with serving(toy) as url, proxy(name, tmp_path, [f"http://127.0.0.1:{closed_port()}", url]) as front:
        async with SSEOxyGent(server_url=front) as agent:
            outputs = [(await agent.ask("slow")).output for _ in range(4)]
    assert outputs == ["42"] * 4
    assert len(toy.runs) == 4


@pytest.mark.parametrize("name", PROPER)
async def test_all_servers_are_down(name: str, tmp_path: Path) -> None:
    """A proxy without a server answers 502 with outcome UNKNOWN."""
    nobody = [f"http://127.0.0.1:{closed_port()}"]
    with proxy(name, tmp_path, nobody) as front, pytest.raises(errors.ServerError) as caught:
        await SSEOxyGent(server_url=front).ask("hi")
    assert caught.value.status in (502, 503)
    assert caught.value.outcome is Outcome.UNKNOWN
