"""Diagnose the connection to a server: network, TLS, path, credentials, agents, records, and on request a run.

Rule 1: nothing runs at the server unless a query is given. Heartbeats and buffering are measured only then.
Rule 2: a finding follows from the class of an error and of its causes, or from times and statuses, never from a text.
Rule 3: the first error of the connection ends the diagnosis: what follows would be errors of the same cause.
Rule 4: the probe whether a port speaks TLS carries no credentials.
"""

from __future__ import annotations

import json
import socket
import ssl
import uuid
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterator, Mapping
from contextlib import AsyncExitStack, aclosing, asynccontextmanager, suppress
from typing import Any, Final, cast
from urllib.parse import urljoin, urlsplit, urlunsplit
from urllib.request import getproxies, proxy_bypass

import anyio
import attrs
from attrs import define, field, frozen

from oxygent_client import HTTPRequest, HTTPResponse, SSEOxyGent, Timeouts, Transport, errors
from oxygent_client.cli._findings import FINDINGS, Finding
from oxygent_client.cli._options import shown_url
from oxygent_client.cli._terminal_text import line
from oxygent_client.sanitize import without_credentials

BY_CLASS: Final[tuple[tuple[type[errors.OxyError], str], ...]] = (
    (errors.InsecureTransportError, "E-INSECURE"),
    (errors.UnknownCalleeError, "E-AGENT-NAME"),
    (errors.ConnectTimeoutError, "E-CONNECT-TIMEOUT"),
    (errors.TLSError, "E-TLS"),
    (errors.ConnectError, "E-CONNECT"),
    (errors.ConnectionLostError, "E-LOST"),
    (errors.RedirectError, "E-REDIRECT"),
    (errors.AuthenticationError, "E-CREDENTIALS"),
    (errors.PermissionDeniedError, "E-PERMISSION"),
    (errors.NotFoundError, "E-PATH"),
    (errors.RateLimitedError, "E-RATE-LIMIT"),
    (errors.StatusError, "E-SERVER"),
    (errors.SilenceTimeoutError, "E-SILENCE"),
    (errors.IdleTimeoutError, "E-RUN-QUIET"),
    (errors.OxyTimeoutError, "E-SLOW"),
    (errors.IncompleteStreamError, "E-CUT"),
    (errors.NoAnswerError, "E-NO-ANSWER"),
    (errors.RemoteAgentError, "E-AGENT-FAILED"),
    (errors.RemoteProtocolError, "E-NOT-OXYGENT"),
)
"""The code of an error; the first class that matches counts, and E-OTHER without one."""
BY_CERTIFICATE: Final[Mapping[int, str]] = {
    **dict.fromkeys((2, 18, 19, 20, 21), "E-TLS-ISSUER"),
    9: "E-TLS-NOT-YET",
    10: "E-TLS-EXPIRED",
    **dict.fromkeys((62, 64), "E-TLS-HOST"),
}
"""The code by OpenSSL's reason why a certificate is not accepted. Source: x509_vfy.h."""
NO_STREAM: Final = (errors.StatusError, errors.NotAnEventStreamError, errors.EnvelopeError)
"""Errors of a response that is not a stream of events: its time tells nothing about buffering."""
OTHER_SCHEME: Final[Mapping[str, tuple[str, str]]] = {"http": ("https", "E-NEEDS-TLS"), "https": ("http", "E-NO-TLS")}
"""The scheme that a port may speak instead, and the code if it does."""

REQUEST_SECONDS: Final = 10.0
"""Time-out of one request; a run gets 3 times as much without an event, and 12 times as much in all."""
ONE_PIECE: Final = 0.1
"""A stream that is received within this share of its duration was held back."""
SHORTEST: Final = 1.0
"""Seconds that a run must take to tell whether it was held back."""
QUICK: Final = 0.8
"""Seconds within which a server that is not blocked answers a health check that is sent during a run."""
SHOWN: Final = 20
"""Names of agents."""
LIST: Final = "/get_agents"
"""The path of the list of agents, which releases before 1.0.13 lack."""


# --- the recorder -----------------------------------------------------------------------------------------------------


