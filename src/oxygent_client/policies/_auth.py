"""Authentication policies: bearer token, basic, API key, OAuth 2 client credentials.

Rule 1: a value with a literal secret shows it nowhere and stays in its process: it is not pickled. One that knows where
    the secret is (`from_env`, `from_file`, a provider) travels as that.
Rule 2: a header that a request has already wins over ours.
Rule 3: what is added here is marked as a credential (`Context.secret_headers`), whatever the header is called.
Rule 4: waiting for a secret ends with the call's deadline; nothing was sent then. No exchange is open meanwhile.
"""

from __future__ import annotations

import base64
import os
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from typing import Any, ClassVar, Final, Self, TypeAlias, TypeVar, cast
from urllib.parse import urlsplit

import anyio
import attrs

from oxygent_client._core.bodies import inflated, read_up_to
from oxygent_client._core.errors import ConfigurationError, DeadlineExceededError, Outcome, OxyError
from oxygent_client._core.transport import HTTPRequest, HTTPResponse, Transport
from oxygent_client._core.validation import number
from oxygent_client.policies._base import PolicyKind, Wrapper, waiting_ends
from oxygent_client.policies._tokens import (
    FromEnv,
    FromFile,
    Issued,
    SecretProvider,
    TokenCache,
    TokenProvider,
    called,
    checked,
)

__all__ = [
    "APIKey",
    "APIKeyTransport",
    "BasicAuth",
    "BasicAuthTransport",
    "BearerAuth",
    "BearerAuthTransport",
    "Headers",
    "HeadersProvider",
    "HeadersTransport",
]

PROTOCOL: Final = frozenset("accept accept-encoding content-length content-type host transfer-encoding".split())
"""Headers without which a request would be another."""
REFUSAL_SECONDS: Final = 2.0
REFUSAL_BYTES: Final = 16 * 1024
"""How much of a 401 is kept, in case that it is handed on after all."""

T = TypeVar("T")

HeadersProvider: TypeAlias = Callable[[HTTPRequest], Awaitable[Mapping[str, str]]]
"""Called and awaited for each request that is sent."""

# --- the values -------------------------------------------------------------------------------------------------------


class _Secretive:
    """What the values with a secret share."""

    __slots__ = ()

    provider: Any
    """None where the secret is a literal."""

    def __copy__(self) -> Self:
        return self

    def __deepcopy__(self, _memo: dict[int, Any]) -> Self:
        return self

    def __reduce_ex__(self, protocol: Any) -> Any:
        if self.provider is None:
            name = type(self).__name__
            raise ConfigurationError(
                f"{name} with a literal secret cannot be pickled: use {name}.from_env or {name}.from_file"
            )
        return super().__reduce_ex__(protocol)

    def __repr__(self) -> str:
        name = type(self).__name__
        match self.provider:
            case None:
                return f"{name}(...)"
            case FromEnv(name=variable):
                return f"{name}.from_env({variable!r})"
            case FromFile(path=path):
                return f"{name}.from_file({path!r})"
            case provider:
                return f"{name}(provider={_named(provider)})"


def _named(provider: object) -> str:
    """What a provider is called; its own repr may tell the arguments of a partial."""
    name: str = getattr(provider, "__qualname__", type(provider).__qualname__)
    return name


def _one_source(owner: object, literal: str, provider: object) -> None:
    if bool(literal) == (provider is not None):
        name = type(owner).__name__
        raise ConfigurationError(f"{name} needs exactly one source: a literal, from_env, from_file or provider")


@attrs.frozen(repr=False)
class BearerAuth(_Secretive):
    """A token, sent as `authorization: Bearer ...`.

    `token` is a literal; `provider` is an async function that gives one. What a provider gave is kept until
    `refresh_before` seconds before its end. Then one call asks for the next, while all others go on with the old one;
    if that fails the old one is used until its end. Without a token that can be used all wait for one refresh, and
    share what comes of it.

    After a 401 the token is refreshed once, and the request is sent once more: a 401 says that nothing ran. A second
    401 is handed on, and so is the first where there is no other token. A request that brings an `authorization` header
    of its own is sent as it is, and its 401 is handed on.

    Raises:
        ConfigurationError: there is not exactly one of `token` and `provider`, or the token is none.
    """

    kind: ClassVar[PolicyKind] = "auth"

    token: str = ""
    provider: TokenProvider | None = attrs.field(default=None, kw_only=True)
    refresh_before: float = attrs.field(default=60.0, kw_only=True, validator=number(ge=0))
    """Seconds."""

    def __attrs_post_init__(self) -> None:
        _one_source(self, self.token, self.provider)
        if self.token:
            checked(self.token)

    @classmethod
    def from_env(cls, name: str) -> Self:
        """The token in the environment variable `name`, read for each request."""
        return cls(provider=FromEnv(name))

    @classmethod
    def from_file(cls, path: str | os.PathLike[str]) -> Self:
        """The token in a file, read for each request: a file that was rotated is seen at once."""
        return cls(provider=FromFile(os.fspath(path)))

    def remember(self) -> TokenCache:
        """No token yet."""
        return TokenCache()

    def over(self, inner: Transport, memory: TokenCache) -> BearerAuthTransport:
        """As `Policy.over`."""
        return BearerAuthTransport(inner, self, memory=memory)


