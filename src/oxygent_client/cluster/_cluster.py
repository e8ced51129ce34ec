"""`Cluster`: a transport that balances requests over replicas, with failover and hedging.

Rule 1: a request without a base URL goes to a replica of the cluster's choice; one with a base URL goes to that replica
    and to no other.
Rule 2: another replica is asked only if the first surely ran nothing: the error's `outcome` says so. More only for what
    looks something up; an idempotent run that may have run is asked for again by the run itself, as another one.
Rule 3: a replica is asked once in an exchange, and the next when that exchange is closed. Who is left alone is asked
    last, not never: no call fails that another replica could have served.
Rule 4: what is live is kept for each event loop. Nothing goes on in the background but in a block that the user opens.
"""

from __future__ import annotations

import math
import random
from collections.abc import AsyncGenerator, AsyncIterator, Collection, Generator
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager, suppress
from typing import ClassVar, Final

import anyio
import attrs

from oxygent_client._core.bodies import decompressed, read_all
from oxygent_client._core.errors import (
    UNRUN,
    ConfigurationError,
    ConnectError,
    ConnectionLostError,
    IncompleteStreamError,
    NoHealthyReplicaError,
    Outcome,
    OxyError,
    RemoteProtocolError,
    SilenceTimeoutError,
)
from oxygent_client._core.log import log_event
from oxygent_client._core.per_loop import PerLoop
from oxygent_client._core.plain_http import PlaintextRules, check_secure
from oxygent_client._core.server_identity import server_address, server_identity, url_origin
from oxygent_client._core.tasks import plain_task_group
from oxygent_client._core.transport import (
    Claiming,
    Context,
    HTTPRequest,
    HTTPResponse,
    Purpose,
    Transport,
    find_wrapped,
    redact_url,
)
from oxygent_client._core.validation import number
from oxygent_client._protocol.endpoints import HEADERS, PATHS
from oxygent_client._protocol.responses import error_from_response, parse_alive
from oxygent_client.cluster._health import Health, ReplicaHealth, usable
from oxygent_client.cluster._members import DNS, Member, ResolvedReplica, as_members, places
from oxygent_client.cluster._run_locations import RunLocation, RunLocations
from oxygent_client.cluster._strategies import STRATEGIES, Candidate, Lot, Strategy, pick
from oxygent_client.transports.httpx import HTTPXTransport

__all__ = ["Cluster", "Hedge", "Status", "cluster_of", "home_of", "servers_of"]

FAULTS: Final = (ConnectError, ConnectionLostError, RemoteProtocolError)
"""Errors that speak against a replica; a status of 500 and more does, too."""
UNFINISHED: Final = (SilenceTimeoutError, IncompleteStreamError)
"""What the caller finds out: heartbeats came no more, or the stream ended, as a connection does, without its end."""
LOOKING_UP: Final[tuple[Purpose, ...]] = ("discover", "health")
RUNS: Final[tuple[Purpose, ...]] = ("run", "attach")
BROKEN: Final = 500
CHECK_BYTES: Final = 16 * 1024
"""How much of the answer to a check is read."""


def _lot() -> float:
    """From 0 to 1. A function of its own: a copy elsewhere must not draw the same numbers."""
    return random.random()  # noqa: S311  (it spreads calls, and keeps no secret)


def _is_strategy(instance: object, attribute: object, value: str) -> None:
    if value not in STRATEGIES:
        raise ConfigurationError(f"Cluster(strategy={value!r}): must be one of {', '.join(STRATEGIES)}")


def _transport(given: Transport | None) -> Transport:
    return HTTPXTransport() if given is None else given


@attrs.frozen
class Hedge:
    """A second replica is asked if the first has not begun to answer; the first to do so is heard, the other is left.

    Only for calls that are `idempotent`: both may run.
    """

    after: float = attrs.field(validator=number(ge=0))
    """Seconds without the headers of a response."""


@attrs.frozen(kw_only=True)
class Status:
    """How one replica is doing, in this event loop."""

    url: str
    """Without user information and query."""
    usable: bool
    """False: it is left alone, as long as there are others."""
    in_flight: int
    failures: int
    """Calls that failed by its fault, since the last that went well."""


@attrs.define(eq=False)
class _ReplicaState:
    """What is known of one replica in one event loop."""

    place: ResolvedReplica
    standing: ReplicaHealth
    in_flight: int = 0
    last: int = 0


@attrs.define(eq=False)
class _Found:
    """What a name stands for, and when it was asked."""

    urls: tuple[str, ...]
    at: float


