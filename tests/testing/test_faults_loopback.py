"""Faults and cassettes over sockets: the same table with shortened time-outs, since time is real.

Rule 1: each transport over a library has its line in TRANSPORTS.
Rule 2: a wrapper keeps the promises of the wrapped transport.
Rule 3: a run with a wrong time-out is repeated with longer ones: the machine may be busy.
"""

from __future__ import annotations

import urllib.request
from typing import TYPE_CHECKING, Final

import attrs
import pytest

from oxygent_client import HTTPXTransport, OxyError, Timeouts
from oxygent_client.testing import (
    TRANSPORT_PROMISES,
    Cassette,
    Entry,
    Failure,
    Peer,
    Piece,
    RecordingTransport,
    ReplayTransport,
    ToyRemote,
    check_transport,
    faults,
)
from oxygent_client.testing import serve as serving
from oxygent_client.transports.aiohttp import AiohttpTransport
from oxygent_client.transports.httpx2 import HTTPX2Transport
from tests.support.fault_cases import CASES, SHORT, Case, Ended, allowed, expected, play

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from oxygent_client import Transport
    from oxygent_client.testing import End

pytestmark = pytest.mark.seconds

TRANSPORTS: Final[dict[str, Callable[[], Transport]]] = {
    "httpx": HTTPXTransport,
    "httpx2": HTTPX2Transport,
    "aiohttp": AiohttpTransport,
}
SLOWER: Final = (1, 4, 16)
"""Factors of the time-outs, one for each repetition."""
A_MOMENT: Final = 30.0
"""Seconds that a run may take beyond its time-out on a busy machine."""


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    """The URL of a toy remote on a port, in a thread, so that its sockets do not count as the test's."""
    with serving(ToyRemote(pace=0)) as url:
        with urllib.request.urlopen(f"{url}/check_alive") as response:
            response.read()
        yield url


@pytest.mark.parametrize("transport", TRANSPORTS)
@pytest.mark.parametrize("case", CASES, ids=[case.name for case in CASES])
async def test_each_fault(case: Case, transport: str, url: str) -> None:
    """The error, outcome, partial result, attempts and duration of each fault over a socket are those of the table."""
    inner = TRANSPORTS[transport]()
    try:
        ended, seconds, least = await played(case, inner, url)
    finally:
        await inner.aclose()
    assert expected(case) == ended
    assert least <= seconds < least + A_MOMENT


async def played(case: Case, inner: Transport, url: str) -> tuple[Ended, float, float]:
    """Return the result of the run, its seconds, and its least seconds."""
    slower, *slowest = SLOWER
    while True:
        short = {} if case.clock is None else {case.clock: SHORT[case.clock] * slower}
        timeouts = attrs.evolve(Timeouts(), **short)
        ended, seconds = await play(case, inner, url, timeouts)
        if case.clock is None or ended == expected(case) or not slowest:
            least, _ = allowed(case, timeouts)
            return ended, seconds, least
        slower = slowest.pop(0)


WRAPPERS: Final[dict[str, Callable[[Transport], Transport]]] = {
    # these change nothing that a promise is about
    "a fault that strikes": lambda inner: faults.split_every(inner, 1000),
    "a fault that does not": lambda inner: faults.garbage(inner, times=0),
    "a recording": lambda inner: RecordingTransport(inner, Cassette()),
}


@pytest.mark.parametrize("wrapper", WRAPPERS)
async def test_the_wrappers_keep_the_promises(wrapper: str) -> None:
    """A fault and a recording around a good transport keep its promises."""
    report = await check_transport(lambda _: WRAPPERS[wrapper](HTTPXTransport()))
    assert report.names("kept") == tuple(TRANSPORT_PROMISES)


SENDS_NOTHING: Final = ("as_given", "left_early", "once")
"""Promises about the other side, which a replay does not have."""


def replay_of(peer: Peer) -> ReplayTransport:
    """Return a cassette with enough replies for the check, without the waits of its server."""
    entries: list[Entry] = []
    for path, reply in peer.replies.items():
        errors = [step for step in (reply.before, *reply.steps) if isinstance(step, OxyError)]
        end: End = Failure(type(errors[0]).__name__, str(errors[0]), errors[0].outcome) if errors else "complete"
        entry = Entry(method="POST", path=path, purpose="run", end=end)
        if reply.before is None:
            pieces = tuple(Piece(0.0, step) for step in reply.steps if isinstance(step, bytes))
            headers = {name.lower(): value for name, value in reply.headers.items()}
            entry = attrs.evolve(entry, status=reply.status, response_headers=headers, pieces=pieces)
        entries += [attrs.evolve(entry, method=method) for method in ("GET", "POST") for _ in range(50)]
    return ReplayTransport(Cassette(entries), match_payload=False)


async def test_a_replay_keeps_the_promises() -> None:
    """A replay keeps all promises except those about the other side."""
    # No response of a replay waits until its reader has left.
    report = await check_transport(replay_of, skip=(*SENDS_NOTHING, "cancelled"))
    assert {"live", "exact", "status", "broken_head", "broken_body", "usable"} <= set(report.names("kept"))
