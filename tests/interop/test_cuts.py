"""Runs whose connection is cut at a random moment: the client's outcome agrees with the agent's record.

Rule 1: each run goes through its own proxy (`cuts.py`), with a default client except for its time-outs; each moment is
    used in turn, and the exact cut is random.
Rule 2: the random numbers are the same each time, but in a soak; a failure is shown with its cut.
Rule 3: a test adds its rows to a table of docs/soak.md.
"""

from __future__ import annotations

import collections
import random
import time
import uuid
from typing import TYPE_CHECKING, Any, Final

import anyio
import attrs
import pytest

from oxygent_client import Outcome, Progress, SSEOxyGent, Timeouts, errors
from tests.conftest import SIZE

from .cuts import BUSY, Cut, line
from .harness import PATIENT

if TYPE_CHECKING:
    from collections.abc import Callable

    from oxygent_client import Run

    from .harness import RemoteServer

    Row = Callable[..., None]

pytestmark = pytest.mark.anyio

RUNS: Final = {"smoke": 15, "normal": 20, "soak": 200}[SIZE]
AT_A_TIME: Final = 25
"""A real server has one event loop; more at once would measure that."""

ALLOWED: Final[dict[Outcome, set[int]]] = {
    # the client's outcome: how often the agent may have run
    Outcome.NOT_SENT: {0},
    Outcome.REJECTED: {0},
    Outcome.UNKNOWN: {0, 1},
    Outcome.STARTED: {1},
    Outcome.COMPLETED: {1},
}

Lot = random.Random
END: Final = b"data: done\r\nretry: 3000\r\n\r\n"
MOMENTS: Final[dict[str, Callable[[Lot], tuple[Cut, ...]]]] = {
    # The request has some 1,000 bytes, the response 200 of headers and 5,000 of events. The first have two turns of 20.
    "after the request": lambda lot: (Cut(received=0),),
    "in the headers": lambda lot: (Cut(received=lot.randrange(1, 200)),),
    "in mid-stream": lambda lot: (Cut(received=lot.randrange(200, 5000)),),
    "some time later": lambda lot: (Cut(seconds=lot.uniform(0, 0.5)),),
    "in the answer": lambda lot: (Cut(said=b'"type": "answer"', further=lot.randrange(60)),),
    "in the close event": lambda lot: (Cut(said=b"event: close", further=lot.randrange(20)),),
    "after the close event": lambda lot: (Cut(said=END),),
    "in mid-stream, and the record": lambda lot: (
        Cut(received=lot.randrange(200, 5000)),
        Cut(sent=lot.choice((0, 100, 1000))),
    ),
    "before the request": lambda lot: (Cut(sent=0),),
    "in the request": lambda lot: (Cut(sent=lot.randrange(1, 1000)),),
    "refused": lambda lot: (),
    "refused at first": lambda lot: (),
    "busy": lambda lot: (Cut(instead=BUSY),) * 3,
    "busy at first": lambda lot: (Cut(instead=BUSY),),
    "never": lambda lot: (),
}
SHUT: Final = {"refused": None, "refused at first": 0.1}
"""Moments at which the port is closed, and the seconds after which it opens."""


@attrs.define
class Shot:
    """One run, how it was cut, and its result."""

    moment: str
    cuts: tuple[Cut, ...]
    query: str
    outcome: Outcome = Outcome.NOT_SENT
    output: Any = None
    recovered: bool = False
    error: str = ""
    ran: int = 0
    connections: int = 0

    @property
    def is_well(self) -> bool:
        """Return whether the outcome is true (rule 2 of the design), and an answer right."""
        answered = self.outcome is Outcome.COMPLETED
        right = self.output == (self.query.split()[1] if answered else None)
        return self.ran in ALLOWED[self.outcome] and right and answered is not bool(self.error)


def shots(
    moments: dict[str, Callable[[Lot], tuple[Cut, ...]]], loop: str, *, kinds: tuple[str, ...], length: int
) -> list[Shot]:
    """Return as many runs as this size has, with their cuts; the scenarios are `kinds`, with `length` messages."""
    lot = Lot(f"{loop} {time.time_ns() if SIZE == 'soak' else 0}")
    names = [*moments]
    made: list[Shot] = []
    for number in range(RUNS):
        moment = names[number % len(names)]
        cuts = (attrs.evolve(cut, reset=lot.random() < 0.5, deaf=lot.random() < 0.3) for cut in moments[moment](lot))
        made.append(Shot(moment, tuple(cuts), f"{lot.choice(kinds)} {uuid.uuid4().hex} {length}"))
    return made


async def all_of(fired: list[Shot], server: RemoteServer, fire: Callable[[Shot], Any]) -> None:
    """Make them, many at a time, and count the runs at the server."""
    limiter = anyio.CapacityLimiter(AT_A_TIME)

    async def one(shot: Shot) -> None:
        async with limiter:
            await fire(shot)

    async with anyio.create_task_group() as tasks:
        for shot in fired:
            tasks.start_soon(one, shot)
    async with SSEOxyGent(server_url=server.url, timeouts=PATIENT) as agent:
        await agent.ask("echo")  # all requests that reached the server have started, or ended
    ran = collections.Counter(record.get("query") for record in server.records("started"))
    for shot in fired:
        shot.ran = ran[shot.query]


def check(fired: list[Shot], *outcomes: Outcome) -> None:
    """Assert that each is right, and that its outcome is among `outcomes`, if given."""
    wrong = [shot for shot in fired if not shot.is_well or shot.outcome not in (outcomes or Outcome)]
    assert not wrong, "\n".join(map(repr, wrong))


