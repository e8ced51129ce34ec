"""`oxygent-client doctor`: each fault of a server, or of the way to it, has its own code and no other's.

Rule: time is virtual; the server is the toy remote in this process, with single responses replaced.
"""

from __future__ import annotations

import socket
import ssl
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any, Final

import pytest

from oxygent_client import errors
from oxygent_client.cli import main
from oxygent_client.cli._doctor import BY_CERTIFICATE, BY_CLASS, OTHER_SCHEME, Diagnosis, Doctor, code_of, proxy_of
from oxygent_client.cli._doctor_command import lines_of
from oxygent_client.cli._findings import FINDINGS
from oxygent_client.policies import BearerAuth, Retry
from oxygent_client.testing import FakeTransport, Reply, ToyRemote, answer, close, heartbeat, message, pause, tool_call
from oxygent_client.testing import serve as serving
from oxygent_client.testing.script import SCRIPTS, Close, Cut, Pause, Say, Script
from oxygent_client.transports.asgi import ASGITransport
from tests.conftest import ROOT
from tests.support.virtual import anyio_backend as anyio_backend

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Iterable, Mapping

    from oxygent_client import HTTPRequest, HTTPResponse

URL: Final = "http://remote.test"
LONG: Final = Script([Say("1"), Pause(50), Say("2")], output="42")


class Replaced:
    """A transport to a toy remote, with other replies on some paths."""

    def __init__(self, replies: Mapping[str, Reply | Iterable[Reply]], **toy: Any) -> None:
        scripts = {**SCRIPTS, "long": LONG, "cut": Script([Say("1"), Cut()]), "close": Script([Say("1"), Close()])}
        self.toy = ToyRemote(scripts=scripts, **toy)
        self._inner, self._fake, self._replies = ASGITransport(self.toy), FakeTransport(replies), replies

    @asynccontextmanager
    async def exchange(self, request: HTTPRequest, /) -> AsyncGenerator[HTTPResponse, None]:
        path = request.path.partition("?")[0]
        transport = self._fake if path in self._replies else self._inner
        async with transport.exchange(request) as response:
            yield response

    async def aclose(self) -> None:
        pass  # another diagnosis step may use it


async def diagnosed(transport: Replaced, *, url: str = URL, query: str | None = None, **more: Any) -> Diagnosis:
    """Return the diagnosis of a server."""
    settings: dict[str, Any] = {"server_url": url, **more.pop("settings", {})}
    return await Doctor(settings=settings, make_transport=lambda _: transport, query=query, **more).examine()


def codes(diagnosis: Diagnosis) -> list[str]:
    """Return the codes of the findings."""
    return [finding.code for finding in diagnosis.findings]


# ------------------------------------------------------------------------------------------------------- Without faults


async def test_a_healthy_server() -> None:
    """A healthy server has no finding, and nothing runs there."""
    transport = Replaced({})
    diagnosis = await diagnosed(transport)
    assert codes(diagnosis) == []
    assert diagnosis.is_healthy
    assert diagnosis.facts["agents"].startswith("trip_planner, ")
    assert transport.toy.runs == []


async def test_a_run_at_a_healthy_server() -> None:
    """With a query, the agent runs once, and heartbeats and buffering are measured."""
    transport = Replaced({})
    diagnosis = await diagnosed(transport, query="long")
    assert codes(diagnosis) == []
    assert diagnosis.facts["heartbeats"] == "every 15.0 s"
    assert diagnosis.facts["buffering"] == "no"
    assert [run.query for run in transport.toy.runs] == ["long"]


async def test_a_short_run() -> None:
    """A short run does not tell whether a proxy buffers."""
    diagnosis = await diagnosed(Replaced({}), query="echo hi", settings={"callee": "trip_planner"})
    assert codes(diagnosis) == []
    assert "too short" in diagnosis.facts["buffering"]


def moved(path: str, reply: Reply) -> dict[str, Reply]:
    """Return a redirect from a path to one below `/v2`, and the reply there."""
    return {path: Reply(status=307, headers={"location": f"/v2{path}"}), f"/v2{path}": reply}


async def test_redirects_that_are_followed() -> None:
    """What is measured is the response at the end of a redirect within the server."""
    replies = {
        **moved("/get_agents", Reply.json({"code": 200, "data": {"agents": [{"name": "moved"}]}})),
        **moved("/view", Reply.json({"code": 200, "data": {"nodes": []}})),
        **moved("/sse/chat", Reply((pause(5), message("1"), pause(5), answer("42"), close()))),
    }
    diagnosis = await diagnosed(Replaced(replies), query="any")
    assert codes(diagnosis) == []
    assert diagnosis.facts["agents"].endswith(", moved")
    assert diagnosis.facts["records"] == "yes"
    assert diagnosis.facts["buffering"] == "no"


