"""Tokens: read them, cache them, refresh them before they expire.

Rule 1: no secret appears in a repr, an error or the log; an error of a provider is named by its class alone.
Rule 2: one token refresh at a time. One caller calls the provider, in its own task; all others wait for it and share
    the result, also a failure. If that caller is cancelled, the next one takes over.
Rule 3: a token is not sent after it expires. Its lifetime counts from the call of the provider, by the event loop's
    clock.
"""

from __future__ import annotations

import copy
import math
import os
import re
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, Final, TypeAlias

import anyio
import attrs

from oxygent_client._core.errors import ConfigurationError, OxyError
from oxygent_client._core.log import log_event
from oxygent_client._core.per_loop import PerLoop
from oxygent_client._core.transport import Context
from oxygent_client._core.user_code import user_code_errors

SECRET_BYTES: Final = 64 * 1024
"""A larger file is not a secret."""
TOKEN: Final = re.compile(r"[\x21-\x7e]+")

SecretProvider: TypeAlias = Callable[[], Awaitable[str]]
"""Called and awaited each time the secret is used."""


def check_token(value: object) -> str:
    """Return `value` if it can be a token.

    Raises:
        ConfigurationError: it is not a `str` of visible ASCII characters. The error does not show it.
    """
    if not isinstance(value, str) or not TOKEN.fullmatch(value):
        raise ConfigurationError("a token must be a non-empty str of visible ASCII characters, without spaces")
    return value


def _token(_instance: object, _attribute: attrs.Attribute[Any], value: object) -> None:
    check_token(value)


def _seconds(_instance: object, _attribute: attrs.Attribute[Any], value: object) -> None:
    if value is not None and (not isinstance(value, int | float) or math.isnan(value)):
        raise ConfigurationError(f"Token.expires_in must be a number of seconds or None; got {type(value).__name__}")


@attrs.frozen
class Token:
    """A token, with its lifetime where that is known.

    Raises:
        ConfigurationError: `value` is not a token, or `expires_in` not a number.
    """

    value: str = attrs.field(repr=False, validator=_token)
    expires_in: float | None = attrs.field(default=None, kw_only=True, validator=_seconds)
    """Seconds until it expires; None if unknown."""


TokenProvider: TypeAlias = Callable[[], Awaitable[str | Token]]
"""Called and awaited when a token is needed. A `str` is a token with unknown lifetime."""


async def call_provider(provider: Callable[..., Awaitable[object]], name: str, *args: object) -> object:
    """Return what the user's `provider` returns.

    Raises:
        HandlerError: it raised an exception of its own.
        OxyError: it raised one of ours.
    """
    with user_code_errors(f"the {name}", keep_oxy_errors=True):
        return await provider(*args)


# --- secrets outside the program --------------------------------------------------------------------------------------


@attrs.frozen
class FromEnv:
    """Provider that reads the secret from an environment variable at each use."""

    name: str

    async def __call__(self) -> str:
        secret = os.environ.get(self.name, "").strip()
        if not secret:
            raise ConfigurationError(f"the environment variable {self.name} is missing or empty")
        return secret


@attrs.frozen
class FromFile:
    """Provider that reads the secret from a file at each use."""

    path: str

    async def __call__(self) -> str:
        # Abandoned, so that a file on a dead network drive does not delay a cancellation.
        data = await anyio.to_thread.run_sync(self._read, abandon_on_cancel=True)
        try:
            secret = data.decode().strip()
        except UnicodeDecodeError:
            secret = ""  # raising here would keep the bytes as the error's context
        if not secret or len(data) > SECRET_BYTES:
            raise ConfigurationError(f"the file {self.path!r} holds no secret: it is empty, too large or not UTF-8")
        return secret

    def _read(self) -> bytes:
        try:
            with Path(self.path).open("rb") as file:
                return file.read(SECRET_BYTES + 1)
        except (OSError, ValueError) as error:  # ValueError: a path with NUL
            raise ConfigurationError(f"cannot read the file {self.path!r}: {type(error).__name__}") from error


# --- the cache --------------------------------------------------------------------------------------------------------


@attrs.frozen(eq=False)
class CachedToken:
    """A token from a provider. Compares by identity: a refresh may return an equal value."""

    value: str = attrs.field(repr=False)
    refresh_at: float = math.inf
    """When to refresh it, by the event loop's clock."""
    expires_at: float = math.inf

    @classmethod
    def from_provider(cls, called_at: float, given: object, refresh_before: float) -> CachedToken:
        """The result of a provider that was called at `called_at`."""
        token = given if isinstance(given, Token) else Token(check_token(given))
        if token.expires_in is None:
            return cls(token.value)
        # A token that lives shorter than `refresh_before` would need a refresh at once, for every call.
        early = refresh_before if refresh_before < token.expires_in else token.expires_in / 2
        return cls(token.value, called_at + token.expires_in - early, called_at + token.expires_in)


@attrs.define(eq=False)
class _Refresh:
    """A token refresh in progress."""

    done: anyio.Event = attrs.field(factory=anyio.Event)
    result: CachedToken | OxyError | None = None
    """None when done: the caller that refreshed was cancelled."""


@attrs.define(eq=False)
class _LoopTokens:
    """The token of one event loop."""

    current: CachedToken | None = None
    refresh: _Refresh | None = None


class TokenCache:
    """The tokens of one provider, one per event loop. A copy is empty."""

    def __init__(self) -> None:
        self._tokens: PerLoop[_LoopTokens] = PerLoop()

    async def token(
        self, provider: TokenProvider, *, refresh_before: float, context: Context, refused: CachedToken | None = None
    ) -> CachedToken:
        """A token that has not expired. `refused` is one that the server refused: it is refreshed once.

        Raises:
            OxyError: the provider failed, and no unexpired token is left.
        """
        tokens = self._tokens.get() or self._tokens.put(_LoopTokens())
        if refused is not None and tokens.current is refused:
            tokens.current = None
        while True:
            now, old = anyio.current_time(), tokens.current
            if old is not None and (now < old.refresh_at or (tokens.refresh is not None and now < old.expires_at)):
                return old
            refresh = tokens.refresh
            if refresh is None:
                refresh = tokens.refresh = _Refresh()
                await _run_refresh(tokens, refresh, provider, refresh_before)
            else:
                await refresh.done.wait()
            now = anyio.current_time()
            if isinstance(refresh.result, OxyError):
                if old is None or now >= old.expires_at:
                    # A copy for each caller: attributes are set on it.
                    raise copy.copy(refresh.result) from refresh.result.__cause__
                cause = type(refresh.result.__cause__ or refresh.result).__name__
                log_event(
                    "warning", context, "token refresh failed (%s); the old token is used until it expires", cause
                )
                return old
            if refresh.result is not None and now < refresh.result.expires_at:
                return refresh.result

    def __reduce__(self) -> tuple[Any, ...]:
        return TokenCache, ()


async def _run_refresh(tokens: _LoopTokens, refresh: _Refresh, provider: TokenProvider, refresh_before: float) -> None:
    """Call the provider and wake the waiting callers."""
    called_at = anyio.current_time()
    try:
        given = await call_provider(provider, "token provider")
        token = CachedToken.from_provider(called_at, given, refresh_before)
        if anyio.current_time() >= token.expires_at:
            raise ConfigurationError("the token provider returned a token that has expired")
        refresh.result = tokens.current = token
    except OxyError as error:
        refresh.result = error
    finally:
        tokens.refresh = None
        refresh.done.set()