@define
class Exchange:
    """One request and its response, as they were seen."""

    sent_at: float
    status: int = 0
    arrivals: list[float] = field(factory=list[float])
    """When each piece of the body was received."""
    heartbeats: list[float] = field(factory=list[float])
    body: bytearray = field(factory=bytearray)
    """The body of a list of agents."""

    @property
    def period(self) -> float | None:
        """Seconds between two heartbeats; None if there were less than two."""
        if len(self.heartbeats) < 2:
            return None
        return (self.heartbeats[-1] - self.heartbeats[0]) / (len(self.heartbeats) - 1)

    @property
    def came_in_one_piece(self) -> bool:
        """Whether a body that took its time was received in one piece at its end."""
        if not self.arrivals or (taken := self.arrivals[-1] - self.sent_at) < SHORTEST:
            return False
        return self.arrivals[-1] - self.arrivals[0] < ONE_PIECE * taken


@define
class Recorder:
    """A transport that records when the bytes of the latest response of each path were received.

    A redirect that is followed counts for the path that redirects.
    """

    inner: Transport
    seen: dict[str, Exchange] = field(factory=dict[str, Exchange])
    _redirected: dict[str, str] = field(factory=dict[str, str])
    """The path of the request that was redirected, by the path that comes next."""

    @asynccontextmanager
    async def exchange(self, request: HTTPRequest, /) -> AsyncGenerator[HTTPResponse, None]:
        """As `Transport.exchange`."""
        path = self._redirected.pop(urlsplit(request.url).path, request.path.partition("?")[0])
        seen = self.seen[path] = Exchange(anyio.current_time())
        async with self.inner.exchange(request) as response:
            seen.status = response.status
            if response.status in (307, 308):
                with suppress(ValueError):  # not a URL
                    self._redirected[urlsplit(urljoin(request.url, response.headers.get("location", ""))).path] = path
            async with aclosing(self._recorded(response.chunks, seen, keeps_body=path == LIST)) as chunks:
                yield attrs.evolve(response, chunks=chunks)

    async def _recorded(
        self, chunks: AsyncIterator[bytes], seen: Exchange, *, keeps_body: bool
    ) -> AsyncGenerator[bytes, None]:
        async for chunk in chunks:
            now = anyio.current_time()
            seen.arrivals.append(now)
            if chunk.startswith(b":"):
                seen.heartbeats.append(now)
            if keeps_body:
                seen.body += chunk
            yield chunk

    @property
    def statuses(self) -> set[int]:
        """The statuses of all responses."""
        return {seen.status for seen in self.seen.values()} - {0}

    async def aclose(self) -> None:
        """As `Transport.aclose`."""
        await self.inner.aclose()


# --- the diagnosis ----------------------------------------------------------------------------------------------------


@define
class Diagnosis:
    """The facts and findings about one server."""

    server_url: str
    facts: dict[str, str] = field(factory=dict[str, str])
    """What was seen, by the name of the check."""
    findings: list[Finding] = field(factory=list[Finding])

    @property
    def is_healthy(self) -> bool:
        """Whether there is no finding but warnings."""
        return all(finding.is_warning for finding in self.findings)

    def find(self, code: str, detail: str = "") -> None:
        """Add a finding."""
        self.findings.append(Finding(code, *FINDINGS[code], detail))


def causes_of(error: BaseException) -> Iterator[BaseException]:
    """Return an error and its causes; of a group the first member."""
    seen: list[BaseException] = []
    following: BaseException | None = error
    while following is not None and following not in seen:
        seen.append(following)
        yield following
        members: tuple[BaseException, ...] = getattr(following, "exceptions", ())
        following = members[0] if members else following.__cause__ or following.__context__


def code_of(error: errors.OxyError, *, is_proxied: bool = False) -> str:
    """Return the code of an error."""
    causes = [*causes_of(error)]
    for cause in causes:
        if isinstance(cause, ssl.SSLCertVerificationError):
            return BY_CERTIFICATE.get(cause.verify_code, "E-TLS")
    code = next((code for cls, code in BY_CLASS if isinstance(error, cls)), "E-OTHER")
    if code == "E-CONNECT" and is_proxied:
        return "E-PROXY"
    if code == "E-CONNECT" and any(isinstance(cause, socket.gaierror) for cause in causes):
        return "E-DNS"
    if code == "E-RUN-QUIET" and (error.partial is None or not error.partial.events):
        return "E-RUN-DEAD"
    return code