async def test_a_redirect_to_no_url() -> None:
    """A redirect that is none ends the diagnosis with its code."""
    assert codes(await diagnosed(Replaced(page(307, location="http://[")))) == ["E-REDIRECT"]


# ----------------------------------------------------------------------------------------------------------- Each fault


def page(status: int, body: bytes = b"<html>", **headers: str) -> dict[str, Reply]:
    """Return this response for the paths that are requested first."""
    reply = Reply((body,), status=status, headers={"content-type": "text/html", **headers})
    return {"/check_alive": reply}


def late(status: int) -> dict[str, Reply]:
    """Return a run whose response is a page after 15 s."""
    return {"/sse/chat": Reply((b"<html>",), status=status, headers={"content-type": "text/html"}, before=pause(15))}


def raising(error: errors.OxyError) -> Reply:
    """Return a reply that raises the error itself, with its cause."""

    async def fail() -> None:
        raise error

    return Reply(before=fail)


def failing(error: errors.OxyError) -> dict[str, Reply]:
    """Return a request that fails."""
    return {"/check_alive": raising(error)}


def caused(error: errors.OxyError, cause: Exception) -> errors.OxyError:
    """Return the error with its cause."""
    error.__cause__ = cause
    return error


def a_proxy(url: str) -> str:
    """Return the proxy of each URL."""
    return f"proxy of {url}"


EMPTY: Final = Reply.json({"code": 200, "data": {"id_dict": {}, "organization": {"path": [""]}}})
NO_LIST: Final = Reply.json({"code": 200, "data": {"agents": [5]}})
ALIVE: Final = Reply.json({"alive": 1})
ONCE: Final = {"settings": {"retry": Retry(attempts=1)}}
IN_ONE_PIECE: Final = Reply((tool_call("master", caller="user") + answer("42") + close(),), before=pause(5))
FAULTS: Final[dict[str, tuple[dict[str, Any], str]]] = {
    # the fault: (what differs from a healthy server, the only code)
    "wrong path": ({"replies": page(404)}, "E-PATH"),
    "401": ({"replies": page(401)}, "E-CREDENTIALS"),
    "403": ({"replies": page(403)}, "E-PERMISSION"),
    "429": ({"replies": page(429)}, "E-RATE-LIMIT"),
    "502 of a proxy": ({"replies": page(502)}, "E-SERVER"),
    "redirect": ({"replies": page(302, location="http://other.test/")}, "E-REDIRECT"),
    "HTML of a proxy": ({"replies": page(200)}, "E-NOT-OXYGENT"),
    "not alive": ({"replies": {"/check_alive": Reply.json({"alive": 0})}}, "E-NOT-ALIVE"),
    "no response": ({"replies": {"/check_alive": Reply(before=pause(60))}}, "E-SLOW"),
    "no connection": ({"replies": failing(errors.ConnectError("x"))}, "E-CONNECT"),
    "no connection in time": ({"replies": failing(errors.ConnectTimeoutError("x"))}, "E-CONNECT-TIMEOUT"),
    "no proxy": ({"replies": failing(errors.ConnectError("x")), "proxy_of": a_proxy}, "E-PROXY"),
    "unknown host": ({"replies": failing(caused(errors.ConnectError("x"), socket.gaierror()))}, "E-DNS"),
    "secrets over plain http": ({"replies": {}, "settings": {"auth": BearerAuth("t0p-secret")}}, "E-INSECURE"),
    "no agents": ({"replies": {"/get_organization": EMPTY, "/get_agents": NO_LIST}}, "E-NO-AGENTS"),
    "name mismatch": ({"replies": {}, "settings": {"callee": "nobody"}}, "E-AGENT-NAME"),
    "name mismatch before a run": ({"replies": {}, "settings": {"callee": "nobody"}, "query": "echo"}, "E-AGENT-NAME"),
    "1.0.8": ({"replies": {}, "dialect": "1.0.8"}, "W-OLD-SERVER"),
    "no records": ({"replies": {}, "records": False}, "W-NO-RECORDS"),
    "dead run": ({"replies": {"/sse/chat": Reply((heartbeat(), pause(15)) * 99)}, "query": "q"}, "E-RUN-DEAD"),
    "dead run before its first heartbeat": (
        {"replies": {"/sse/chat": Reply((pause(999),))}, "query": "q"},
        "E-RUN-DEAD",
    ),
    "quiet run": ({"replies": {}, "query": "hang"}, "E-RUN-QUIET"),
    "cut": ({"replies": {}, "query": "cut"}, "E-CUT"),
    "no answer": ({"replies": {}, "query": "close"}, "E-NO-ANSWER"),
    "failed agent": ({"replies": {}, "query": "fail"}, "E-AGENT-FAILED"),
    "no stream": ({"replies": {"/sse/chat": Reply.json({})}, "query": "q"}, "E-NOT-OXYGENT"),
    "504 of a proxy for the run": ({"replies": late(504), "query": "q", **ONCE}, "E-SERVER"),
    "401 for the run": ({"replies": late(401), "query": "q"}, "E-CREDENTIALS"),
    "HTML of a proxy for the run": ({"replies": late(200), "query": "q"}, "E-NOT-OXYGENT"),
    "no connection for the run": (
        {"replies": {"/sse/chat": Reply(before=errors.ConnectError("x"))}, "query": "q"},
        "E-CONNECT",
    ),
    "buffering proxy": ({"replies": {"/sse/chat": IN_ONE_PIECE}, "query": "q"}, "E-BUFFERED"),
    "buffering proxy and a long run": (
        {"replies": {"/sse/chat": Reply(before=pause(999))}, "query": "q"},
        "E-BUFFERED",
    ),
    "two heartbeats at once": (
        {
            "replies": {
                "/sse/chat": Reply((message("a"), pause(40), heartbeat() * 2, pause(1), answer("42") + close()))
            },
            "query": "q",
            "seconds": 20.0,
        },
        "E-BUFFERED",
    ),
    "blocking agent": (
        {
            "replies": {"/sse/chat": IN_ONE_PIECE, "/check_alive": [ALIVE, Reply(before=pause(5))]},
            "query": "q",
        },
        "W-BLOCKED",
    ),
}
TOY: Final = ("dialect", "records")


