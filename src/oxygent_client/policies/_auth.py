"""Authentication policies: bearer token, basic, API key, OAuth 2 client credentials.

Rule 1: a value with a literal secret shows it nowhere and cannot be pickled. One that holds a source (`from_env`,
    `from_file`, a provider) pickles as that source.
Rule 2: a header that a request has already wins over the policy's.
Rule 3: each added header is marked as a credential (`Context.secret_headers`), whatever its name.
Rule 4: waiting for a secret ends with the call's deadline; nothing was sent then. No exchange is open meanwhile.
"""

from __future__ import annotations

import base64
import os
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, ClassVar, Final, Self, TypeAlias, TypeVar, cast
from urllib.parse import urlsplit

import anyio
import attrs

from oxygent_client._core.bodies import decompressed, read_up_to
from oxygent_client._core.errors import ConfigurationError, DeadlineExceededError, Outcome, OxyError
from oxygent_client._core.transport import BufferedChunks, HTTPRequest, HTTPResponse, OpenExchange, Transport
from oxygent_client._core.validation import number
from oxygent_client.policies._base import Layer, PolicyKind, StatelessPolicy, Wrapper, wait_deadline
from oxygent_client.policies._tokens import (
    CachedToken,
    FromEnv,
    FromFile,
    SecretProvider,
    TokenCache,
    TokenProvider,
    call_provider,
    check_token,
)

PROTOCOL: Final = frozenset("accept accept-encoding content-length content-type host transfer-encoding".split())
"""Headers that HTTP and the event stream depend on."""
REFUSAL_SECONDS: Final = 2.0
REFUSAL_BYTES: Final = 16 * 1024
"""How much of a 401 is kept, in case it is returned after all."""

T = TypeVar("T")

HeadersProvider: TypeAlias = Callable[[HTTPRequest], Awaitable[Mapping[str, str]]]
"""Called and awaited for each request that is sent."""

# --- the values -------------------------------------------------------------------------------------------------------


class _SecretValue:
    """Base class of the values that hold a secret: no secret in repr, none pickled."""

    __slots__ = ()

    provider: Any
    """None if the secret is a literal."""

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
                return f"{name}(provider={_provider_name(provider)})"

    def _check_one_source(self, literal: str) -> None:
        if bool(literal) == (self.provider is not None):
            name = type(self).__name__
            raise ConfigurationError(f"{name} needs exactly one source: a literal, from_env, from_file or provider")


def _provider_name(provider: object) -> str:
    """The name of a provider; its own repr may show the arguments of a partial."""
    name: str = getattr(provider, "__qualname__", type(provider).__qualname__)
    return name


@attrs.frozen(repr=False)
class BearerAuth(_SecretValue):
    """Bearer token, sent as `authorization: Bearer ...`, with token refresh.

    `token` is a literal; `provider` is an async function that returns a token. The provider's token is cached until
    `refresh_before` seconds before it expires. Then one call refreshes it while all others use the old one; if the
    refresh fails the old token is used until it expires. Without a valid token all calls wait for one refresh and share
    its result.

    After a 401 the token is refreshed once and the request is sent once more: a 401 means that nothing ran. A second
    401 is returned, and so is the first if the refresh gives the same token. A request that has an `authorization`
    header already is sent unchanged, and its 401 is returned.

    Raises:
        ConfigurationError: pass exactly one of `token` and `provider`; a token is visible ASCII without spaces.
    """

    kind: ClassVar[PolicyKind] = "auth"

    token: str = ""
    provider: TokenProvider | None = attrs.field(default=None, kw_only=True)
    refresh_before: float = attrs.field(default=60.0, kw_only=True, validator=number(ge=0))
    """Seconds."""

    def __attrs_post_init__(self) -> None:
        self._check_one_source(self.token)
        if self.token:
            check_token(self.token)

    @classmethod
    def from_env(cls, name: str) -> Self:
        """Read the token from the environment variable `name` for each request."""
        return cls(provider=FromEnv(name))

    @classmethod
    def from_file(cls, path: str | os.PathLike[str]) -> Self:
        """Read the token from a file for each request, so that a rotated file takes effect at once."""
        return cls(provider=FromFile(os.fspath(path)))

    def new_state(self) -> TokenCache:
        """An empty token cache."""
        return TokenCache()

    def wrap(self, inner: Transport, state: TokenCache) -> BearerAuthTransport:
        """As `Policy.wrap`."""
        return BearerAuthTransport(inner, self, memory=state)