class _Static:
    """What the policies share that remember nothing."""

    __slots__ = ()

    kind: ClassVar[PolicyKind] = "auth"

    def remember(self) -> None:
        """Nothing."""


@attrs.frozen(repr=False)
class BasicAuth(_Secretive, _Static):
    """A user's name and password, sent as `authorization: Basic ...` (RFC 7617, in UTF-8).

    `provider` is an async function that gives the password, called for each request.

    Raises:
        ConfigurationError: the name has a colon, one of the two a control character, or there are two passwords.
    """

    username: str
    password: str = ""
    provider: SecretProvider | None = attrs.field(default=None, kw_only=True)

    def __attrs_post_init__(self) -> None:
        if ":" in self.username:
            raise ConfigurationError("BasicAuth: a user's name cannot have a colon")
        if self.password and self.provider is not None:
            raise ConfigurationError("BasicAuth: give a password or a provider, not both")
        _basic(self.username, self.password)

    @classmethod
    def from_env(cls, username: str, name: str) -> Self:
        """The password in the environment variable `name`, read for each request."""
        return cls(username, provider=FromEnv(name))

    @classmethod
    def from_file(cls, username: str, path: str | os.PathLike[str]) -> Self:
        """The password in a file, read for each request."""
        return cls(username, provider=FromFile(os.fspath(path)))

    def over(self, inner: Transport, memory: None = None) -> BasicAuthTransport:
        """As `Policy.over`."""
        return BasicAuthTransport(inner, self)

    async def headers(self, _request: HTTPRequest) -> Mapping[str, str]:
        """What is added to a request."""
        password = await _secret(self.provider) if self.provider else self.password
        return {"authorization": _basic(self.username, password)}


def _basic(username: str, password: str) -> str:
    pair = f"{username}:{password}"
    if any(char < " " or char == "\x7f" or "\ud800" <= char <= "\udfff" for char in pair):
        raise ConfigurationError("BasicAuth: the user's name or the password has a character that is not allowed")
    return "Basic " + base64.b64encode(pair.encode()).decode()


@attrs.frozen(repr=False)
class APIKey(_Secretive, _Static):
    """A key, sent in a header of its own.

    `provider` is an async function that gives the key, called for each request.

    Raises:
        ConfigurationError: there is not exactly one of `key` and `provider`, or `header` is the protocol's.
    """

    key: str = ""
    header: str = attrs.field(default="x-api-key", kw_only=True)
    provider: SecretProvider | None = attrs.field(default=None, kw_only=True)

    def __attrs_post_init__(self) -> None:
        _one_source(self, self.key, self.provider)
        HTTPRequest("GET", "", "", _ours({self.header: self.key}))  # what cannot be sent is an error now

    @classmethod
    def from_env(cls, name: str, *, header: str = "x-api-key") -> Self:
        """The key in the environment variable `name`, read for each request."""
        return cls(header=header, provider=FromEnv(name))

    @classmethod
    def from_file(cls, path: str | os.PathLike[str], *, header: str = "x-api-key") -> Self:
        """The key in a file, read for each request."""
        return cls(header=header, provider=FromFile(os.fspath(path)))

    def over(self, inner: Transport, memory: None = None) -> APIKeyTransport:
        """As `Policy.over`."""
        return APIKeyTransport(inner, self)

    async def headers(self, _request: HTTPRequest) -> Mapping[str, str]:
        """What is added to a request."""
        return {self.header: await _secret(self.provider) if self.provider else self.key}


async def _secret(provider: SecretProvider) -> str:
    secret: object = await called(provider, "provider of the secret")
    if not isinstance(secret, str) or not secret:
        raise ConfigurationError("the provider of the secret gave no text, or an empty one")
    return secret


@attrs.frozen
class Headers(_Static):
    """Whatever headers an async function gives for a request, called for each that is sent.

    It gets the request as it is so far: to sign its body, or to decide by `request.context`. It may not give the
    protocol's own headers (`accept`, `accept-encoding`, `content-length`, `content-type`, `host`, `transfer-encoding`):
    that is a `ConfigurationError` of the call.
    """

    provider: HeadersProvider = attrs.field(repr=_named)

    def over(self, inner: Transport, memory: None = None) -> HeadersTransport:
        """As `Policy.over`."""
        return HeadersTransport(inner, self)

    async def headers(self, request: HTTPRequest) -> Mapping[str, str]:
        """What is added to a request."""
        given = await called(self.provider, "provider of the headers", request)
        if not isinstance(given, Mapping):
            raise ConfigurationError(f"the provider of the headers gave no mapping, but {type(given).__name__}")
        headers = cast("Mapping[object, object]", given)
        if not all(isinstance(name, str) and isinstance(value, str) for name, value in headers.items()):
            raise ConfigurationError("the provider of the headers gave a name or a value that is no text")
        return cast("Mapping[str, str]", headers)


