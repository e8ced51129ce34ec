"""Shared base of the transports over HTTP libraries.

Rule 1: one table maps the library's exceptions (`_error_map`); elsewhere they appear only as a `__cause__`.
Rule 2: a run keeps its own time-outs; only the time to connect is limited here.
Rule 3: connections are not capped. Few are kept alive, for KEEP_ALIVE_SECONDS at most.
Rule 4: a client of ours stores no cookie, and reads no credentials from `.netrc`; the library's log records are
    redacted (`_library_log`).
"""

from __future__ import annotations

import abc
import copy
import functools
import re
import ssl
from collections.abc import Callable, Collection
from contextlib import AsyncExitStack
from typing import Any, ClassVar, Final, Generic, TypeVar

import attrs

from oxygent_client._core.errors import ClosedError, ConfigurationError
from oxygent_client._core.per_loop import Closed, PerLoop
from oxygent_client._core.transport import HTTPRequest
from oxygent_client.transports._cancellation import run_to_end
from oxygent_client.transports._connection_count import ConnectionCounter
from oxygent_client.transports._environment import (
    PORTS,
    Proxies,
    Proxy,
    accepts_all,
    check_proxied_request,
    check_verify,
)
from oxygent_client.transports._error_map import ErrorMap
from oxygent_client.transports._library_log import our_records, redact_records
from oxygent_client.transports._own_client import check_class, check_loop

KEEP_ALIVE_SECONDS: Final = 2.0
"""uvicorn closes idle connections after 5 s, and the outcome of a POST that meets the close is UNKNOWN."""

_is_http: Final = re.compile("https?://", re.IGNORECASE).match

ClientT = TypeVar("ClientT")
F = TypeVar("F", bound=Callable[..., Any])


def closes_safely(exchange: F) -> F:
    """Mark an `exchange`: leaving it waits for nothing, or is bounded and shielded from cancellation by the transport.

    An override has no mark.
    """
    exchange.__dict__["closes_safely"] = True
    return exchange


@attrs.define(eq=False, repr=False)
class LoopClients(Generic[ClientT]):
    """The clients of a transport in one event loop."""

    proxies: Proxies
    clients: dict[tuple[bool, Proxy | None], ClientT] = attrs.field(factory=dict[Any, Any])
    """By whether TLS is needed, and by proxy."""


def needs_tls(url: str, proxy: Proxy | None) -> bool:
    """Return whether TLS is used, with the server at `url` or with its proxy."""
    return not url.startswith("http:") or (proxy is not None and proxy.is_secure)