@attrs.define(eq=False)
class _Live:
    """What a cluster knows in one event loop."""

    seats: dict[str, _ReplicaState] = attrs.field(factory=dict[str, _ReplicaState])
    arranged: tuple[tuple[Member, ...], dict[DNS, tuple[str, ...]]] | None = None
    """The members for whom the seats are, and what their names stood for."""
    found: dict[DNS, _Found] = attrs.field(factory=dict[DNS, _Found])
    problem: OxyError | None = None
    """Why a name stands for nobody."""
    memory: dict[str, float] = attrs.field(factory=dict[str, float])
    picks: int = 0

    async def look_up(self, name: DNS) -> None:
        """Ask what a name stands for, if it is time."""
        known, now = self.found.get(name), anyio.current_time()
        if known is not None:
            if now < known.at + name.every:
                return
            known.at = now  # while this one waits for the answer, others go on with what is known
        try:
            urls = await name.addresses()
        except ConnectError as error:
            self.problem = error
            log_event("warning", Context(purpose="discover"), "%s; the replicas stay as they were", error)
        else:
            self.found[name] = _Found(urls, now)

    def arrange(self, given: tuple[Member, ...], now: float) -> None:
        """A seat for each member. Who stays keeps what is known; who joins others begins gently."""
        found = {name: known.urls for name, known in self.found.items() if name in given}
        if self.arranged == (given, found):
            return
        standing = ReplicaHealth(since=now) if self.seats else ReplicaHealth()
        seats: dict[str, _ReplicaState] = {}
        for url, place in places(given, found).items():
            seats[url] = self.seats.get(url) or _ReplicaState(place, standing)
            seats[url].place = place
        self.seats, self.arranged = seats, (given, found)
        self.found = {name: known for name, known in self.found.items() if name in given}
        self.memory = {url: behind for url, behind in self.memory.items() if url in seats}

    def candidate(self, url: str, health: Health, now: float) -> Candidate:
        """A replica as a strategy sees it."""
        seat = self.seats[url]
        share = seat.standing.share(health, now)
        return Candidate(url, seat.place.replica.weight, share, seat.in_flight, seat.last)


class _Chunks:
    """The chunks of a response; whether they broke off is remembered."""

    def __init__(self, chunks: AsyncIterator[bytes]) -> None:
        self._chunks = chunks
        self.broken = False

    def __aiter__(self) -> AsyncIterator[bytes]:
        return self

    async def __anext__(self) -> bytes:
        try:
            return await anext(self._chunks)
        except FAULTS:
            self.broken = True
            raise