@pytest.mark.parametrize("fault", FAULTS)
async def test_each_fault(fault: str) -> None:
    """A fault has its code and no other's."""
    facts, expected = FAULTS[fault]
    toy = {name: value for name, value in facts.items() if name in TOY}
    more = {name: value for name, value in facts.items() if name not in (*TOY, "replies")}
    diagnosis = await diagnosed(Replaced(facts["replies"], **toy), **more)
    assert codes(diagnosis) == [expected]
    assert diagnosis.is_healthy == expected.startswith("W-")


def certificate_error(code: int) -> ssl.SSLCertVerificationError:
    """Return the exception of a certificate that is not accepted."""
    error = ssl.SSLCertVerificationError()
    error.verify_code = code
    return error


@pytest.mark.parametrize("reason", [*BY_CERTIFICATE, 999])
def test_each_reason_of_a_certificate(reason: int) -> None:
    """The reason of OpenSSL selects the code."""
    error = caused(errors.TLSError("x"), ExceptionGroup("", [certificate_error(reason)]))
    assert code_of(error) == BY_CERTIFICATE.get(reason, "E-TLS")


CLASSES: Final = [*BY_CLASS, (errors.OxyError, "E-OTHER")]


@pytest.mark.parametrize(("cls", "code"), CLASSES, ids=[code for _, code in CLASSES])
def test_each_class_of_error(cls: type[errors.OxyError], code: str) -> None:
    """Each line of the table is reached; a run without an event is dead."""
    assert code_of(cls("x")) == {"E-RUN-QUIET": "E-RUN-DEAD"}.get(code, code)


class Unclosed:
    """A transport that the doctor may close, and use again."""

    def __init__(self, inner: FakeTransport) -> None:
        self.exchange = inner.exchange

    async def aclose(self) -> None:
        pass


NO_RETRY: Final = Retry(attempts=1)
NO_TLS: Final = raising(errors.TLSError("x"))
LOCAL: Final = "http://127.0.0.1:80"
TLS: Final[dict[str, tuple[str, Reply, Reply, str]]] = {
    # the port: (the URL, the reply, the reply in the other scheme, the code)
    "http, speaks TLS": (LOCAL, raising(errors.ConnectionLostError("x")), ALIVE, "E-NEEDS-TLS"),
    "http, speaks TLS with a certificate of its own": (
        LOCAL,
        raising(errors.RemoteProtocolError("x")),
        raising(caused(errors.TLSError("x"), certificate_error(18))),
        "E-NEEDS-TLS",
    ),
    "http, refuses plain http": (LOCAL, Reply(status=400), ALIVE, "E-NEEDS-TLS"),
    "http, speaks neither": (LOCAL, raising(errors.ConnectionLostError("x")), NO_TLS, "E-LOST"),
    "https, speaks plain http": ("https://remote.test", NO_TLS, ALIVE, "E-NO-TLS"),
    "https, refuses plain http": ("https://remote.test", NO_TLS, Reply(status=400), "E-TLS"),
    "https, does not respond": ("https://remote.test", NO_TLS, Reply(before=pause(999)), "E-TLS"),
}


