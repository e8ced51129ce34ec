"""What a remote is: its organization, its description, and the names it knows.

Rule 1: all of it is read within DISCOVERY_SECONDS, and within the limits; nothing of it is trusted.
Rule 2: only the organization must be there. A server without the other documents is still a server.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Generator
from contextlib import contextmanager, suppress
from functools import partial
from typing import Any, Final

import anyio
import attrs
from anyio.lowlevel import checkpoint

from oxygent_client._errors import (
    ConnectError,
    DeadlineExceededError,
    EnvelopeError,
    OxyError,
    StatusError,
    TooLargeError,
    UnknownCalleeError,
)
from oxygent_client._log import tell
from oxygent_client._per_loop import PerLoop
from oxygent_client._secrets import cleaner
from oxygent_client._settings import Limits
from oxygent_client._transport import HTTPRequest, HTTPResponse, Transport, shown_url
from oxygent_client._wire import PATHS, Agents, envelope, organization, refusal

__all__ = ["DISCOVERY_SECONDS", "Directory", "Remote", "ask", "discover", "fetch", "refused"]

DISCOVERY_SECONDS: Final = 30.0
"""For all documents together: connections, headers and bodies."""
MARGIN: Final = 0.05
"""Seconds before the deadline of a call by which a refusal is made known: what is known of it must not be lost."""
REFUSAL_SECONDS: Final = 5.0
"""How long the body of a refusal is read."""


@attrs.frozen(kw_only=True)
class Remote:
    """What discovery found."""

    organization: dict[str, Any]
    """The tree, as the server gave it."""
    description: str
    """The master agent's own words; empty where it has none."""
    agents: Agents
    """The names that the remote knows."""


UNKNOWN: Final = Remote(organization={}, description="", agents=Agents(frozenset(), complete=False))
"""A remote that cannot say what it is; it may run agents all the same."""


class Directory:
    """What one agent knows of its remote: asked for once, and kept."""

    def __init__(self) -> None:
        self.remote: Remote | None = None
        self._locks: PerLoop[anyio.Lock] = PerLoop()

    async def look(self, transport: Transport, request: HTTPRequest, limits: Limits) -> Remote:
        """Ask the remote, and keep what it says.

        Raises:
            OxyError: the organization could not be had.
        """
        try:
            self.remote = await discover(transport, request, limits)
        except OxyError as error:
            error.server_url = error.server_url or shown_url(request.base_url)
            raise
        return self.remote

    async def check(self, callee: str, transport: Transport, request: HTTPRequest, limits: Limits) -> None:
        """Nothing, if the remote may have `callee`; asks the remote the first time.

        Raises:
            UnknownCalleeError: the remote listed its members, and `callee` is not among them.
            ConnectError: there is no remote.
        """
        async with self._locks.get() or self._locks.put(anyio.Lock()):
            if self.remote is None:
                try:
                    await self.look(transport, request, limits)
                except ConnectError:
                    raise
                except OxyError as error:
                    tell("odd", request.context, "the remote does not say whom it knows: %s", error)
                    self.remote = UNKNOWN
        known = (self.remote or UNKNOWN).agents
        if callee not in known.names and known.complete:
            some = ", ".join(repr(name[:60]) for name in sorted(known.names)[:10])
            raise UnknownCalleeError(f"the remote has nothing called {callee!r}; it has {some or 'nothing at all'}")
        if callee not in known.names:
            said = "the remote does not show anything called %r; a run of an unknown name never ends there"
            tell("odd", request.context, said, callee)

    def shows(self, name: str) -> bool:
        """Whether a discovery has happened and showed `name`."""
        return self.remote is not None and name in self.remote.agents.names


async def discover(transport: Transport, request: HTTPRequest, limits: Limits) -> Remote:
    """Ask a remote what it is; `request` serves as the pattern of each request.

    Raises:
        OxyError: the organization could not be had.
    """
    until = anyio.current_time() + DISCOVERY_SECONDS
    ask = partial(_data, transport, request, limits, until)
    root = organization(await ask(PATHS["organization"]), limits)
    description = await _optional(ask, PATHS["description"], request)
    listing = await _optional(ask, PATHS["agents"], request)
    words = (description or {}).get("description")
    return Remote(
        organization=root,
        description=words if isinstance(words, str) else "",
        agents=Agents.read(root, listing),
    )