@attrs.define(eq=False)
class Cluster:
    """Replicas that can each do the same, as one transport.

    `members` are URLs, `Replica` or `DNS`. What `context.group_id` names stays at one replica with
    `strategy="affinity"`. `HTTPResponse.request` says which replica answered.

    Raises:
        ConfigurationError: an argument is wrong, or a replica stands there twice.
    """

    checks_secure: ClassVar[bool] = True
    """It checks itself what may go over plain http: it alone knows where to, and by which name."""

    members: tuple[Member, ...] = attrs.field(converter=as_members)
    strategy: Strategy = attrs.field(default="round_robin", kw_only=True, validator=_is_strategy)
    inner: Transport = attrs.field(default=None, alias="transport", converter=_transport, kw_only=True)
    """What moves the bytes to each of them; an `HTTPXTransport` if you give none."""
    health: Health = attrs.field(factory=Health, kw_only=True)
    hedge: Hedge | None = attrs.field(default=None, kw_only=True)
    tries: int = attrs.field(default=5, kw_only=True, validator=number(ge=1))
    """How many replicas are asked in one exchange, at most."""
    lot: Lot = attrs.field(default=_lot, kw_only=True, repr=False)
    """How lots are drawn: a number from 0 to 1, the 1 excluded."""
    _live: PerLoop[_Live] = attrs.field(factory=PerLoop[_Live], init=False, repr=False)
    _homes: RunLocations = attrs.field(factory=RunLocations, init=False, repr=False)

    # --- membership and health ---

    def set_members(self, given: Collection[str | Member]) -> None:
        """From now on these are the members. Who stays keeps its state; exchanges with who leaves go on to their end.

        Raises:
            ConfigurationError: as for the class.
        """
        self.members = as_members(given)

    async def status(self) -> tuple[Status, ...]:
        """How each replica is doing, in this event loop."""
        live = await self._now()
        able = self._usable(live)
        return tuple(
            Status(
                url=redact_url(url),
                usable=url in able,
                in_flight=seat.in_flight,
                failures=seat.standing.failures,
            )
            for url, seat in live.seats.items()
        )

    def home_of(self, name: str) -> RunLocation | None:
        """The replica that the last run of this name went to (a trace id, or the caller's node id of the call).

        None if none did, or too many have since. Any thread may ask.
        """
        return self._homes.find(name)

    async def check(self) -> dict[str, bool]:
        """Ask every replica whether it lives, all at a time, and take note; what each said, by its URL.

        Raises:
            InsecureTransportError: a URL has user information and is one of plain http.
        """
        live = await self._now()
        said: dict[str, bool] = {}
        requests = {url: HTTPRequest("GET", url, PATHS["alive"], HEADERS) for url in live.seats}
        for request in requests.values():
            check_secure(request.url, request.headers, PlaintextRules())
        async with plain_task_group() as tasks:
            for url, request in requests.items():
                tasks.start_soon(self._check, live.seats[url], request, said)
        return {redact_url(url): said[url] for url in requests}

    async def _check(self, seat: _ReplicaState, request: HTTPRequest, said: dict[str, bool]) -> None:
        now = anyio.current_time()
        context = Context(purpose="health", deadline=now + self.health.check_seconds, idempotent=True)
        lives = False
        with anyio.CancelScope(deadline=now + self.health.check_seconds), suppress(OxyError):
            async with self.inner.exchange(attrs.evolve(request, context=context)) as response:
                # One that refuses, or knows no such path, is there; what it says with a 200 counts.
                lives = response.status < BROKEN and (response.status != 200 or parse_alive(await _said(response)))
        said[request.base_url] = lives
        self._note(seat, context, went_well=lives)

    @asynccontextmanager
    async def watching(self, *, every: float = 5.0) -> AsyncGenerator[None, None]:
        """`check()` again and again while the block lasts, with so many seconds in between.

        Raises:
            ConfigurationError: `every` is not more than 0.
            InsecureTransportError: as for `check`; what the block does is cancelled. What the block raises comes out
                as it is, and never in a group.
        """
        if not 0 < every < math.inf:
            raise ConfigurationError(f"Cluster.watching(every={every!r}): must be more than 0")

        async def watch() -> None:
            while True:
                await self.check()
                await anyio.sleep(every)

        async with plain_task_group() as tasks:
            tasks.start_soon(watch)
            yield
            tasks.cancel_scope.cancel()

    # --- exchanges ---

    @asynccontextmanager
    async def exchange(self, request: HTTPRequest, /) -> AsyncGenerator[HTTPResponse, None]:
        """As `Transport.exchange`; entering it may take several exchanges.

        Raises:
            NoHealthyReplicaError: there is no replica: none was given, or a name stands for nobody.
            ConfigurationError: the request names a server that is none of the replicas.
            InsecureTransportError: the request may not go to the replica whose turn it is.
        """
        live = await self._now()
        async with AsyncExitStack() as stack:
            if request.base_url:
                seat, request = _named(live, request)
                response = await stack.enter_async_context(self._asked(seat, request))
            elif self.hedge is not None and request.context.idempotent:
                response = await self._first_of_two(stack, live, request, self.hedge)
            else:
                tried: dict[str, int] = {}
                response = await self._respond(stack, live, request, tried, self._next(live, request.context, tried))
            self._note_home(response.request)  # of two that were asked, it is the one that is heard
            if (claims := _claims(response.request)) is not None:
                claims.heard(response.request)
            yield response

    async def aclose(self) -> None:
        """As `Transport.aclose`: closes the wrapped transport."""
        await self.inner.aclose()

    async def _now(self) -> _Live:
        """What is known, as new as it should be."""
        live = self._live.get() or self._live.put(_Live())
        live.problem = None
        given: tuple[Member, ...] = ()
        while given is not self.members:  # it may change while an answer is waited for
            given = self.members
            for name in given:
                if isinstance(name, DNS):
                    await live.look_up(name)
        live.arrange(given, anyio.current_time())
        return live

    def _usable(self, live: _Live) -> tuple[str, ...]:
        standings = {url: seat.standing for url, seat in live.seats.items()}
        return usable(standings, self.health, anyio.current_time())

    def _next(self, live: _Live, context: Context, tried: dict[str, int]) -> _ReplicaState | None:
        """Whom to ask now; None if nobody is left. `tried` are those who were asked, with how many were before."""
        if len(tried) >= self.tries:
            return None
        now = anyio.current_time()
        urls = [url for url in self._usable(live) if url not in tried]
        if not urls:
            rest = [url for url in live.seats if url not in tried]
            urls = sorted(rest, key=lambda url: live.seats[url].standing.badness)[:1]
        if not urls:
            return None
        candidates = [live.candidate(url, self.health, now) for url in urls]
        key, again = context.group_id, bool(tried)
        seat = live.seats[pick(self.strategy, candidates, key, live.memory, self.lot, again=again).url]
        live.picks += 1
        seat.last = live.picks
        tried[seat.place.replica.url] = len(tried)
        return seat

    async def _respond(
        self,
        stack: AsyncExitStack,
        live: _Live,
        request: HTTPRequest,
        tried: dict[str, int],
        seat: _ReplicaState | None,
    ) -> HTTPResponse:
        """The first response that is handed on, from `seat` or another; the stack holds its exchange."""
        if seat is None:
            raise NoHealthyReplicaError("the cluster has no replica") from live.problem
        while True:
            attempt = request.context.attempt + tried[seat.place.replica.url]
            context = attrs.evolve(request.context, attempt=attempt)
            sent = attrs.evolve(request, base_url=seat.place.replica.url, context=context)
            error: OxyError
            response = None
            try:
                response = await stack.enter_async_context(self._asked(seat, sent))
                if response.status == 200:
                    return response
                error = error_from_response(response.status, response.headers, b"")
            except OxyError as failure:
                error = failure
                error.attempts = attempt
            following = self._next(live, context, tried) if _elsewhere(error, context) else None
            if following is None:
                if response is None:
                    raise error
                return response
            with suppress(OxyError):  # that it did not end well matters to nobody any more
                await stack.aclose()
            reason, there = type(error).__name__, redact_url(following.place.replica.url)
            log_event(
                "retry", context, "%s; %s is asked", reason, there, attempt=attempt + 1, seconds=0.0, reason=reason
            )
            seat = following

    async def _first_of_two(
        self, stack: AsyncExitStack, live: _Live, request: HTTPRequest, hedge: Hedge
    ) -> HTTPResponse:
        """The first response of two exchanges, of which the second begins late; the stack holds it, and no other."""
        # The task group ends in here. An exchange may be left in another task than it was entered in, since no
        # transport leaves a cancel scope or a task group open between the two.
        tried: dict[str, int] = {}
        answers: list[tuple[AsyncExitStack, HTTPResponse]] = []
        errors: list[Exception] = []
        over = anyio.Event()

        async def ask(own: AsyncExitStack, seat: _ReplicaState | None) -> None:
            try:
                response = await self._respond(own, live, request, tried, seat)
            except Exception as error:  # noqa: BLE001  (out of the task group it would come in a group)
                errors.append(error)
            else:
                answers.append((own, response))
                if response.status == 200:
                    tasks.cancel_scope.cancel()
            over.set()

        async with plain_task_group() as tasks:
            first = self._next(live, request.context, tried)
            tasks.start_soon(ask, await stack.enter_async_context(AsyncExitStack()), first)
            with anyio.move_on_after(hedge.after):
                await over.wait()
            second = None if over.is_set() else self._next(live, request.context, tried)
            if second is not None:
                there, attempt = second.place.replica.url, request.context.attempt + tried[second.place.replica.url]
                context, text = attrs.evolve(request.context, attempt=attempt), "nothing after %.1f s; %s is asked, too"
                log_event("hedge", context, text, hedge.after, redact_url(there), attempt=attempt, seconds=hedge.after)
                tasks.start_soon(ask, await stack.enter_async_context(AsyncExitStack()), second)
        # Who hears that nothing ran can rely on it for both.
        unsure = [error for error in errors if isinstance(error, OxyError) and error.outcome is Outcome.UNKNOWN]
        answers.sort(key=lambda answer: (answer[1].status != 200, _ran_nothing(answer[1])))
        heard = None if not answers or (unsure and _ran_nothing(answers[0][1])) else answers[0]
        for answer in answers:
            if answer is not heard:
                with suppress(OxyError):
                    await answer[0].aclose()
        if heard is None:
            raise (unsure or errors)[0]
        return heard[1]

    @asynccontextmanager
    async def _asked(self, seat: _ReplicaState, request: HTTPRequest) -> AsyncGenerator[HTTPResponse, None]:
        """The exchange with one replica, whose end is taken note of."""
        named, url = seat.place.named, seat.place.replica.url
        policy = request.context.https_only or PlaintextRules()
        check_secure(request.url, request.headers, policy, marked=request.context.secret_headers, named=named)
        request = attrs.evolve(request, context=attrs.evolve(request.context, replica=url))
        if (claims := _claims(request)) is not None:
            request = claims.fit(request)
        self._note_home(request)
        async with AsyncExitStack() as stack:
            stack.enter_context(_in_flight(seat))
            try:
                response = await stack.enter_async_context(self.inner.exchange(request))
            except OxyError as error:
                if claims is not None and error.outcome in UNRUN:
                    claims.unused(request)
                if isinstance(error, FAULTS):
                    error.server_url = redact_url(url)
                    self._note(seat, request.context, went_well=False)
                raise
            if claims is not None and _ran_nothing(response):
                claims.unused(request)
            chunks = _Chunks(response.chunks)
            try:
                yield attrs.evolve(response, chunks=chunks)
            except UNFINISHED:
                chunks.broken = True
                raise
            finally:
                self._note(seat, request.context, went_well=response.status < BROKEN and not chunks.broken)

    def _note_home(self, request: HTTPRequest) -> None:
        """Take note that the run which `request` is for is, or may be, at the replica that it goes to."""
        context = request.context
        if context.purpose in RUNS:
            self._homes.note(RunLocation(context.replica, context.remote_trace_id), context.trace_id, context.node_id)

    def _note(self, seat: _ReplicaState, context: Context, *, went_well: bool) -> None:
        """Take note of how a call ended, and say so when the replica is left alone from now on."""
        now, before, health = anyio.current_time(), seat.standing, self.health
        # What looks something up is a check: a server may fail every run, and show the record of each.
        if context.purpose in LOOKING_UP:
            after = before.passed_check(health, now) if went_well else before.missed_check(health, now, self.lot())
        else:
            after = before.succeeded(now) if went_well else before.failed(health, now, self.lot())
        seat.standing = after
        if after.ejections > before.ejections:
            text = "%s failed %d times in a row, and is left alone for %.1f s"
            times = max(after.failures, after.missed)
            log_event("warning", context, text, redact_url(seat.place.replica.url), times, after.until - now)