def rows(row: Row, fired: list[Shot], loop: str) -> None:
    """Add the results to the table, a row for each moment."""
    for moment in dict.fromkeys(shot.moment for shot in fired):
        those = [shot for shot in fired if shot.moment == moment]
        outcomes = collections.Counter(shot.outcome for shot in those)
        cells = (*(outcomes[outcome] for outcome in Outcome), sum(shot.recovered for shot in those))
        counted = (len(those), *cells, sum(shot.ran for shot in those), max(shot.ran for shot in those))
        row(moment, loop, *counted)


# ---------------------------------------------------------------------------------------------------------------- Runs


@pytest.mark.table("real cuts")
async def test_cut_runs(newest: RemoteServer, anyio_backend_name: str, row: Row) -> None:
    """No agent runs twice, none ran with outcome NOT_SENT or REJECTED, and each answer is right."""

    async def fire(shot: Shot) -> None:
        async with line(newest.port, *shot.cuts, shut=shot.moment in SHUT) as way:
            run = SSEOxyGent(server_url=way.url, timeouts=PATIENT).stream(
                shot.query, arguments={"stored": "by default"}
            )
            async with anyio.create_task_group() as tasks:
                if (later := SHUT.get(shot.moment)) is not None:
                    tasks.start_soon(open_later, way.open, later)
                try:
                    async with run:
                        response = await run.final_response()
                    shot.output, shot.recovered = response.output, response.extra.get("recovered", False)
                except errors.OxyError as error:
                    shot.error, shot.outcome = repr(error), error.outcome
                else:
                    shot.outcome = Outcome.COMPLETED
                assert run.outcome is shot.outcome
            shot.connections = way.connections

    fired = shots(MOMENTS, anyio_backend_name, kinds=("tagged", "paced"), length=25)
    await all_of(fired, newest, fire)

    rows(row, fired, anyio_backend_name)
    check(fired)
    # A run that was cut in mid-stream is recovered if it ends soon, and else only known to have started.
    assert {Outcome.NOT_SENT, Outcome.REJECTED, Outcome.COMPLETED} <= {shot.outcome for shot in fired}
    assert any(shot.recovered for shot in fired)


async def open_later(open_: Callable[[], Any], seconds: float) -> None:
    """Open a proxy that was shut."""
    await anyio.sleep(seconds)
    await open_()


# ------------------------------------------------------------------------------------------------------- Detached runs

SHORT: Final = Timeouts(idle=4.0, total=60.0)
"""A half-closed connection loses events, the last one too; then the record is checked after `idle`."""

RETRY: Final = 3000 if SIZE == "soak" else 50
"""Milliseconds of the server's `retry:` field; real ones send 3,000."""


def one_cut(lot: Lot) -> Cut:
    """A cut of a connection for events, or for a record."""
    return lot.choice(
        (
            Cut(sent=lot.randrange(500)),
            Cut(received=lot.randrange(200)),
            Cut(received=lot.randrange(200, 4000)),
            Cut(seconds=lot.uniform(0, 1.0)),
            Cut(said=b'"type": "answer"', further=lot.randrange(60)),
            Cut(said=b"event: close", further=lot.randrange(20)),
            Cut(said=END),
        )
    )


DETACHED: Final[dict[str, Callable[[Lot], tuple[Cut, ...]]]] = {
    # The first connection is that of the start, all others those of the reader.
    "never": lambda lot: (),
    # The second is then that of the record check for the start: without it the outcome would be unknown.
    "the response to `start`": lambda lot: (Cut(received=lot.randrange(100)), Cut(), one_cut(lot)),
    "before the first event": lambda lot: (Cut(), Cut(received=lot.randrange(200)), one_cut(lot)),
    "in mid-stream": lambda lot: (Cut(), *(Cut(received=lot.randrange(200, 3000)) for _ in range(3))),
    "at its end": lambda lot: (Cut(), Cut(said=b'"type": "answer"'), one_cut(lot)),
    "anywhere": lambda lot: (Cut(), *(one_cut(lot) for _ in range(lot.randrange(1, 5)))),
}


async def heard(agent: SSEOxyGent, token: str) -> tuple[Run, list[int]]:
    """Return a run that was read, and the numbers of its messages."""
    async with agent.attach(token) as run:
        return run, [event.content["n"] async for event in run if isinstance(event, Progress)]


@pytest.mark.table("detached")
async def test_cut_detached_runs(newest: RemoteServer, anyio_backend_name: str, row: Row) -> None:
    """However often the connection is cut, a reader of a detached run gets its answer, and no message twice."""

    async def fire(shot: Shot) -> None:
        async with line(newest.port, *shot.cuts) as way:
            beginner, listener = (SSEOxyGent(server_url=way.url, timeouts=SHORT) for _ in range(2))
            try:
                handle = await beginner.start(shot.query, arguments={"stored": "by default", "retry": RETRY})
                try:
                    run, told = await heard(listener, handle.to_token())
                except errors.ConnectionLostError as error:
                    if error.partial is not None:
                        raise
                    # Each of its three attempts to attach was cut; the token can be used again.
                    run, told = await heard(listener, handle.to_token())
            except errors.OxyError as error:
                shot.error, shot.outcome = repr(error), error.outcome
            else:
                shot.output, shot.recovered = run.response.output, run.response.extra.get("recovered", False)
                shot.outcome = run.outcome
                assert sorted({*told}) == told
            shot.connections = way.connections

    fired = shots(DETACHED, anyio_backend_name, kinds=("paced",), length=40)
    await all_of(fired, newest, fire)

    rows(row, fired, anyio_backend_name)
    check(fired, Outcome.COMPLETED)
    assert any(shot.recovered for shot in fired)