def proxy_of(url: str) -> str:
    """Return the host of the environment's proxy for a URL; empty without one. Loopback needs none."""
    parts = urlsplit(url)
    host, proxies = parts.hostname or "", getproxies()
    proxy = proxies.get(parts.scheme) or proxies.get("all") or ""
    if not proxy or host in ("localhost", "127.0.0.1", "::1") or proxy_bypass(host):
        return ""
    return urlsplit(proxy if "://" in proxy else f"http://{proxy}").hostname or "unknown"


@frozen(kw_only=True)
class Doctor:
    """Diagnoses one server."""

    settings: Mapping[str, Any]
    """Those of the agent: server, credentials."""
    make_transport: Callable[[float], Transport]
    """Makes a transport with this time-out for connections."""
    query: str | None = None
    """The query to run; None runs nothing."""
    seconds: float = REQUEST_SECONDS
    proxy_of: Callable[[str], str] = proxy_of

    async def examine(self) -> Diagnosis:
        """Make all checks."""
        recorder = Recorder(self.make_transport(self.seconds))
        timeouts = Timeouts(connect=self.seconds, total=self.seconds, lookup=0.01)
        settings: dict[str, Any] = {**self.settings, "transport": recorder, "timeouts": timeouts}
        async with AsyncExitStack() as stack:
            stack.push_async_callback(recorder.aclose)
            agent = await stack.enter_async_context(SSEOxyGent(**settings))
            diagnosis = Diagnosis(shown_url(agent.server_url))
            proxy = self.proxy_of(agent.server_url)
            diagnosis.facts["proxy"] = proxy or "none"
            try:
                await self._examine(agent, recorder, diagnosis)
            except errors.OxyError as error:
                code = code_of(error, is_proxied=bool(proxy))
                if _may_be_of_scheme(error, agent.server_url, recorder.statuses):
                    code = await self._code_of_scheme(agent.server_url) or code
                diagnosis.find(code, str(error))
        return diagnosis

    async def _examine(self, agent: SSEOxyGent, recorder: Recorder, diagnosis: Diagnosis) -> None:
        began = anyio.current_time()
        if not await agent.check_alive():
            diagnosis.find("E-NOT-ALIVE")
        diagnosis.facts["liveness"] = f"answers in {anyio.current_time() - began:.3f} s"
        await agent.init()
        self._check_names(agent, recorder, diagnosis)
        await agent.lookup(uuid.uuid4().hex)
        has_records = recorder.seen["/view"].status == 200
        diagnosis.facts["records"] = "yes" if has_records else "no"
        if not has_records:
            diagnosis.find("W-NO-RECORDS")
        if self.query is None:
            diagnosis.facts["heartbeats"] = diagnosis.facts["buffering"] = "not measured without --query"
        elif diagnosis.is_healthy:
            await self._run(agent, self.query, recorder, diagnosis)

    def _check_names(self, agent: SSEOxyGent, recorder: Recorder, diagnosis: Diagnosis) -> None:
        clean = without_credentials(agent.sent)
        listing = recorder.seen[LIST]
        names = [*dict.fromkeys((*_names_in(agent.org), *_listed_names(listing.body)))]
        diagnosis.facts["agents"] = ", ".join(line(clean(name)) for name in names[:SHOWN]) or "none"
        diagnosis.facts["dialect"] = "OxyGent 1.0.13 or newer" if listing.status == 200 else "older than OxyGent 1.0.13"
        if not names:
            diagnosis.find("E-NO-AGENTS")
        elif agent.callee is not None and agent.callee not in names:
            diagnosis.find("E-AGENT-NAME", agent.callee)
        if listing.status != 200:
            diagnosis.find("W-OLD-SERVER")

    async def _run(self, agent: SSEOxyGent, query: str, recorder: Recorder, diagnosis: Diagnosis) -> None:
        """Run the agent, and measure heartbeats and buffering.

        Raises:
            OxyError: the run failed.
        """
        agent.timeouts = Timeouts(connect=self.seconds, idle=3 * self.seconds, total=12 * self.seconds, lookup=0.01)
        held_back, failure, is_quick = await self._measure(agent, query)
        if isinstance(failure, NO_STREAM):
            diagnosis.facts["heartbeats"] = diagnosis.facts["buffering"] = "not measured: the response was no stream"
            raise failure
        seen = recorder.seen.get("/sse/chat", Exchange(0.0))
        period = seen.period
        diagnosis.facts["heartbeats"] = "fewer than two in this run" if period is None else f"every {period:.1f} s"
        is_silent = isinstance(failure, errors.IdleTimeoutError) and not seen.status
        if held_back or seen.came_in_one_piece or is_silent:
            diagnosis.facts["buffering"] = "yes" if is_quick else "the server is blocked"
            diagnosis.find("E-BUFFERED" if is_quick else "W-BLOCKED")
        else:
            is_short = failure is None and seen.arrivals[-1] - seen.sent_at < SHORTEST
            diagnosis.facts["buffering"] = "the run was too short to tell" if is_short else "no"
        if failure is not None and not is_silent:
            raise failure

    async def _measure(self, agent: SSEOxyGent, query: str) -> tuple[bool, errors.OxyError | None, bool]:
        """Run the agent: whether heartbeats were held back, the error, and whether the server answered meanwhile.

        The error is a value: a task group would wrap it.
        """
        held_back, failure, alive = False, None, _Liveness(agent)
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(alive.measure)
            try:
                held_back = bool((await agent.ask(query)).extra.get("held_back"))
            except errors.OxyError as error:
                failure = error
            tasks.cancel_scope.cancel()
        return held_back, failure, alive.is_quick

    async def _code_of_scheme(self, url: str) -> str:
        """Return the code if the port speaks the other scheme than that of its URL; else an empty text."""
        parts = urlsplit(url)
        other, code = OTHER_SCHEME[parts.scheme]
        transport = self.make_transport(self.seconds)
        request = HTTPRequest("GET", urlunsplit((other, parts.netloc.rpartition("@")[2], "", "", "")), "/check_alive")
        try:
            with anyio.move_on_after(self.seconds):
                async with transport.exchange(request) as response:
                    # Servers of TLS reply 400 to plain http.
                    return code if other == "https" or response.status != 400 else ""
        except errors.OxyError as failure:
            return code if other == "https" and _is_about_certificate(failure) else ""
        finally:
            await transport.aclose()
        return ""