class HTTPBase(abc.ABC, Generic[ClientT]):
    """Base of the transports over httpx, httpx2 and aiohttp; a subclass documents the arguments."""

    _errors: ClassVar[ErrorMap]
    _argument: ClassVar[str] = "client"
    """The argument for the user's own client."""
    _proxy_schemes: ClassVar[tuple[str, ...]] = tuple(PORTS)
    """The schemes of proxies that the library supports."""

    def __init__(
        self,
        own: ClientT | None,
        own_class: type,
        own_attributes: Collection[str],
        *,
        verify: ssl.SSLContext | bool,
        proxy: str | None,
        connect: float | None,
        trust_env: bool,
        unix_socket: str | None,
        counter: ConnectionCounter[Any],
    ) -> None:
        name = type(self).__name__
        check_verify(verify, name)
        if own is not None:
            if verify is not True or proxy is not None or unix_socket is not None:
                raise ConfigurationError(
                    f"{name}: {self._argument} cannot be combined with verify, proxy or unix_socket; set them on your"
                    f" {self._argument}"
                )
            check_class(own, own_class, f"{name}: {self._argument}", own_attributes)
        if proxy is not None and unix_socket is not None:
            raise ConfigurationError(f"{name}: proxy and unix_socket cannot be combined")
        self._own = own
        self._verify = verify
        self._proxy = proxy
        self._connect = connect
        self._trust_env = trust_env
        self._unix_socket = unix_socket
        self._live: PerLoop[LoopClients[ClientT]] = PerLoop()
        self._closed = Closed()
        self._counter = counter

    def _start(self, request: HTTPRequest, url: str) -> tuple[ClientT, Proxy | None, str]:
        """Return the client for `request`, its proxy if that is known, and the URL to name in errors."""
        if self._own is None:
            client, proxy = self._find_client(request, url)
        else:
            client, proxy = self._own, None
            self._check_own(request, url, client)
        self._check_open(client)
        redact_records(self._errors.library)
        return client, proxy, url if self._unix_socket is None else f"unix:{self._unix_socket}"

    def _check_own(self, request: HTTPRequest, url: str, own: ClientT) -> None:
        """Check that the user's own client may send `request`."""
        check_loop(own, f"{type(self).__name__}: {self._argument}", getattr(own, "_loop", None))

    def _check_open(self, client: ClientT) -> None:
        self._closed.check(self)
        if self._is_closed(client):
            raise ClosedError(f"{type(self).__name__}: the {self._errors.library} {self._argument} was closed")

    def _find_client(self, request: HTTPRequest, url: str) -> tuple[ClientT, Proxy | None]:
        if not _is_http(url):  # a library may take another scheme for one of these
            raise ConfigurationError(f"{type(self).__name__}: the URL must begin with http:// or https://")
        live = self._live.get() or self._new_live()
        proxy = live.proxies.find(url)
        if proxy is not None:
            check_proxied_request(request, proxy.url)
        key = self._client_key(url, proxy)
        client = live.clients.get(key)
        if client is None:
            client = live.clients[key] = self._new_client(*key)
        return client, proxy

    def _new_live(self) -> LoopClients[ClientT]:
        self._closed.check(self)
        self._counter.close_orphans()
        trust_env = self._trust_env and self._unix_socket is None
        proxies = Proxies.read(self._proxy, trust_env=trust_env, schemes=self._proxy_schemes)
        live: LoopClients[ClientT] = LoopClients(proxies)
        return self._live.put(live, self._close_clients)

    def _client_key(self, url: str, proxy: Proxy | None) -> tuple[bool, Proxy | None]:
        return needs_tls(url, proxy), proxy

    @abc.abstractmethod
    def _new_client(self, needs_tls: bool, proxy: Proxy | None) -> ClientT:
        """Create a client."""

    @staticmethod
    @abc.abstractmethod
    def _is_closed(client: Any) -> bool:
        """Return whether a client was closed."""

    @staticmethod
    @abc.abstractmethod
    async def _close_client(client: Any) -> None:
        """Close a client."""

    async def aclose(self) -> None:
        """As `Transport.aclose`; your own client stays open."""
        self._closed.note()
        live = self._live.take()
        if live is not None:
            with our_records(), self._errors.mapped("", reading=True):
                await run_to_end(functools.partial(self._close_clients, live))

    @classmethod  # not bound to an instance, which would live as long as the event loop then
    async def _close_clients(cls, live: LoopClients[Any]) -> None:
        async with AsyncExitStack() as stack:  # all are closed, even if one fails
            for client in live.clients.values():
                stack.push_async_callback(cls._close_client, client)

    def __getstate__(self) -> dict[str, Any]:
        live_arguments = {self._argument: self._own is not None, "verify": not isinstance(self._verify, bool)}
        for name, is_live in live_arguments.items():
            if is_live:
                raise ConfigurationError(f"{type(self).__name__}: `{name}` is live and cannot be pickled or copied")
        empty = {name: copy.copy(self.__dict__[name]) for name in ("_live", "_closed", "_counter")}
        return {**self.__dict__, **empty}

    def __repr__(self) -> str:
        own = f"{self._argument}=..." if self._own is not None else accepts_all(self._verify)
        return f"{type(self).__name__}({own})"
