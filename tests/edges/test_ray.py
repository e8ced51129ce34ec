"""`AskAgent`: batches of a Ray dataset, without Ray. tests/clients/test_ray.py runs it in a local Ray."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import pytest

from oxygent_client import Retry, Timeouts
from oxygent_client.errors import ConfigurationError, ConnectError
from oxygent_client.integrations.ray import AskAgent
from oxygent_client.policies import BearerAuth
from oxygent_client.testing import FakeTransport, Reply, ToyRemote
from oxygent_client.testing.script import SCRIPTS, Call, Pause, Script
from oxygent_client.transports.asgi import ASGITransport

if TYPE_CHECKING:
    from collections.abc import Mapping

URL: Final = "http://remote.test"
QUERIES: Final = ("echo one", "raise", "number")
EXPECTED: Final = {
    "status": ["completed", "failed", "completed"],
    "output": ["one", "", '{"n": 1}'],
}


@pytest.fixture
def toy() -> ToyRemote:
    """The server, which outlives the workers."""
    return ToyRemote(pace=0, scripts={**SCRIPTS, "number": Script([Call("add_up")], output={"n": 1})})


def batch_of(*queries: str) -> dict[str, Any]:
    """Return a batch."""
    return {"id": [*range(len(queries))], "query": [*queries], "more": [1.5] * len(queries)}


def columns(batch: Mapping[str, Any]) -> dict[str, Any]:
    """Return the columns with a fixed value."""
    return {name: batch[name] for name in EXPECTED}


def test_a_batch(toy: ToyRemote) -> None:
    """Each row has its status and output; the other columns stay."""
    worker = AskAgent(URL, job="j", transport=ASGITransport(toy))
    done = worker(batch_of(*QUERIES))
    assert columns(done) == EXPECTED
    assert done["more"] == [1.5, 1.5, 1.5]
    assert [bool(error) for error in done["error"]] == [False, True, False]
    assert [run.trace_id for run in sorted(toy.runs, key=lambda run: done["trace_id"].index(run.trace_id))] == (
        done["trace_id"]
    )


def test_a_batch_that_ray_repeats(toy: ToyRemote) -> None:
    """Another worker that gets the same batch reads the results from the server's record."""
    first = AskAgent(URL, job="j", transport=ASGITransport(toy))(batch_of(*QUERIES))
    again = AskAgent(URL, job="j", transport=ASGITransport(toy))(batch_of(*QUERIES))
    assert columns(again) == EXPECTED
    assert again["trace_id"] == first["trace_id"]
    assert len(toy.runs) == 3


def test_another_job(toy: ToyRemote) -> None:
    """Another job, or another query with the same id, is another run."""
    for job, query in (("j", "echo 1"), ("j", "echo 2"), ("k", "echo 2")):
        AskAgent(URL, job=job, transport=ASGITransport(toy))(batch_of(query))
    assert [run.query for run in toy.runs] == ["echo 1", "echo 2", "echo 2"]


def test_a_run_in_progress() -> None:
    """A run that a worker which died had started is read, not started again."""
    toy = ToyRemote(scripts={"slow": Script([Pause(0.3)], output="done")})
    dying = AskAgent(URL, job="j", transport=ASGITransport(toy), timeouts=Timeouts(total=0.1, lookup=0.01))
    assert dying(batch_of("slow"))["status"] == ["unknown"]
    worker = AskAgent(URL, job="j", transport=ASGITransport(toy), timeouts=Timeouts(lookup=0.01))
    assert worker(batch_of("slow"))["output"] == ["done"]
    assert len(toy.runs) == 1


def test_a_server_that_is_down() -> None:
    """A row whose query surely did not run says so."""
    view = Reply.json({"code": 200, "data": {"nodes": []}})
    transport = FakeTransport({"/view": view, "/async/chat": Reply(before=ConnectError("no connection"))})
    done = AskAgent(URL, job="j", transport=transport, retry=Retry(attempts=1))(batch_of("echo 1"))
    assert done["status"] == ["not_run"]
    assert done["error"] == ["no connection"]


UNREADABLE: Final = {
    "no connection": Reply(before=ConnectError("no connection")),
    "server error": Reply(status=503),
    "no records": Reply(status=404),
    "not JSON": Reply([b"<html>"]),
}


@pytest.mark.parametrize("view", UNREADABLE.values(), ids=UNREADABLE)
def test_a_record_that_cannot_be_read(view: Reply) -> None:
    """A row whose record cannot be read is not run: a worker that died may have run it."""
    transport = FakeTransport({"/view": view, "/async/chat": Reply.json({"code": 200, "data": {}})})
    settings: dict[str, Any] = {"retry": Retry(attempts=1), "timeouts": Timeouts(lookup=0.01)}
    done = AskAgent(URL, job="j", transport=transport, **settings)(batch_of("echo 1"))
    assert done["status"] == ["unknown"]
    assert done["error"] != [""]
    assert {request.path.partition("?")[0] for request in transport.requests} == {"/view"}


def test_credentials(toy: ToyRemote) -> None:
    """A credential that the remote repeats is redacted, also in what is read from its record."""
    settings: dict[str, Any] = {"transport": ASGITransport(toy), "auth": BearerAuth("t0p-s3cret")}
    for _ in range(2):
        worker = AskAgent("https://remote.test", job="j", **settings)
        assert worker(batch_of("echo my t0p-s3cret"))["output"] == ["my [scrubbed]"]


def test_no_job() -> None:
    """A job has a name."""
    with pytest.raises(ConfigurationError, match="job"):
        AskAgent(URL, job="")
