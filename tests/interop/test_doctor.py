"""`oxygent-client doctor` at real servers."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import pytest

from oxygent_client import HTTPXTransport
from oxygent_client.cli._doctor import Doctor

from .environments import RELEASES

if TYPE_CHECKING:
    from oxygent_client.cli._doctor import Diagnosis

    from .harness import RemoteServer

pytestmark = pytest.mark.anyio

OLD: Final = "1.0.8"
UNHURRIED: Final = "paced doctor 50"
"""A run of more than a second."""


async def diagnosed(server: RemoteServer, path: str = "", *, seconds: float = 10.0, **more: Any) -> Diagnosis:
    """Return the diagnosis of a server."""
    settings = {"server_url": server.url + path, "callee": more.pop("callee", None)}
    doctor = Doctor(
        settings=settings,
        make_transport=lambda timeout: HTTPXTransport(connect=timeout),
        query=more.pop("query", None),
        seconds=seconds,
    )
    return await doctor.examine()


def codes(diagnosis: Diagnosis) -> list[str]:
    """Return the codes of the findings."""
    return [finding.code for finding in diagnosis.findings]


async def test_without_a_query(server: RemoteServer) -> None:
    """A healthy server has no finding, an old one its own; nothing runs."""
    before = len(server.records("started"))
    assert codes(await diagnosed(server)) == (["W-OLD-SERVER"] if server.version == OLD else [])
    assert len(server.records("started")) == before


async def test_with_a_query(server: RemoteServer) -> None:
    """A run at a real server has no finding of its own, and its events are not held back."""
    diagnosis = await diagnosed(server, query=UNHURRIED)
    assert codes(diagnosis) == (["W-OLD-SERVER"] if server.version == OLD else [])
    assert diagnosis.facts["buffering"] == "no"


async def test_a_wrong_path(newest: RemoteServer) -> None:
    """A path below the root is found."""
    assert codes(await diagnosed(newest, "/sse")) == ["E-PATH"]


async def test_an_agent_that_the_server_lacks(newest: RemoteServer) -> None:
    """A wrong name is found without a run."""
    assert codes(await diagnosed(newest, callee="nobody", query="echo hi")) == ["E-AGENT-NAME"]


async def test_a_server_without_records(newest: RemoteServer) -> None:
    """A server that shows no records is found."""
    assert codes(await diagnosed(newest, "/bare")) == ["W-NO-RECORDS"]


@pytest.mark.parametrize("server", RELEASES[:2], indirect=True)
async def test_a_dead_run(server: RemoteServer) -> None:
    """A run that died at its start, and sends heartbeats only, is found."""
    assert codes(await diagnosed(server, callee="broken_agent", query="hi", seconds=2.0)) == ["E-RUN-DEAD"]