def cluster_of(transport: object) -> Cluster | None:
    """The cluster that a transport is, or wraps; None if the transport knows one server."""
    return find_wrapped(transport, Cluster)


def home_of(transport: object, name: str) -> RunLocation | None:
    """Where a transport that chooses the server sent the last run of this name; None if nobody knows."""
    cluster = cluster_of(transport)
    return None if cluster is None else cluster.home_of(name)


def servers_of(transport: object, base_url: str) -> frozenset[str]:
    """The server at this URL, or those among which a transport chooses one where the URL is empty, in normal form."""
    cluster = None if base_url else cluster_of(transport)
    return frozenset(
        [server_address(base_url)] if cluster is None else [server_address(each.url) for each in cluster.members]
    )


def _claims(request: HTTPRequest) -> Claiming | None:
    """What claims the trace id of a run that is asked for; None for other requests."""
    return request.context.claims if request.context.purpose == "run" else None


@contextmanager
def _in_flight(seat: _ReplicaState) -> Generator[None]:
    seat.in_flight += 1
    try:
        yield
    finally:
        seat.in_flight -= 1


def _named(live: _Live, request: HTTPRequest) -> tuple[_ReplicaState, HTTPRequest]:
    """The replica that a request names, and what is sent there.

    After a redirect the context names it. Else it is the base URL: as it was given, or in another spelling, as errors
    and tokens show it without what is secret; that is put back. Or it is another URL of the same origin.
    """
    if (seat := live.seats.get(request.context.replica)) is not None:
        return seat, request
    named = request.base_url
    if named in live.seats:
        return live.seats[named], request
    for same in (server_address, server_identity):
        for url, seat in live.seats.items():
            if same(url) == same(named):
                return seat, attrs.evolve(request, base_url=url)
    # Of several at one origin it is the one whose own path leads furthest towards what is asked for.
    asked = f"{server_identity(request.url)}/"
    beside = {url: f"{server_identity(url)}/" for url in live.seats if url_origin(url) == url_origin(named)}
    if beside:
        url = max(beside, key=lambda url: len(beside[url]) if asked.startswith(beside[url]) else 0)
        return live.seats[url], request
    raise ConfigurationError(f"{redact_url(named)} is no replica of this cluster")


def _ran_nothing(response: HTTPResponse) -> bool:
    """Whether its status says for sure that no agent ran."""
    return (
        response.status != 200
        and error_from_response(response.status, response.headers, b"").outcome is Outcome.REJECTED
    )


def _elsewhere(error: OxyError, context: Context) -> bool:
    """Whether another replica may be asked, and might do better."""
    if isinstance(error, ConnectError) and error.outcome is Outcome.NOT_SENT:
        return True  # also what will not pass by waiting, such as a bad certificate: the other has one of its own
    harmless = context.purpose in LOOKING_UP
    return error.transient if harmless else error.retryable


async def _said(response: HTTPResponse) -> bytes:
    """The body; empty if it is more than any server says to that."""
    return await read_all(decompressed(response), CHECK_BYTES) or b""
