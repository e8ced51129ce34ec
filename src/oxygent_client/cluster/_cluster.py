"""`Cluster`: a transport that balances requests over replicas, with failover and hedging.

Rule 1: a request without a base URL goes to a replica that the strategy picks; one with a base URL goes to that replica
    and to no other.
Rule 2: failover to another replica only if the first surely ran nothing, by the error's `outcome`; lookups fail over on
    any transient error. An idempotent run that may have run is repeated by the run itself, as a new one.
Rule 3: one exchange tries each replica once, and closes the exchange with one before the next. Ejected replicas are
    tried last, so that no call fails which another replica could have served.
Rule 4: state is kept per event loop. Nothing runs in the background except in a block that the user opens.
"""

from __future__ import annotations

import math
from collections.abc import AsyncGenerator, AsyncIterator, Collection, Generator
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager, suppress
from functools import partial
from typing import ClassVar, Final

import anyio
import attrs

from oxygent_client._core.bodies import decompressed, read_all
from oxygent_client._core.errors import (
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
from oxygent_client._core.ids import uniform
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
    OpenExchange,
    Purpose,
    Transport,
    redact_url,
)
from oxygent_client._core.validation import FLAG, number, one_of
from oxygent_client._protocol.endpoints import HEADERS, PATHS
from oxygent_client._protocol.responses import error_from_response, parse_alive
from oxygent_client.cluster._health import Health, ReplicaHealth, usable
from oxygent_client.cluster._members import DNS, Member, ResolvedReplica, as_members, resolve_members
from oxygent_client.cluster._run_locations import RunLocation, RunLocations
from oxygent_client.cluster._strategies import STRATEGIES, Candidate, RandomSource, Strategy, pick

FAULTS: Final = (ConnectError, ConnectionLostError, RemoteProtocolError)
"""Errors that count as failures of a replica, as a status of 500 and more does."""
UNFINISHED: Final = (SilenceTimeoutError, IncompleteStreamError)
"""Failures that the caller detects: missing heartbeats, or a stream without its end."""
LOOKUPS: Final[tuple[Purpose, ...]] = ("discover", "health")
RUNS: Final[tuple[Purpose, ...]] = ("run", "attach")
SERVER_ERROR: Final = 500
CHECK_BYTES: Final = 16 * 1024
"""How much of the response to a health check is read."""


@attrs.frozen
class Hedge:
    """Hedging: ask a second replica if the first is slow; the first response wins, the other exchange is closed.

    Only for calls that are `idempotent`: both replicas may run the agent.
    """

    after: float = attrs.field(validator=number(ge=0))
    """Seconds without response headers."""


@attrs.frozen(kw_only=True)
class Status:
    """The status of one replica in this event loop."""

    url: str
    """Without user information and query."""
    usable: bool
    """False while it is ejected."""
    in_flight: int
    failures: int
    """Failed calls since the last success."""


@attrs.define(eq=False)
class _ReplicaState:
    """The state of one replica in one event loop."""

    resolved: ResolvedReplica
    health: ReplicaHealth
    in_flight: int = 0
    last: int = 0

    @property
    def url(self) -> str:
        return self.resolved.replica.url


@attrs.define(eq=False)
class _Resolution:
    """The addresses of a DNS name, and when they were resolved."""

    urls: tuple[str, ...]
    at: float