def _ours(headers: Mapping[str, str]) -> Mapping[str, str]:
    """`headers` with their names in lower case, if none is the protocol's."""
    lower = {name.lower(): value for name, value in headers.items()}
    if taken := sorted(PROTOCOL & lower.keys()):
        raise ConfigurationError(f"{', '.join(taken)}: the protocol's own headers cannot be given")
    return lower


# --- the transports ---------------------------------------------------------------------------------------------------


@attrs.define(eq=False)
class BearerAuthTransport(Wrapper):
    """Sends a bearer token with each request."""

    kind: ClassVar[PolicyKind] = "auth"

    auth: BearerAuth
    memory: TokenCache = attrs.field(factory=TokenCache, kw_only=True, repr=False)
    """The token that is held. Its own, unless it is given one to share."""

    @asynccontextmanager
    async def exchange(self, request: HTTPRequest, /) -> AsyncGenerator[HTTPResponse, None]:
        """As `Transport.exchange`; entering it may take two exchanges, one after the other."""
        async with AsyncExitStack() as stack:
            yield await self._respond(stack, request)

    async def _respond(self, stack: AsyncExitStack, request: HTTPRequest) -> HTTPResponse:
        """The response that is handed on; the stack holds its exchange."""
        if "authorization" in {name.lower() for name in request.headers}:
            return await stack.enter_async_context(self.inner.exchange(request))
        token = await _in_time(request, self._token(request), Outcome.NOT_SENT)
        response = await stack.enter_async_context(self.inner.exchange(_bearing(request, token)))
        if response.status != 401:
            return response
        refusal = await _kept(response)
        with suppress(OxyError):  # that it did not end well matters to nobody any more
            await stack.aclose()
        other = await _in_time(request, self._token(request, refused=token), Outcome.REJECTED)
        if other.value == token.value:
            return refusal
        again = attrs.evolve(request, context=attrs.evolve(request.context, attempt=request.context.attempt + 1))
        return await stack.enter_async_context(self.inner.exchange(_bearing(again, other)))

    async def _token(self, request: HTTPRequest, refused: Issued | None = None) -> Issued:
        auth = self.auth
        if auth.provider is None:
            return Issued(auth.token)
        if isinstance(auth.provider, FromEnv | FromFile):
            return Issued(checked(await auth.provider()))
        return await self.memory.token(
            auth.provider, refresh_before=auth.refresh_before, context=request.context, refused=refused
        )


def _bearing(request: HTTPRequest, token: Issued) -> HTTPRequest:
    return _with(request, {"authorization": f"Bearer {token.value}"})


def _with(request: HTTPRequest, headers: Mapping[str, str]) -> HTTPRequest:
    """`request` with these headers, which are marked as credentials.

    Raises:
        ConfigurationError: one is `authorization`, which HTTP libraries make of user information in the URL as well.
    """
    if "authorization" in headers and "@" in urlsplit(request.base_url).netloc:
        raise ConfigurationError("`auth=` and user information in the URL are two credentials: give only one of them")
    context = attrs.evolve(request.context, secret_headers=request.context.secret_headers | headers.keys())
    return attrs.evolve(request, headers={**request.headers, **headers}, context=context)


@attrs.define(eq=False)
class HeadersTransport(Wrapper):
    """Adds headers to each request, but none that it has already."""

    kind: ClassVar[PolicyKind] = "auth"

    auth: Headers | BasicAuth | APIKey

    @asynccontextmanager
    async def exchange(self, request: HTTPRequest, /) -> AsyncGenerator[HTTPResponse, None]:
        """As `Transport.exchange`."""
        headers = _ours(await _in_time(request, self.auth.headers(request), Outcome.NOT_SENT))
        own = {name.lower() for name in request.headers}
        added = {name: value for name, value in headers.items() if name not in own}
        async with self.inner.exchange(_with(request, added)) as response:
            yield response


@attrs.define(eq=False)
class BasicAuthTransport(HeadersTransport):
    """Sends a user's name and password with each request."""


@attrs.define(eq=False)
class APIKeyTransport(HeadersTransport):
    """Sends an API key with each request."""


async def _in_time(request: HTTPRequest, secret: Awaitable[T], outcome: Outcome) -> T:
    """What is awaited, before the deadline of the call.

    Raises:
        OxyError: there is none; the outcome is `outcome`.
    """
    try:
        with anyio.CancelScope(deadline=waiting_ends(request.context)):
            return await secret
        raise DeadlineExceededError("no credentials within the time for the whole call")
    except OxyError as error:
        error.outcome = outcome
        raise


async def _kept(response: HTTPResponse) -> HTTPResponse:
    """`response`, with the beginning of its body, to be read when its exchange is over."""
    body = await read_up_to(inflated(response), REFUSAL_BYTES, until=anyio.current_time() + REFUSAL_SECONDS)
    return attrs.evolve(response, chunks=_Body(body))


class _Body:
    """A body that has been read."""

    def __init__(self, body: bytes) -> None:
        self._pieces = iter((body,) if body else ())

    def __aiter__(self) -> AsyncIterator[bytes]:
        return self

    async def __anext__(self) -> bytes:
        for piece in self._pieces:
            return piece
        raise StopAsyncIteration