async def _data(transport: Transport, pattern: HTTPRequest, limits: Limits, until: float, path: str) -> dict[str, Any]:
    return await ask(transport, attrs.evolve(pattern, path=path), limits, until=until)


async def _optional(
    ask: Callable[[str], Awaitable[dict[str, Any]]], path: str, pattern: HTTPRequest
) -> dict[str, Any] | None:
    """The data of a document that some servers do not have, or cannot give: None then."""
    try:
        return await ask(path)
    except (StatusError, EnvelopeError) as error:
        tell("detail", pattern.context, "%s: %s", path, error)
        return None


async def ask(transport: Transport, request: HTTPRequest, limits: Limits, *, until: float) -> dict[str, Any]:
    """The data of an envelope; an error that the envelope holds does not repeat a secret that was sent.

    Raises:
        EnvelopeError, MalformedResponseError: it holds an error, or is none.
        OxyError: as `fetch`.
    """
    sent, body = await _fetched(transport, request, limits, until)
    with _said_by(sent):
        return envelope(body, limits, clean=cleaner(sent.base_url, sent.headers, sent.context.secret_headers))


async def fetch(transport: Transport, request: HTTPRequest, limits: Limits, *, until: float) -> bytes:
    """The body of a response with status 200, read until `until` by the event loop's clock.

    Raises:
        StatusError: another status.
        DeadlineExceededError: it took longer.
        TooLargeError: the body is larger than `limits.body_bytes`.
        OxyError: what the transport raises.
    """
    return (await _fetched(transport, request, limits, until))[1]


async def _fetched(
    transport: Transport, request: HTTPRequest, limits: Limits, until: float
) -> tuple[HTTPRequest, bytes]:
    """The request as it was sent, and the body."""
    ends = until if request.context.deadline is None else min(until, request.context.deadline)
    request = attrs.evolve(request, context=attrs.evolve(request.context, deadline=ends))
    with anyio.CancelScope(deadline=until):
        async with transport.exchange(request) as response:
            with _said_by(response.request):
                if response.status != 200:
                    raise await refused(response, limits)
                body = bytearray()
                async for piece in response.chunks:
                    body += piece
                    if limits.body_bytes is not None and len(body) > limits.body_bytes:
                        raise TooLargeError(f"the response is larger than Limits.body_bytes ({limits.body_bytes})")
                    await checkpoint()  # pieces that are always there already let no cancellation come through
                return response.request, bytes(body)
    raise DeadlineExceededError(f"no answer to {request.method} {request.path.partition('?')[0]} in time")


@contextmanager
def _said_by(sent: HTTPRequest) -> Generator[None]:
    """An error of the block names the server that the request went to, which a transport may have chosen."""
    try:
        yield
    except OxyError as error:
        error.server_url = error.server_url or shown_url(sent.base_url)
        raise


async def refused(response: HTTPResponse, limits: Limits) -> OxyError:
    """The error that `response` is, which is not what was asked for.

    Its body serves a person only: what came within REFUSAL_SECONDS, before the deadline of the call, and before it
    broke off, is enough.
    """
    body = bytearray()
    until = anyio.current_time() + REFUSAL_SECONDS
    if (deadline := response.request.context.deadline) is not None:
        until = min(until, deadline - MARGIN)
    with anyio.CancelScope(deadline=until), suppress(OxyError):
        async for piece in response.chunks:
            body += piece
            if len(body) >= limits.error_body_bytes:
                break
            await checkpoint()
    sent = response.request
    clean = cleaner(sent.base_url, sent.headers, sent.context.secret_headers)
    error = refusal(response.status, response.headers, bytes(body[: limits.error_body_bytes]), limits, clean=clean)
    error.attempts = sent.context.attempt
    return error
