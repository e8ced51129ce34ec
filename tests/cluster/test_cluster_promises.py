"""The cluster on a real network: the promises of `Transport`, with and without hedging, and the system's resolver."""

from __future__ import annotations

from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Final

import attrs
import pytest

from oxygent_client import HTTPRequest, HTTPResponse, HTTPXTransport
from oxygent_client.cluster import DNS, Cluster, Hedge
from oxygent_client.testing import TRANSPORT_PROMISES, check_transport
from tests.support.servers import closed_port

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

TWICE: Final = ("as_given", "once", "abandoned")
"""The promises that hedging breaks: both exchanges may be sent. One that is left while it sends leaves a generator of
its library to the garbage collector (the filter of warnings in pyproject.toml says which).
"""


class OfOneServer:
    """A transport that uses a cluster per server; with hedging it has each server twice, under two names."""

    def __init__(self, hedge: Hedge | None) -> None:
        self.inner = Cluster(["http://127.0.0.1:1"], transport=HTTPXTransport(), hedge=hedge)

    @asynccontextmanager
    async def exchange(self, request: HTTPRequest, /) -> AsyncGenerator[HTTPResponse, None]:
        """As `Transport.exchange`."""
        twice = self.inner.hedge is not None
        self.inner.set_members([request.base_url, request.base_url.replace("127.0.0.1", "localhost")][: 1 + twice])
        context = attrs.evolve(request.context, idempotent=twice)
        async with self.inner.exchange(attrs.evolve(request, base_url="", context=context)) as response:
            yield response

    async def aclose(self) -> None:
        """As `Transport.aclose`."""
        await self.inner.aclose()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("skipped", "hedge"), [((), None), (TWICE, Hedge(after=0.0))], ids=["one at a time", "hedged from the start"]
)
async def test_a_cluster_keeps_the_promises(skipped: tuple[str, ...], hedge: Hedge | None) -> None:
    """The cluster keeps each promise; with hedging, all but that a request is sent once."""
    report = await check_transport(lambda _: OfOneServer(hedge), skip=skipped)
    assert report.names("kept") == tuple(check for check in TRANSPORT_PROMISES if check not in skipped)


async def test_the_systems_resolver() -> None:
    """Without a resolver the system's is used, for A and AAAA records."""
    port = closed_port()
    found = Cluster([DNS(f"http://localhost:{port}")])
    urls = {each.url for each in await found.status()}
    assert {f"http://127.0.0.1:{port}"} <= urls <= {f"http://127.0.0.1:{port}", f"http://[::1]:{port}"}
    await found.aclose()