@define
class _Liveness:
    """How fast the server answers while an agent runs there."""

    agent: SSEOxyGent
    is_quick: bool = False

    async def measure(self) -> None:
        """Measure it, once the run has begun."""
        with suppress(errors.OxyError):
            await anyio.sleep(QUICK / 2)
            with anyio.move_on_after(QUICK / 2) as scope:
                await self.agent.check_alive()
            self.is_quick = not scope.cancelled_caught


def _may_be_of_scheme(error: errors.OxyError, url: str, statuses: set[int]) -> bool:
    """Whether the error may be caused by a port that speaks the other scheme than that of its URL."""
    if url.startswith("https:"):
        return isinstance(error, errors.TLSError) and not _is_about_certificate(error)
    # Servers of TLS respond to plain http with 400, or with what is not HTTP.
    is_lost = isinstance(error, errors.ConnectionLostError | errors.RemoteProtocolError) and not statuses
    return is_lost or statuses == {400}


def _is_about_certificate(error: errors.OxyError) -> bool:
    return any(isinstance(cause, ssl.SSLCertVerificationError) for cause in causes_of(error))


def _names_in(organization: Mapping[str, Any]) -> Iterator[str]:
    """Return the names in an organization, that of its root first."""
    waiting: list[Mapping[str, Any]] = [organization]
    while waiting:
        node = waiting.pop()
        yield from _name_of(node)
        waiting.extend(cast("list[Mapping[str, Any]]", node.get("children", [])))


def _listed_names(body: bytearray) -> Iterator[str]:
    """Return the names in a list of agents, as far as it is one."""
    with suppress(ValueError, RecursionError, TypeError, KeyError, AttributeError):
        for row in json.loads(body)["data"]["agents"]:
            yield from _name_of(row)


def _name_of(row: Mapping[str, Any]) -> Iterator[str]:
    name = row.get("name")
    if isinstance(name, str) and name:
        yield name