@attrs.frozen(repr=False)
class BasicAuth(_SecretValue, StatelessPolicy):
    """User name and password, sent as `authorization: Basic ...` (RFC 7617, in UTF-8).

    `provider` is an async function that returns the password, called for each request.

    Raises:
        ConfigurationError: the name has a colon, the name or the password has a control character, or there are both a
            password and a provider.
    """

    kind: ClassVar[PolicyKind] = "auth"

    username: str
    password: str = ""
    provider: SecretProvider | None = attrs.field(default=None, kw_only=True)

    def __attrs_post_init__(self) -> None:
        if ":" in self.username:
            raise ConfigurationError("BasicAuth: username must not have a colon")
        if self.password and self.provider is not None:
            raise ConfigurationError("BasicAuth: pass a password or a provider, not both")
        _basic(self.username, self.password)

    @classmethod
    def from_env(cls, username: str, name: str) -> Self:
        """Read the password from the environment variable `name` for each request."""
        return cls(username, provider=FromEnv(name))

    @classmethod
    def from_file(cls, username: str, path: str | os.PathLike[str]) -> Self:
        """Read the password from a file for each request."""
        return cls(username, provider=FromFile(os.fspath(path)))

    def wrap(self, inner: Transport, _state: None = None) -> BasicAuthTransport:
        """As `Policy.wrap`."""
        return BasicAuthTransport(inner, self)

    async def headers(self, _request: HTTPRequest) -> Mapping[str, str]:
        """The headers to add to a request."""
        password = await _secret(self.provider) if self.provider else self.password
        return {"authorization": _basic(self.username, password)}


def _basic(username: str, password: str) -> str:
    pair = f"{username}:{password}"
    if any(char < " " or char == "\x7f" or "\ud800" <= char <= "\udfff" for char in pair):
        raise ConfigurationError("BasicAuth: username or password has a control character or a lone surrogate")
    return "Basic " + base64.b64encode(pair.encode()).decode()


@attrs.frozen(repr=False)
class APIKey(_SecretValue, StatelessPolicy):
    """API key, sent in a header of its own.

    `provider` is an async function that returns the key, called for each request.

    Raises:
        ConfigurationError: pass exactly one of `key` and `provider`; `header` cannot be one that HTTP depends on.
    """

    kind: ClassVar[PolicyKind] = "auth"

    key: str = ""
    header: str = attrs.field(default="x-api-key", kw_only=True)
    provider: SecretProvider | None = attrs.field(default=None, kw_only=True)

    def __attrs_post_init__(self) -> None:
        self._check_one_source(self.key)
        HTTPRequest("GET", "", "", _check_names({self.header: self.key}))  # fails now if it could not be sent

    @classmethod
    def from_env(cls, name: str, *, header: str = "x-api-key") -> Self:
        """Read the key from the environment variable `name` for each request."""
        return cls(header=header, provider=FromEnv(name))

    @classmethod
    def from_file(cls, path: str | os.PathLike[str], *, header: str = "x-api-key") -> Self:
        """Read the key from a file for each request."""
        return cls(header=header, provider=FromFile(os.fspath(path)))

    def wrap(self, inner: Transport, _state: None = None) -> APIKeyTransport:
        """As `Policy.wrap`."""
        return APIKeyTransport(inner, self)

    async def headers(self, _request: HTTPRequest) -> Mapping[str, str]:
        """The headers to add to a request."""
        return {self.header: await _secret(self.provider) if self.provider else self.key}


async def _secret(provider: SecretProvider) -> str:
    secret: object = await call_provider(provider, "provider of the secret")
    if not isinstance(secret, str) or not secret:
        raise ConfigurationError("the provider of the secret must return a non-empty str")
    return secret


@attrs.frozen
class Headers(StatelessPolicy):
    """Headers from an async function, called for each request that is sent.

    It gets the request as built so far, to sign its body or to decide by `request.context`. It must not return headers
    that HTTP depends on (`accept`, `accept-encoding`, `content-length`, `content-type`, `host`, `transfer-encoding`):
    the call fails with a `ConfigurationError` then.
    """

    kind: ClassVar[PolicyKind] = "auth"

    provider: HeadersProvider = attrs.field(repr=_provider_name)

    def wrap(self, inner: Transport, _state: None = None) -> HeadersTransport:
        """As `Policy.wrap`."""
        return HeadersTransport(inner, self)

    async def headers(self, request: HTTPRequest) -> Mapping[str, str]:
        """The headers to add to a request."""
        given = await call_provider(self.provider, "provider of the headers", request)
        if not isinstance(given, Mapping):
            raise ConfigurationError(f"the provider of the headers must return a mapping, not {type(given).__name__}")
        headers = cast("Mapping[object, object]", given)
        if not all(isinstance(name, str) and isinstance(value, str) for name, value in headers.items()):
            raise ConfigurationError("the provider of the headers must return names and values of type str")
        return cast("Mapping[str, str]", headers)