@attrs.define(eq=False)
class _LoopState:
    """The state of a cluster in one event loop."""

    replicas: dict[str, _ReplicaState] = attrs.field(factory=dict[str, _ReplicaState])
    arranged: tuple[tuple[Member, ...], dict[DNS, tuple[str, ...]]] | None = None
    """The members and addresses that `replicas` was built from."""
    resolutions: dict[DNS, _Resolution] = attrs.field(factory=dict[DNS, _Resolution])
    dns_error: OxyError | None = None
    """The error of a DNS name without addresses."""
    memory: dict[str, float] = attrs.field(factory=dict[str, float])
    """The strategy's memory."""
    picks: int = 0

    async def resolve(self, name: DNS) -> None:
        """Resolve a DNS name if its addresses are too old."""
        known, now = self.resolutions.get(name), anyio.current_time()
        if known is not None:
            if now < known.at + name.every:
                return
            known.at = now  # other calls go on with the old addresses while this one resolves
        try:
            urls = await name.addresses()
        except ConnectError as error:
            self.dns_error = error
            log_event("warning", Context(purpose="discover"), "%s; the replicas stay the same", error)
        else:
            self.resolutions[name] = _Resolution(urls, now)

    def arrange(self, members: tuple[Member, ...], now: float) -> None:
        """Update the replicas. One that stays keeps its state; one that joins others has a slow start."""
        resolved = {name: known.urls for name, known in self.resolutions.items() if name in members}
        if self.arranged == (members, resolved):
            return
        health = ReplicaHealth(since=now) if self.replicas else ReplicaHealth()
        replicas: dict[str, _ReplicaState] = {}
        for url, replica in resolve_members(members, resolved).items():
            replicas[url] = self.replicas.get(url) or _ReplicaState(replica, health)
            replicas[url].resolved = replica
        self.replicas, self.arranged = replicas, (members, resolved)
        self.resolutions = {name: known for name, known in self.resolutions.items() if name in members}
        self.memory = {url: behind for url, behind in self.memory.items() if url in replicas}

    def usable(self, health: Health) -> tuple[str, ...]:
        """The URLs of the replicas that may be tried first."""
        return usable({url: each.health for url, each in self.replicas.items()}, health, anyio.current_time())

    def candidate(self, url: str, health: Health, now: float) -> Candidate:
        """A replica as a strategy sees it."""
        replica = self.replicas[url]
        share = replica.health.share(health, now)
        return Candidate(url, replica.resolved.replica.weight, share, replica.in_flight, replica.last)


class _WatchedChunks(AsyncIterator[bytes]):
    """The chunks of a response; `broken` tells whether they ended with an error."""

    def __init__(self, chunks: AsyncIterator[bytes]) -> None:
        self._chunks = chunks
        self.broken = False

    async def __anext__(self) -> bytes:
        try:
            return await anext(self._chunks)
        except FAULTS:
            self.broken = True
            raise


def _default_transport() -> Transport:
    """An `HTTPXTransport`, imported when it is needed: a program that uses another loads no httpx."""
    from oxygent_client.transports.httpx import HTTPXTransport

    return HTTPXTransport()


