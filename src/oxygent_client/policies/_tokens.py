"""Tokens: read them, cache them, refresh them before they expire.

Rule 1: no secret stands in a repr, an error or the log; what a provider raised is named by its class alone.
Rule 2: a provider is never asked twice at once. One caller asks, in its own task, and all who wait share what comes of
    it, a failure too. If the caller who asks is cancelled, the next who waits takes over.
Rule 3: a token is not sent after its end. Its time is counted from the moment it was asked for, by the event loop's
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

from oxygent_client._core.errors import ConfigurationError, HandlerError, OxyError
from oxygent_client._core.log import log_event
from oxygent_client._core.per_loop import PerLoop
from oxygent_client._core.transport import Context

__all__ = [
    "FromEnv",
    "FromFile",
    "Issued",
    "SecretProvider",
    "Token",
    "TokenCache",
    "TokenProvider",
    "called",
    "checked",
]

SECRET_BYTES: Final = 64 * 1024
"""A file that is larger holds no secret, but something else."""
TOKEN: Final = re.compile(r"[\x21-\x7e]+")

SecretProvider: TypeAlias = Callable[[], Awaitable[str]]
"""Called and awaited each time the secret is used."""


def checked(value: object) -> str:
    """`value`, if it can be a token.

    Raises:
        ConfigurationError: it is no text of visible ASCII characters. The error does not show it.
    """
    if not isinstance(value, str) or not TOKEN.fullmatch(value):
        raise ConfigurationError("a token must be text: visible ASCII characters, no spaces, at least one")
    return value


def _token(_instance: object, _attribute: attrs.Attribute[Any], value: object) -> None:
    checked(value)


def _seconds(_instance: object, _attribute: attrs.Attribute[Any], value: object) -> None:
    if value is not None and (not isinstance(value, int | float) or math.isnan(value)):
        raise ConfigurationError(f"Token(expires_in={type(value).__name__}): must be a number of seconds, or None")


@attrs.frozen
class Token:
    """A token whose end may be known.

    Raises:
        ConfigurationError: `value` is no token, or `expires_in` no number.
    """

    value: str = attrs.field(repr=False, validator=_token)
    expires_in: float | None = attrs.field(default=None, kw_only=True, validator=_seconds)
    """Seconds until its end; None where that is not known."""


TokenProvider: TypeAlias = Callable[[], Awaitable[str | Token]]
"""Called and awaited when a token is needed. A `str` is a token whose end is not known."""


async def called(provider: Callable[..., Awaitable[object]], what: str, *args: object) -> object:
    """What the user's `provider` gives.

    Raises:
        HandlerError: it raised something of its own.
        OxyError: it raised one.
    """
    try:
        return await provider(*args)
    except OxyError:
        raise
    except Exception as error:  # it is the user's own, and may raise anything
        raise HandlerError(f"the {what} raised {type(error).__name__}") from error


# --- places outside the program ---------------------------------------------------------------------------------------


@attrs.frozen
class FromEnv:
    """The secret in an environment variable, as it is at the moment."""

    name: str

    async def __call__(self) -> str:
        secret = os.environ.get(self.name, "").strip()
        if not secret:
            raise ConfigurationError(f"the environment variable {self.name} is missing or empty")
        return secret


@attrs.frozen
class FromFile:
    """The secret in a file, as it is at the moment."""

    path: str

    async def __call__(self) -> str:
        # Abandoned: a file on a dead network drive must not hold up a cancellation.
        data = await anyio.to_thread.run_sync(self._read, abandon_on_cancel=True)
        try:
            secret = data.decode().strip()
        except UnicodeDecodeError:
            secret = ""  # raising here would drag the bytes along as a context
        if not secret or len(data) > SECRET_BYTES:
            raise ConfigurationError(f"the file {self.path!r} holds no secret: it is empty, too large or no UTF-8")
        return secret

    def _read(self) -> bytes:
        try:
            with Path(self.path).open("rb") as file:
                return file.read(SECRET_BYTES + 1)
        except (OSError, ValueError) as error:  # ValueError: a path with NUL
            raise ConfigurationError(f"the file {self.path!r} cannot be read: {type(error).__name__}") from error


# --- the cache --------------------------------------------------------------------------------------------------------


@attrs.frozen(eq=False)
class Issued:
    """A token as it was given out. Two that were given out one after the other differ, whatever their values."""

    value: str = attrs.field(repr=False)
    stale: float = math.inf
    """When to ask for the next, by the event loop's clock."""
    end: float = math.inf

    @classmethod
    def at(cls, asked: float, given: object, refresh_before: float) -> Issued:
        """What a provider that was asked at `asked` has given."""
        token = given if isinstance(given, Token) else Token(checked(given))
        if token.expires_in is None:
            return cls(token.value)
        # A token that lasts less than `refresh_before` would be stale from its birth, and be asked for by every call.
        early = refresh_before if refresh_before < token.expires_in else token.expires_in / 2
        return cls(token.value, asked + token.expires_in - early, asked + token.expires_in)


@attrs.define(eq=False)
class _Asking:
    """The provider is being asked."""

    done: anyio.Event = attrs.field(factory=anyio.Event)
    result: Issued | OxyError | None = None
    """None when it is done: who asked was cancelled."""


@attrs.define(eq=False)
class _Held:
    """What one event loop has."""

    issued: Issued | None = None
    asking: _Asking | None = None


class TokenCache:
    """The tokens of one provider, one for each event loop. Pickled or copied, it starts anew."""

    def __init__(self) -> None:
        self._held: PerLoop[_Held] = PerLoop()

    async def token(
        self, provider: TokenProvider, *, refresh_before: float, context: Context, refused: Issued | None = None
    ) -> Issued:
        """A token that has not ended. `refused` is one that the server does not take: another is asked for, once.

        Raises:
            OxyError: the provider failed, and there is no token that could be used instead.
        """
        held = self._held.get() or self._held.put(_Held())
        if refused is not None and held.issued is refused:
            held.issued = None
        while True:
            now, old = anyio.current_time(), held.issued
            if old is not None and (now < old.stale or (held.asking is not None and now < old.end)):
                return old
            asking = held.asking
            if asking is None:
                asking = held.asking = _Asking()
                await _ask(held, asking, provider, refresh_before)
            else:
                await asking.done.wait()
            now = anyio.current_time()
            if isinstance(asking.result, OxyError):
                if old is None or now >= old.end:
                    # One each: whoever gets it writes into it.
                    raise copy.copy(asking.result) from asking.result.__cause__
                cause = type(asking.result.__cause__ or asking.result).__name__
                log_event(
                    "warning", context, "the token could not be refreshed (%s); it is used on, until its end", cause
                )
                return old
            if asking.result is not None and now < asking.result.end:
                return asking.result

    def __reduce__(self) -> tuple[Any, ...]:
        return TokenCache, ()


async def _ask(held: _Held, asking: _Asking, provider: TokenProvider, refresh_before: float) -> None:
    """Ask the provider, and let those who wait know."""
    asked = anyio.current_time()
    try:
        issued = Issued.at(asked, await called(provider, "token provider"), refresh_before)
        if anyio.current_time() >= issued.end:
            raise ConfigurationError("the token provider gave a token that has ended already")
        asking.result = held.issued = issued
    except OxyError as error:
        asking.result = error
    finally:
        held.asking = None
        asking.done.set()
