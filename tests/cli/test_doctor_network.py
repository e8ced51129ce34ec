"""`oxygent-client doctor` over real sockets: ports, TLS, certificates, and a proxy that buffers."""

from __future__ import annotations

import ssl
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final

import pytest
import trustme

from oxygent_client import HTTPXTransport
from oxygent_client.cli._doctor import Doctor
from oxygent_client.testing import ToyRemote
from oxygent_client.testing import serve as serving_toy
from oxygent_client.testing.script import Pause, Say, Script
from tests.support.proxies import proxy
from tests.support.servers import LAST, OK, closed_port, play, serving

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.seconds

AUTHORITY: Final = trustme.CA()
PAST: Final = datetime(2020, 1, 1, tzinfo=UTC)


def server_side(host: str = "127.0.0.1", **options: Any) -> ssl.SSLContext:
    """Return a server's context with a certificate for `host`."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    AUTHORITY.issue_cert(host, **options).configure_cert(context)  # pyright: ignore[reportUnknownMemberType]  (trustme types it by another package)
    return context


def client_side() -> ssl.SSLContext:
    """Return a client's context that trusts the authority of these tests."""
    context = ssl.create_default_context()
    AUTHORITY.configure_trust(context)  # pyright: ignore[reportUnknownMemberType]  (trustme types it by another package)
    return context


async def codes(url: str, *, verify: ssl.SSLContext | bool = True, query: str | None = None) -> list[str]:
    """Return the codes of the findings about a server."""
    doctor = Doctor(
        settings={"server_url": url},
        make_transport=lambda seconds: HTTPXTransport(connect=seconds, verify=verify),
        query=query,
        seconds=20.0,
    )
    return [finding.code for finding in (await doctor.examine()).findings]


async def test_a_wrong_port() -> None:
    """A port without a server."""
    assert await codes(f"http://127.0.0.1:{closed_port()}") == ["E-CONNECT"]


async def test_tls_at_a_plain_port() -> None:
    """A server without TLS."""
    with serving_toy(ToyRemote()) as url:
        assert await codes(url.replace("http:", "https:")) == ["E-NO-TLS"]


PORTS: Final[dict[str, tuple[dict[str, Any], str, bool, str]]] = {
    # the fault: (the certificate of the server, the scheme of the URL, whether its issuer is trusted, the code)
    "plain http at a TLS port": ({}, "http", True, "E-NEEDS-TLS"),
    "plain http at a TLS port of another issuer": ({}, "http", False, "E-NEEDS-TLS"),
    "expired": ({"not_before": PAST, "not_after": PAST}, "https", True, "E-TLS-EXPIRED"),
    "not yet valid": ({"not_before": datetime(2090, 1, 1, tzinfo=UTC)}, "https", True, "E-TLS-NOT-YET"),
    "another host": ({"host": "other.test"}, "https", True, "E-TLS-HOST"),
    "another address": ({"host": "127.0.0.2"}, "https", True, "E-TLS-HOST"),
    "another issuer": ({}, "https", False, "E-TLS-ISSUER"),
}


@pytest.mark.parametrize("fault", PORTS)
async def test_tls(fault: str) -> None:
    """A fault of TLS has its code and no other's."""
    certificate, scheme, is_trusting, expected = PORTS[fault]
    async with serving(play(OK + LAST), tls=server_side(**certificate)) as server:
        url = f"{scheme}://127.0.0.1:{server.port}"
        assert await codes(url, verify=client_side() if is_trusting else True) == [expected]


@pytest.mark.needs("nginx")
@pytest.mark.parametrize(
    ("name", "expected"),
    [
        pytest.param("nginx", [], id="passes events on"),
        pytest.param("nginx that buffers", ["E-BUFFERED"], id="buffers"),
    ],
)
async def test_nginx(tmp_path: Path, name: str, expected: list[str]) -> None:
    """A proxy that buffers is found by the arrival times of a run; one that does not has no finding."""
    script = Script((Say("1"), Pause(1.6), Say("2")), output="42")
    with serving_toy(ToyRemote(default=script)) as toy, proxy(name, tmp_path, [toy]) as url:
        assert await codes(url, query="go") == expected