@attrs.define(eq=False)
class Cluster:
    """Load balancing and failover over replicas that run the same agents, as one transport.

    `members` are URLs, `Replica` or `DNS`. With `strategy="affinity"` all calls of one `context.group_id` go to one
    replica. `HTTPResponse.request` has the URL of the replica that responded.

    Raises:
        ConfigurationError: an argument is wrong, there is no member, or a replica is given twice.
    """

    checks_secure: ClassVar[bool] = True
    """It checks plain http itself: only the cluster knows the replica and the name that the user gave it."""

    members: tuple[Member, ...] = attrs.field(converter=as_members)
    strategy: Strategy = attrs.field(default="round_robin", kw_only=True, validator=one_of(*STRATEGIES))
    """How the next replica is picked."""
    inner: Transport = attrs.field(factory=_default_transport, alias="transport", kw_only=True)
    """The transport to each replica; an `HTTPXTransport` by default."""
    health: Health = attrs.field(factory=Health, kw_only=True)
    """When replicas are ejected, and how they return."""
    hedge: Hedge | None = attrs.field(default=None, kw_only=True)
    """Hedging of idempotent calls; None disables it."""
    tries: int = attrs.field(default=5, kw_only=True, validator=number(ge=1))
    """How many replicas one exchange tries at most."""
    shared_storage: bool = attrs.field(default=False, kw_only=True, validator=FLAG)
    """Whether the replicas store their runs in one place (Elasticsearch), so that each remembers the turns of all. If
    not, a run that continues another (`from_trace_id`) goes to the replica that has it, without failover."""
    rng: RandomSource = attrs.field(default=partial(uniform, 0.0, 1.0), kw_only=True, repr=False)
    """Source of random numbers from 0 to 1, without 1."""
    _loops: PerLoop[_LoopState] = attrs.field(factory=PerLoop[_LoopState], init=False, repr=False)
    _locations: RunLocations = attrs.field(factory=RunLocations, init=False, repr=False)

    def __attrs_post_init__(self) -> None:
        if not self.members:
            raise ConfigurationError('members is empty: give the URLs of the replicas, Cluster(["http://...", ...])')

    # --- membership and health checks ---

    def set_members(self, given: Collection[str | Member]) -> None:
        """Replace the members. Replicas that stay keep their state; open exchanges with others go on to their end.

        Raises:
            ConfigurationError: a member is wrong, or given twice.
        """
        self.members = as_members(given)

    async def status(self) -> tuple[Status, ...]:
        """The status of each replica in this event loop."""
        state = await self._current()
        able = state.usable(self.health)
        return tuple(
            Status(url=redact_url(url), usable=url in able, in_flight=each.in_flight, failures=each.health.failures)
            for url, each in state.replicas.items()
        )

    def home_of(self, name: str) -> RunLocation | None:
        """Look up the replica of the last run of this name (a trace id, also the server's, or the caller's node id).

        None if there was none, or it is no longer among the last 10,000. Thread-safe.
        """
        return self._locations.find(name)

    def note_home(self, location: RunLocation) -> None:
        """Remember the replica of a run of another process, under the server's trace id. Thread-safe."""
        self._locations.note(location, location.remote_trace_id)

    async def check(self) -> dict[str, bool]:
        """Run a health check of every replica, all at once, and update their health; the results by URL.

        Raises:
            InsecureTransportError: a plain http URL has user information.
        """
        state = await self._current()
        results: dict[str, bool] = {}
        requests = {url: HTTPRequest("GET", url, PATHS["alive"], HEADERS) for url in state.replicas}
        for request in requests.values():
            check_secure(request.url, request.headers, PlaintextRules())
        async with plain_task_group() as tasks:
            for url, request in requests.items():
                tasks.start_soon(self._check, state.replicas[url], request, results)
        return {redact_url(url): results[url] for url in requests}

    async def _check(self, replica: _ReplicaState, request: HTTPRequest, results: dict[str, bool]) -> None:
        deadline = anyio.current_time() + self.health.check_seconds
        context = Context(purpose="health", deadline=deadline, idempotent=True)
        is_alive = False
        with anyio.CancelScope(deadline=deadline), suppress(OxyError):
            async with self.inner.exchange(attrs.evolve(request, context=context)) as response:
                # A refusal, or a server without this path, passes; the body of a 200 decides.
                body = await read_all(decompressed(response), CHECK_BYTES) if response.status == 200 else None
                is_alive = response.status < SERVER_ERROR if response.status != 200 else parse_alive(body or b"")
        results[request.base_url] = is_alive
        self._record(replica, context, succeeded=is_alive)

    @asynccontextmanager
    async def watching(self, *, every: float = 5.0) -> AsyncGenerator[None, None]:
        """Repeat `check()` while the block lasts, with so many seconds in between.

        Raises:
            ConfigurationError: `every` is not a finite number > 0.
            InsecureTransportError: as for `check`; the block is cancelled. An exception of the block is raised
                unchanged, never in a group.
        """
        if not 0 < every < math.inf:
            raise ConfigurationError(f"Cluster.watching: every must be a finite number > 0; got {every!r}")

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
            NoHealthyReplicaError: the cluster has no replica: no members, or a DNS name without addresses.
            ConfigurationError: the request's base URL is not a replica of this cluster.
            InsecureTransportError: the request must not go to the picked replica over plain http.
        """
        state = await self._current()
        async with AsyncExitStack() as stack:
            if request.base_url:
                replica, request = _replica_of(state, request)
                response = await stack.enter_async_context(self._exchange_with(replica, request))
            elif self.hedge is not None and request.context.idempotent:
                response = await self._hedged(stack, state, request, self.hedge)
            else:
                tried: dict[str, int] = {}
                first = self._next(state, request.context, tried)
                response = await self._failover(
                    await stack.enter_async_context(OpenExchange()), state, request, tried, first
                )
            self._note_location(response.request)  # with hedging: of the exchange that won
            if (claims := _claims(response.request)) is not None:
                claims.confirm(response.request)
            yield response

    async def aclose(self) -> None:
        """As `Transport.aclose`: closes the wrapped transport."""
        await self.inner.aclose()

    async def _current(self) -> _LoopState:
        """The state of this event loop, with up-to-date members and addresses."""
        state = self._loops.get() or self._loops.put(_LoopState())
        state.dns_error = None
        members: tuple[Member, ...] = ()
        while members is not self.members:  # they may be replaced during a resolution
            members = self.members
            for name in members:
                if isinstance(name, DNS):
                    await state.resolve(name)
        state.arrange(members, anyio.current_time())
        return state

    def _next(self, state: _LoopState, context: Context, tried: dict[str, int]) -> _ReplicaState | None:
        """Pick the next replica; None if none is left. `tried` has those before, with their numbers."""
        if len(tried) >= self.tries:
            return None
        now = anyio.current_time()
        urls = [url for url in state.usable(self.health) if url not in tried]
        if not urls:
            rest = [url for url in state.replicas if url not in tried]
            urls = sorted(rest, key=lambda url: state.replicas[url].health.badness)[:1]
        if not urls:
            return None
        candidates = [state.candidate(url, self.health, now) for url in urls]
        key, again = context.group_id, bool(tried)
        replica = state.replicas[pick(self.strategy, candidates, key, state.memory, self.rng, again=again).url]
        state.picks += 1
        replica.last = state.picks
        tried[replica.url] = len(tried)
        return replica

    async def _failover(
        self,
        exchange: OpenExchange,
        state: _LoopState,
        request: HTTPRequest,
        tried: dict[str, int],
        replica: _ReplicaState | None,
    ) -> HTTPResponse:
        """The response for the caller, of `replica` or of another after failover; `exchange` holds its exchange."""
        if replica is None:
            raise NoHealthyReplicaError("the cluster has no replica") from state.dns_error
        while True:
            attempt = request.context.attempt + tried[replica.url]
            context = attrs.evolve(request.context, attempt=attempt)
            sent = attrs.evolve(request, base_url=replica.url, context=context)
            error: OxyError
            response = None
            try:
                response = await exchange.enter(self._exchange_with(replica, sent))
                if response.status == 200:
                    return response
                error = error_from_response(response.status, response.headers, b"")
            except OxyError as failure:
                error = failure
                error.attempts = attempt
            following = self._next(state, context, tried) if _may_fail_over(error, context) else None
            if following is None:
                if response is None:
                    raise error
                return response
            await exchange.close_quietly()
            reason, url, text = type(error).__name__, redact_url(following.url), "%s; failover to %s"
            log_event("retry", context, text, reason, url, attempt=attempt + 1, seconds=0.0, reason=reason)
            replica = following

    async def _hedged(
        self, stack: AsyncExitStack, state: _LoopState, request: HTTPRequest, hedge: Hedge
    ) -> HTTPResponse:
        """The first response of two exchanges, the second of which starts later; the stack holds only its exchange."""
        # The task group ends in here. An exchange may be left in another task than it was entered in, since no
        # transport leaves a cancel scope or a task group open between the two.
        tried: dict[str, int] = {}
        responses: list[tuple[OpenExchange, HTTPResponse]] = []
        errors: list[Exception] = []
        over = anyio.Event()

        async def ask(own: OpenExchange, replica: _ReplicaState | None) -> None:
            try:
                response = await self._failover(own, state, request, tried, replica)
            except Exception as error:  # noqa: BLE001  (the task group would wrap it in a group)
                errors.append(error)
            else:
                responses.append((own, response))
                if response.status == 200:
                    tasks.cancel_scope.cancel()
            over.set()

        async with plain_task_group() as tasks:
            first = self._next(state, request.context, tried)
            tasks.start_soon(ask, await stack.enter_async_context(OpenExchange()), first)
            with anyio.move_on_after(hedge.after):
                await over.wait()
            second = None if over.is_set() else self._next(state, request.context, tried)
            if second is not None:
                attempt = request.context.attempt + tried[second.url]
                context, text = attrs.evolve(request.context, attempt=attempt), "no headers after %.1f s; hedging to %s"
                url, seconds = redact_url(second.url), hedge.after
                log_event("hedge", context, text, seconds, url, attempt=attempt, seconds=seconds)
                tasks.start_soon(ask, await stack.enter_async_context(OpenExchange()), second)
        # An outcome that says that nothing ran must hold for both.
        unsure = [error for error in errors if isinstance(error, OxyError) and error.outcome is Outcome.UNKNOWN]
        responses.sort(key=lambda each: (each[1].status != 200, _ran_nothing(each[1])))
        winner = None if not responses or (unsure and _ran_nothing(responses[0][1])) else responses[0]
        for each in responses:
            if each is not winner:
                await each[0].close_quietly()
        if winner is None:
            raise (unsure or errors)[0]
        return winner[1]

    @asynccontextmanager
    async def _exchange_with(self, replica: _ReplicaState, request: HTTPRequest) -> AsyncGenerator[HTTPResponse, None]:
        """An exchange with one replica; its outcome updates the replica's health."""
        policy, named = request.context.https_only or PlaintextRules(), replica.resolved.member_url
        check_secure(request.url, request.headers, policy, marked=request.context.secret_headers, named=named)
        request = attrs.evolve(request, context=attrs.evolve(request.context, replica=replica.url))
        if (claims := _claims(request)) is not None:
            request = claims.assign(request)
        self._note_location(request)
        async with AsyncExitStack() as stack:
            stack.enter_context(_in_flight(replica))
            try:
                response = await stack.enter_async_context(self.inner.exchange(request))
            except OxyError as error:
                if claims is not None and not error.outcome.may_have_run:
                    claims.discard(request)
                if isinstance(error, FAULTS):
                    error.server_url = redact_url(replica.url)
                    self._record(replica, request.context, succeeded=False)
                raise
            if claims is not None and _ran_nothing(response):
                claims.discard(request)
            chunks = _WatchedChunks(response.chunks)
            try:
                yield attrs.evolve(response, chunks=chunks)
            except UNFINISHED:
                chunks.broken = True
                raise
            finally:
                succeeded = response.status < SERVER_ERROR and not chunks.broken
                self._record(replica, request.context, succeeded=succeeded)

    def _note_location(self, request: HTTPRequest) -> None:
        """Remember that the run of `request` is, or may be, at the replica that the request goes to."""
        context = request.context
        if context.purpose in RUNS:
            location = RunLocation(context.replica, context.remote_trace_id)
            self._locations.note(location, context.trace_id, context.node_id, context.remote_trace_id)

    def _record(self, replica: _ReplicaState, context: Context, *, succeeded: bool) -> None:
        """Update the health of a replica after a call, and log its ejection."""
        now, before, health = anyio.current_time(), replica.health, self.health
        # A lookup counts as a health check: a server may fail every run, and still return the record of each.
        if context.purpose in LOOKUPS:
            after = before.passed_check(health, now) if succeeded else before.missed_check(health, now, self.rng())
        else:
            after = before.succeeded(now) if succeeded else before.failed(health, now, self.rng())
        replica.health = after
        if after.ejections > before.ejections:
            text, failures = "%s failed %d times in a row; it is ejected for %.1f s", max(after.failures, after.missed)
            log_event("warning", context, text, redact_url(replica.url), failures, after.until - now)