def _check_names(headers: Mapping[str, str]) -> Mapping[str, str]:
    """Return `headers` with lower-case names, if HTTP depends on none of them."""
    lower = {name.lower(): value for name, value in headers.items()}
    if taken := sorted(PROTOCOL & lower.keys()):
        raise ConfigurationError(f"{', '.join(taken)}: this header cannot be replaced")
    return lower


# --- the transports ---------------------------------------------------------------------------------------------------


@attrs.define(eq=False)
class BearerAuthTransport(Wrapper):
    """Adds a bearer token to each request."""

    kind: ClassVar[PolicyKind] = "auth"

    auth: BearerAuth
    memory: TokenCache = attrs.field(factory=TokenCache, kw_only=True, repr=False)
    """The token cache. Its own, unless you pass one to share."""

    async def _respond(self, exchange: OpenExchange, request: HTTPRequest) -> HTTPResponse:
        if "authorization" in {name.lower() for name in request.headers}:
            return await Layer.respond(self.inner, exchange, request)
        token = await _before_deadline(request, self._token(request), Outcome.NOT_SENT)
        response = await Layer.respond(self.inner, exchange, _with_token(request, token))
        if response.status != 401:
            return response
        body = await read_up_to(decompressed(response), REFUSAL_BYTES, deadline=anyio.current_time() + REFUSAL_SECONDS)
        await exchange.close_quietly()
        refreshed = await _before_deadline(request, self._token(request, refused=token), Outcome.REJECTED)
        if refreshed.value == token.value:
            return attrs.evolve(response, chunks=BufferedChunks(body))
        again = attrs.evolve(request, context=attrs.evolve(request.context, attempt=request.context.attempt + 1))
        return await Layer.respond(self.inner, exchange, _with_token(again, refreshed))

    async def _token(self, request: HTTPRequest, refused: CachedToken | None = None) -> CachedToken:
        auth = self.auth
        if auth.provider is None:
            return CachedToken(auth.token)
        if isinstance(auth.provider, FromEnv | FromFile):
            return CachedToken(check_token(await auth.provider()))
        return await self.memory.token(
            auth.provider, refresh_before=auth.refresh_before, context=request.context, refused=refused
        )


def _with_token(request: HTTPRequest, token: CachedToken) -> HTTPRequest:
    return _with_credentials(request, {"authorization": f"Bearer {token.value}"})


def _with_credentials(request: HTTPRequest, headers: Mapping[str, str]) -> HTTPRequest:
    """Add headers to a request, marked as credentials.

    Raises:
        ConfigurationError: one is `authorization`, which HTTP libraries also build from user information in the URL.
    """
    if "authorization" in headers and "@" in urlsplit(request.base_url).netloc:
        raise ConfigurationError("`auth=` and user information in the URL are two credentials: give only one of them")
    context = attrs.evolve(request.context, secret_headers=request.context.secret_headers | headers.keys())
    return attrs.evolve(request, headers={**request.headers, **headers}, context=context)


@attrs.define(eq=False)
class HeadersTransport(Wrapper):
    """Adds headers to each request, except those that it has already."""

    kind: ClassVar[PolicyKind] = "auth"

    auth: Headers | BasicAuth | APIKey

    async def _respond(self, exchange: OpenExchange, request: HTTPRequest) -> HTTPResponse:
        headers = _check_names(await _before_deadline(request, self.auth.headers(request), Outcome.NOT_SENT))
        own = {name.lower() for name in request.headers}
        added = {name: value for name, value in headers.items() if name not in own}
        return await Layer.respond(self.inner, exchange, _with_credentials(request, added))


@attrs.define(eq=False)
class BasicAuthTransport(HeadersTransport):
    """Adds a user name and password to each request."""


@attrs.define(eq=False)
class APIKeyTransport(HeadersTransport):
    """Adds an API key to each request."""


async def _before_deadline(request: HTTPRequest, secret: Awaitable[T], outcome: Outcome) -> T:
    """Await a secret, before the deadline of the call.

    Raises:
        OxyError: with `outcome`; the provider failed, or took longer.
    """
    try:
        with anyio.CancelScope(deadline=wait_deadline(request.context)):
            return await secret
        raise DeadlineExceededError("the provider of the credentials did not return before the deadline")
    except OxyError as error:
        error.outcome = outcome
        raise