@pytest.mark.parametrize("port", TLS)
async def test_the_other_scheme(port: str) -> None:
    """If the port speaks the other scheme, that is the finding; the probe carries no credentials."""
    url, reply, other, expected = TLS[port]
    fake = FakeTransport({"/check_alive": [reply, other]})
    doctor = Doctor(
        settings={"server_url": url.replace("//", "//user:secret@"), "headers": {"x-a": "1"}, "retry": NO_RETRY},
        make_transport=lambda _: Unclosed(fake),
    )
    diagnosis = await doctor.examine()
    assert codes(diagnosis) == [expected]
    assert diagnosis.server_url == url
    assert fake.requests[-1].headers == {}
    assert fake.requests[-1].base_url.split(":")[0] == OTHER_SCHEME[url.split(":")[0]][0]
    assert "secret" not in fake.requests[-1].base_url


async def test_names_that_repeat_a_credential() -> None:
    """A credential that the server repeats is redacted."""
    organization = {"code": 200, "data": {"organization": {"name": "agent of t0p-secret"}}}
    transport = Replaced({"/get_organization": Reply.json(organization)})
    auth = {"auth": BearerAuth("t0p-secret")}
    diagnosis = await diagnosed(transport, url="https://remote.test", settings=auth)
    assert diagnosis.facts["agents"].startswith("agent of [scrubbed], ")


# -------------------------------------------------------------------------------------------------------------- Proxies

PROXIES: Final[dict[str, tuple[str, dict[str, str], str]]] = {
    "none": ("https://remote.test", {}, ""),
    "for its scheme": ("https://remote.test", {"https_proxy": "http://user:secret@proxy.test:3128"}, "proxy.test"),
    "without a scheme": ("http://remote.test", {"http_proxy": "proxy.test:3128"}, "proxy.test"),
    "for all": ("https://remote.test", {"all_proxy": "socks5://proxy.test"}, "proxy.test"),
    "for another scheme": ("http://remote.test", {"https_proxy": "http://proxy.test"}, ""),
    "excluded": ("http://remote.test", {"http_proxy": "http://proxy.test", "no_proxy": "remote.test"}, ""),
    "loopback": ("http://127.0.0.1:80", {"http_proxy": "http://proxy.test"}, ""),
    "not usable": ("http://remote.test", {"http_proxy": "http://"}, "unknown"),
}


@pytest.mark.parametrize("case", PROXIES)
def test_the_proxy(case: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The proxy of the environment is shown by its host alone."""
    url, variables, expected = PROXIES[case]
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert proxy_of(url) == expected


# ---------------------------------------------------------------------------------------------------------- The command


def test_the_command(capsys: pytest.CaptureFixture[str]) -> None:
    """The exit code is 0 for a healthy server, also with warnings, and 8 with an error."""
    with serving(ToyRemote(pace=0, records=False)) as url:
        assert main(["doctor", url]) == 0
        assert "W-NO-RECORDS" in capsys.readouterr().out
        assert main(["doctor", f"{url}/somewhere", "--json"]) == 8
        assert '"code": "E-PATH", "level": "error"' in capsys.readouterr().out


async def test_the_text() -> None:
    """The text has the facts, each finding with its remedy, and the result."""
    diagnosis = await diagnosed(Replaced(page(404)))
    text = "\n".join(lines_of(diagnosis))
    assert text.startswith("server  http://remote.test\n")
    assert all(part in text for part in ("E-PATH", *FINDINGS["E-PATH"]))
    assert text.endswith("not healthy")
    diagnosis = await diagnosed(Replaced({}, records=False))
    assert "\n".join(lines_of(diagnosis)).endswith("\nhealthy")


def test_the_page() -> None:
    """The page lists each code, with its meaning and remedy."""
    page = (ROOT / "docs" / "howto" / "doctor.md").read_text(encoding="utf-8")
    assert [code for code, row in FINDINGS.items() if f"| `{code}` | {' | '.join(row)} |" not in page] == []