def _claims(request: HTTPRequest) -> Claiming | None:
    """The trace id claims of a run's request; None for other requests."""
    return request.context.claims if request.context.purpose == "run" else None


@contextmanager
def _in_flight(replica: _ReplicaState) -> Generator[None]:
    replica.in_flight += 1
    try:
        yield
    finally:
        replica.in_flight -= 1


def _replica_of(state: _LoopState, request: HTTPRequest) -> tuple[_ReplicaState, HTTPRequest]:
    """The replica that a request with a base URL is for, and the request to send.

    After a redirect `context.replica` names it. Otherwise the base URL does: the same URL; the same server in another
    spelling or without user information, as errors and tokens show it, which is replaced by the replica's URL; or
    another URL of the same origin.
    """
    if (replica := state.replicas.get(request.context.replica)) is not None:
        return replica, request
    base_url = request.base_url
    if base_url in state.replicas:
        return state.replicas[base_url], request
    for normalised in (server_address, server_identity):
        for url, replica in state.replicas.items():
            if normalised(url) == normalised(base_url):
                return replica, attrs.evolve(request, base_url=url)
    # Of several replicas at one origin: the one with the longest path that the request's URL is below.
    asked = f"{server_identity(request.url)}/"
    beside = {url: f"{server_identity(url)}/" for url in state.replicas if url_origin(url) == url_origin(base_url)}
    if beside:
        url = max(beside, key=lambda url: len(beside[url]) if asked.startswith(beside[url]) else 0)
        return state.replicas[url], request
    raise ConfigurationError(f"{redact_url(base_url)} is not a replica of this cluster")


def _ran_nothing(response: HTTPResponse) -> bool:
    """Whether the status means that surely no agent ran."""
    return (
        response.status != 200
        and error_from_response(response.status, response.headers, b"").outcome is Outcome.REJECTED
    )


def _may_fail_over(error: OxyError, context: Context) -> bool:
    """Whether failover to another replica is safe and may help."""
    if isinstance(error, ConnectError) and error.outcome is Outcome.NOT_SENT:
        return True  # also for permanent errors such as a bad certificate: another replica has its own
    return error.transient if context.purpose in LOOKUPS else error.retryable
